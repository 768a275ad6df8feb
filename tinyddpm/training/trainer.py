"""One training step, as the paper's Algorithm 1 with Adam, clipping and averaging around it."""

import math
from contextlib import contextmanager

import numpy as np

from tinyddpm.backend import from_numpy, generator
from tinyddpm.diffusion import objective
from tinyddpm.nn import UNet
from tinyddpm.training.optimizer import Adam


class Trainer:
    """A model in training. Everything random in step k comes from (seed, k), so a run can stop and go on anywhere."""

    def __init__(self, preset):
        self.preset = preset
        self.schedule = preset.diffusion.make_schedule()
        self.model = UNet(preset.model, preset.training.seed).train()
        self.optimizer = Adam(self.model, preset.training)
        self.steps_done = 0
        self.seconds = 0.0              # spent in training, over all of its sessions
        self.grad_norm = math.nan       # of the last step, before clipping

    @property
    def progress(self):
        """The part of the run that lies behind, 0 to 1."""
        c = self.preset.training
        return self.seconds / (60 * c.minutes) if c.minutes else self.steps_done / c.steps

    def step(self, images, labels=None):
        """One whole step on uint8 images (N, H, W, C): noise, forward, backward, clip, Adam, EMA. Returns the loss.

        labels (N,) integers for a model with classes.
        Raises ValueError, and leaves the parameters alone, if the loss or the gradient is not finite.
        """
        c, number = self.preset.training, self.steps_done + 1
        if images.dtype != np.uint8:
            raise ValueError(f"Trainer.step: the images are {images.dtype}; expected uint8")
        rng = generator(c.seed, "step", number)
        choices = np.random.default_rng([c.seed, number])          # small decisions, made on the host
        N = len(images)
        x0 = from_numpy(images).astype(np.float32) / 127.5 - 1
        if c.flip:
            mirrored = from_numpy(choices.random(N) < 0.5)
            x0[mirrored] = x0[mirrored][:, :, ::-1]
        inputs, diffusion = {"rng": rng}, self.preset.diffusion
        if self.preset.model.num_classes is not None:
            if labels is None:
                raise ValueError("Trainer.step: the model has classes; expected labels")
            inputs["labels"] = np.where(choices.random(N) < c.label_dropout, self.preset.model.num_classes, labels)
        t = objective.draw_times(self.schedule, diffusion.loss, N, choices)
        eps = rng.standard_normal(x0.shape, dtype=np.float32)

        self.model.flat_grads.fill(0)
        loss = float(objective.evaluate(self.model, self.schedule, x0, t, eps, diffusion.loss, diffusion.prediction,
                                        diffusion.variance, **inputs))
        if not math.isfinite(loss):
            raise ValueError(f"the loss is not finite ({loss}) at step {number}")
        self.grad_norm = self.optimizer.update(number, self.progress)
        self.steps_done = number
        return loss

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
