"""The likelihood of images under a trained model: the variational bound, and the ODE's estimate."""

import functools
import math

import numpy as np

from tinyddpm.backend import generator
from tinyddpm.data import scaled
from tinyddpm.diffusion import likelihood
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.progress import Progress
from tinyddpm.sampling import ode


def bound(model, preset, images, labels=None, times=None, seed=0, cdf="exact"):
    """The Bound (diffusion/likelihood.py) of uint8 images (N, H, W, C), given their labels (N,) if there are any.

    times, cdf: as for likelihood.evaluate
    Raises ValueError for fewer than two images, which have no standard error.
    """
    if len(images) < 2:
        raise ValueError("a standard error needs at least two images")
    p, s = functools.partial(reverse_process, model, preset.diffusion), preset.diffusion.make_schedule()
    progress = Progress()
    found = likelihood.evaluate(p() if labels is None else p, s, images, times, seed, cdf,
                                lambda number, total: progress.count("batch and time", number, total), labels)
    progress.close()
    return found


def ode_bits(model, preset, images, labels=None, seed=0, tolerance=1e-4):
    """Bits/dim (N,) of uint8 images (N, H, W, C) by the probability-flow ODE, given their labels (N,) if there are any.

    A byte is the interval around it, of which a point is drawn (uniform dequantization), and the divergence is
    Hutchinson's estimate: with both, the mean is a bound on the bits of the bytes.
    """
    found, progress, starts = [], Progress(), range(0, len(images), likelihood.BATCH)
    model.eval(gradients=True)
    for number, start in enumerate(starts):
        batch, rng = slice(start, start + likelihood.BATCH), generator(seed, "ode", start)
        x = scaled(images[batch])
        x = x + (rng.random(x.shape, dtype=x.dtype) * 2 - 1) * np.float32(likelihood.HALF_BIN)
        p = reverse_process(model, preset.diffusion, None if labels is None else labels[batch], clip=False)
        T, what = preset.diffusion.T, f"ODE, batch {number + 1} of {len(starts)}, t"
        nats = ode.log_likelihood(p, p.s, x, rng, tolerance, lambda t: progress.count(what, max(1, round(t)), T))
        found.append(-nats / x[0].size / math.log(2) - math.log2(2 * likelihood.HALF_BIN))
    progress.close()
    model.eval()
    return np.concatenate(found)
