"""One training step, as the paper's Algorithm 1 with Adam, clipping and averaging around it."""

import math
import time
from collections import namedtuple
from contextlib import contextmanager

import numpy as np

from tinyddpm.backend import from_numpy, generator, state
from tinyddpm.diffusion import objective
from tinyddpm.nn import UNet
from tinyddpm.training.optimizer import Adam, LossScale
from tinyddpm.training.parallel import Alone

Result = namedtuple("Result", "step loss grad_norm")
SMALLEST_LOSS_SCALE = 2.0**-10


class Trainer:
    """A model in training. Everything random in step k comes from (seed, k), so a run can stop and go on anywhere.

    group: the processes that share the run (training/parallel.py); each has the same part of a batch.
    """

    def __init__(self, preset, group=None):
        self.preset, self.group = preset, group or Alone()
        self.schedule = preset.diffusion.make_schedule()
        self.model = UNet(preset.model, preset.training.seed).train()
        self.optimizer = Adam(self.model, preset.training)
        self.loss_scale = LossScale(state.xp) if state.precision == "fp16" else None
        self.steps_done = self.skipped = 0
        self.seconds = 0.0              # spent in training, over all of its sessions
        self._begun = []                # Results that the host has not waited for

    @property
    def progress(self):
        """The part of the run that lies behind, 0 to 1."""
        c = self.preset.training
        return self.seconds / (60 * c.minutes) if c.minutes else self.steps_done / c.steps

    def step(self, images, labels=None):
        """One whole step on uint8 images (N, H, W, C): noise, forward, backward, clip, Adam, EMA. Returns the loss.

        labels (N,) integers for a model with classes.
        Raises ValueError, and leaves the parameters alone, if the loss or the gradient is not finite. With the
        precision fp16 such a step is only counted, in `skipped`.
        """
        self.begin(images, labels)
        results, _ = self.results()
        return results[-1].loss

    def begin(self, images, labels=None):
        """A step whose loss the host does not wait for: `results` has it later. On a GPU many may be begun."""
        c, number = self.preset.training, self.steps_done + 1
        if images.dtype != np.uint8:
            raise ValueError(f"Trainer.step: the images are {images.dtype}; expected uint8")
        rng = generator(c.seed, "step", number)
        choices = np.random.default_rng([c.seed, number])          # small decisions, made on the host
        n = len(images)
        N, mine = n * self.group.size, slice(n * self.group.rank, n * (self.group.rank + 1))
        x0 = from_numpy(images).astype(np.float32) / 127.5 - 1
        if c.flip:
            mirrored = from_numpy(choices.random(N)[mine] < 0.5)[:, None, None, None]
            x0 = state.xp.where(mirrored, x0[:, :, ::-1], x0)
        inputs, diffusion = {}, self.preset.diffusion
        if self.preset.model.num_classes is not None:
            if labels is None:
                raise ValueError("Trainer.step: the model has classes; expected labels")
            inputs["labels"] = np.where(choices.random(N)[mine] < c.label_dropout, self.preset.model.num_classes, labels)
        t = objective.draw_times(self.schedule, diffusion.loss, N, choices)[mine]
        eps = rng.standard_normal((N, *x0.shape[1:]), dtype=np.float32)[mine]       # one batch, however many share it
        inputs["rng"] = rng if self.group.size == 1 else generator(c.seed, "step", number, self.group.rank)     # of dropout

        self.model.flat_grads.fill(0)
        loss_scale = self.loss_scale.scale if self.loss_scale else 1.0
        loss = objective.evaluate(self.model, self.schedule, x0, t, eps, diffusion.loss, diffusion.prediction, diffusion.variance,
                                  loss_scale, **inputs)
        self.group.average(self.model.flat_grads)
        # Of several ranks each knows its own loss alone: the averaged gradient decides for all, or they would part.
        norm = self.optimizer.update(number, self.progress, loss if self.group.size == 1 else 0.0, loss_scale)
        if self.loss_scale:
            self.loss_scale.update(norm)
        self.steps_done = number
        self._begun.append(Result(number, loss, norm))

    def results(self, stop=False, since=None):
        """The Results of the steps begun since the last call, losses as the mean of all ranks; and whether any rank wants to stop.

        since: the clock at the last call: what has passed is added to `seconds`, by rank 0 for all.
        Here, and only here, the host waits for the device.
        Raises ValueError, with its step, for a loss or a gradient that is not finite; in fp16 only when the loss scale
        that should help is exhausted.
        """
        begun, self._begun = self._begun, []
        losses = [float(r.loss) for r in begun]
        if since is not None:
            self.seconds += time.perf_counter() - since
        shared = np.array([*losses, stop, self.seconds * self.group.size * (self.group.rank == 0)])
        self.group.average(shared)
        *losses, stop, self.seconds = map(float, shared)
        results = [Result(r.step, loss, float(r.grad_norm)) for r, loss in zip(begun, losses)]
        for r in results:
            for what, value in (("loss", r.loss), ("gradient", r.grad_norm)):
                if not math.isfinite(value) and not self.loss_scale:
                    self.steps_done = r.step - 1
                    raise ValueError(f"the {what} is not finite ({value}) at step {r.step}")
        if self.loss_scale:
            self.skipped += sum(not math.isfinite(r.loss + r.grad_norm) for r in results)
            if float(self.loss_scale.scale) < SMALLEST_LOSS_SCALE:
                raise ValueError(f"the gradient overflows fp16 whatever its scale, up to step {self.steps_done}: choose --precision bf16")
        return results, stop > 0

    @contextmanager
    def averaged(self):
        """Within the block, the model has the averaged parameters and is in evaluation mode."""
        values = self.model.flat_values
        kept = values.copy()
        values[...] = self.optimizer.ema
        self.model.eval()
        try:
            yield self.model
        finally:
            values[...] = kept
            self.model.train()
