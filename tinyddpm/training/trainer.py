"""One training step: the paper's Algorithm 1 with Adam, gradient clipping and parameter averaging."""

import math
from collections import namedtuple
from contextlib import contextmanager

import numpy as np

from tinyddpm import nn, plots
from tinyddpm.backend import from_numpy, generator, state
from tinyddpm.data import scaled
from tinyddpm.diffusion import objective
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.sampling.generate import by_class, generate
from tinyddpm.training.optimizer import Adam, LossScale
from tinyddpm.training.parallel import Alone

Result = namedtuple("Result", "step loss grad_norm lr")
SMALLEST_LOSS_SCALE = 2.0**-10
GRID = 36               # images in a sample grid drawn during a run


class Trainer:
    """A model in training. Everything random in step k depends on (seed, k) alone, so a run can be resumed at any step.

    group: the processes that share the run (training/parallel.py); each has a part of every batch, all of equal size.
    lesson: None, or what takes the place of the images and their noise (training/distill.py)
    """

    config = DiffusionConfig            # of the process that it trains
    lesson = None

    def __init__(self, preset, group=None):
        self.preset, self.group = preset, group or Alone()
        self.schedule = preset.diffusion.make_schedule()
        self.model = nn.build(preset.model, preset.training.seed).train()
        self.optimizer = Adam(self.model, preset.training)
        self.loss_scale = LossScale(state.xp) if state.precision == "fp16" else None
        self.steps_done = self.skipped = 0
        self.fingerprint = None         # of the data set, once it is known
        self.seconds = 0.0              # spent in training, over all sessions of the run
        self._begun = []                # Results that the host has not waited for

    @property
    def progress(self):
        """The fraction of the run that is done, 0 to 1."""
        c = self.preset.training
        return self.seconds / (60 * c.minutes) if c.minutes else self.steps_done / c.steps

    def step(self, images, labels=None):
        """One whole step on uint8 images (N, H, W, C): noise, forward, backward, clip, Adam, EMA. Returns the loss.

        labels (N,) integers for a model with classes.
        Raises ValueError, and leaves the parameters unchanged, if the loss or the gradient is not finite. With
        precision fp16, such a step is only counted, in `skipped`.
        """
        self.begin(images, labels)
        return self.results()[-1].loss

    def begin(self, images, labels=None):
        """Start a step without waiting for its loss, which `results` returns later. A GPU can be many steps behind."""
        number = self.steps_done + 1
        x0, t, eps, inputs = self.draw(number, images, labels)
        self.model.flat_grads.fill(0)
        loss_scale = self.loss_scale.scale if self.loss_scale else 1.0
        loss = self.loss(x0, t, eps, loss_scale, inputs)
        self.group.average(self.model.flat_grads)
        # Of several ranks, each knows only its own loss: the averaged gradient decides for all, or they would diverge.
        lr = self.optimizer.learning_rate(number, self.progress)
        norm = self.optimizer.update(number, lr, loss if self.group.size == 1 else 0.0, loss_scale)
        if self.loss_scale:
            self.loss_scale.update(norm)
        self.steps_done = number
        self._begun.append(Result(number, loss, norm, lr))

    def draw(self, number, images, labels):
        """The random part of step `number`: x0, flipped or not, t, eps, and the model's other inputs.

        Everything is drawn for the whole batch, of which each rank takes its part: the number of ranks changes nothing.
        """
        c, classes = self.preset.training, self.preset.model.num_classes
        if images.dtype != np.uint8:
            raise ValueError(f"Trainer.step: the images are {images.dtype}; expected uint8")
        if classes is not None and labels is None:
            raise ValueError("Trainer.step: the model has classes; expected labels")
        rng = generator(c.seed, "step", number)
        choices = np.random.default_rng([c.seed, number])          # small decisions, made on the host
        n, rank, size = len(images), self.group.rank, self.group.size
        N, mine = n * size, slice(n * rank, n * (rank + 1))
        x0, inputs = scaled(images), {}
        if c.flip:
            mirrored = from_numpy(choices.random(N)[mine] < 0.5)[:, None, None, None]
            x0 = state.xp.where(mirrored, x0[:, :, ::-1], x0)
        if classes is not None:
            inputs["labels"] = np.where(choices.random(N)[mine] < c.label_dropout, classes, labels)
        t = objective.draw_times(self.schedule, self.preset.diffusion.loss, N, choices)[mine]
        eps = rng.standard_normal((N, *x0.shape[1:]), dtype=np.float32)[mine]
        if self.lesson:
            x0, t, eps = self.lesson(choices, x0, eps, inputs)
        inputs["rng"] = rng if size == 1 else generator(c.seed, "step", number, rank)              # of dropout
        return x0, t, eps, inputs

    def loss(self, x0, t, eps, loss_scale, inputs):
        """The loss of what `draw` returned; its gradient is added to the model's."""
        d = self.preset.diffusion
        return objective.loss_and_gradient(self.model, self.schedule, x0, t, eps, d.loss, d.prediction, d.variance,
                                           loss_scale, **inputs)

    def results(self):
        """The Results of the steps started since the last call, with losses averaged over the ranks.

        Only here does the host wait for the device.
        Raises ValueError, naming the step, for a loss or a gradient that is not finite; in fp16 only when the loss
        scale has become too small.
        """
        begun, self._begun = self._begun, []
        losses = np.array([float(r.loss) for r in begun])
        self.group.average(losses)
        results = [r._replace(loss=float(loss), grad_norm=float(r.grad_norm)) for r, loss in zip(begun, losses)]
        finite = [math.isfinite(r.loss + r.grad_norm) for r in results]
        if self.loss_scale:
            self.skipped += finite.count(False)
            if float(self.loss_scale.scale) < SMALLEST_LOSS_SCALE:
                raise ValueError(f"the gradient overflows fp16 at every loss scale, up to step {self.steps_done}: "
                                 "choose --precision bf16")
        elif not all(finite):
            r = results[finite.index(False)]
            self.steps_done = r.step - 1
            what, value = ("gradient", r.grad_norm) if math.isfinite(r.loss) else ("loss", r.loss)
            raise ValueError(f"the {what} is not finite ({value}) at step {r.step}")
        return results

    def agree(self, stop, elapsed):
        """Add elapsed seconds to the clock; all ranks adopt that of rank 0. Returns whether any rank wants to stop."""
        votes, clock = np.array([float(stop)]), np.array([self.seconds + elapsed])
        self.group.average(votes)
        self.group.broadcast(clock)
        self.seconds = float(clock[0])
        return votes[0] > 0

    def save_samples(self, stem):
        """Write a grid of samples of the averaged model, by DDIM, to stem.png. Returns the path."""
        preset = self.preset
        count, labels, columns = by_class(preset.labels, GRID)
        how = preset.sampling.arguments(preset.diffusion.T, labels) | dict(sampler="ddim", steps=None, spacing=None)
        with self.averaged() as model:
            images = generate(model, preset.diffusion, count, preset.training.seed, **how)
        path = stem.with_name(stem.name + ".png")
        plots.save_png(path, plots.grid(plots.to_uint8(images), columns))
        return path

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
