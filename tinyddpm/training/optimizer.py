"""Adam with warm-up, learning-rate decay and norm clipping, and the moving average of the parameters."""

import math

import numpy as np

from tinyddpm import ops
from tinyddpm.backend import array_module


class Adam:
    """The optimizer's state for a model: flat buffers m, v (Adam's moments) and ema (the averaged parameters)."""

    def __init__(self, model, config):
        self.model, self.config = model, config
        xp = array_module(model.flat_values)
        self.m, self.v = xp.zeros_like(model.flat_values), xp.zeros_like(model.flat_values)
        self.ema = model.flat_values.copy()

    def learning_rate(self, step, progress):
        """The learning rate of step 1, 2, ... when the fraction `progress`, 0 to 1, of the run is done."""
        c = self.config
        falling = c.lr_final + (c.lr - c.lr_final) * (1 + math.cos(math.pi * min(progress, 1))) / 2
        return falling * min(1, step / max(c.warmup, 1))

    def update(self, step, lr, loss=0.0, loss_scale=1.0):
        """Clip the gradients, then update the parameters and their average.

        If the loss or the gradient is not finite, nothing changes.
        loss_scale: the factor by which the gradients are too large
        Returns the norm of the gradients before clipping. On a GPU it is an array that the host has not waited for.
        """
        c, model = self.config, self.model
        xp = array_module(model.flat_values)
        norm = xp.sqrt(ops.squared_norm(model.flat_grads).astype(np.float64)) / loss_scale
        clipped = xp.minimum(1, c.clip_norm / (norm + 1e-12)) / loss_scale
        scale = xp.where(xp.isfinite(norm) & xp.isfinite(loss), clipped, np.nan).astype(model.flat_values.dtype)
        # Early in a run, the average covers about the last ninth of its steps, so that it forgets the start.
        decay = min(c.ema_decay, step / (step + 9))
        ops.adam_ema(model.flat_values, model.flat_grads, self.m, self.v, self.ema, step, lr, c.adam_beta1,
                     c.adam_beta2, c.adam_eps, scale, decay)
        return norm


GROW_AFTER = 2000       # steps without an overflow


class LossScale:
    """The factor that lifts gradients above float16's smallest numbers (Micikevicius et al. 2018).

    It is halved when a gradient overflows, and that step is skipped. It is doubled after many steps without overflow.
    All values stay on the device.
    """

    def __init__(self, xp, scale=2.0**16, good=0):
        self.scale, self.good = xp.asarray(scale, np.float32), xp.asarray(good, np.float32)

    def update(self, norm):
        """Adjust the scale. norm: of the gradients, not finite if they overflowed"""
        xp = array_module(self.scale)
        finite, good = xp.isfinite(norm), self.good + 1
        grown = xp.where(good >= GROW_AFTER, 2 * self.scale, self.scale)
        self.scale = xp.where(finite, grown, self.scale / 2).astype(np.float32)
        self.good = xp.where(finite & (good < GROW_AFTER), good, 0).astype(np.float32)
