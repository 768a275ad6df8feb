"""Adam with warm-up, a falling learning rate and norm clipping, and the moving average of the parameters."""

import math

from tinyddpm.backend import array_module, ops


class Adam:
    """The optimizer's state for a model: flat buffers m, v (Adam's moments) and ema (the averaged parameters)."""

    def __init__(self, model, config):
        self.model, self.config = model, config
        xp = array_module(model.flat_values)
        self.m, self.v = xp.zeros_like(model.flat_values), xp.zeros_like(model.flat_values)
        self.ema = model.flat_values.copy()

    def learning_rate(self, step, progress):
        """For step 1, 2, ..., with progress, 0 to 1, the part of the run that lies behind."""
        c = self.config
        falling = c.lr_final + (c.lr - c.lr_final) * (1 + math.cos(math.pi * min(progress, 1))) / 2
        return falling * min(1, step / max(c.warmup, 1))

    def update(self, step, progress):
        """Clip the gradients, update parameters and average. Returns the gradients' norm; ValueError if not finite."""
        c, model = self.config, self.model
        norm = math.sqrt(float(model.flat_grads @ model.flat_grads))
        if not math.isfinite(norm):
            raise ValueError(f"the gradient is not finite ({norm}) at step {step}")
        scale = min(1, c.clip_norm / (norm + 1e-12))
        # The average reaches back over the last ninth of a young run, so that it forgets the start.
        decay = min(c.ema_decay, step / (step + 9))
        ops.adam_ema(model.flat_values, model.flat_grads, self.m, self.v, self.ema, step,
                     self.learning_rate(step, progress), c.adam_beta1, c.adam_beta2, c.adam_eps, scale, decay)
        return norm
