"""The likelihood of images under a trained model: the variational bound, and the ODE's estimate."""

import functools
import math

import numpy as np

from tinyddpm.backend import generator, to_numpy
from tinyddpm.data import scaled
from tinyddpm.diffusion import learned, likelihood, schedule
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.diffusion.process import eps_from_x0, q_sample
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


def learned_shares(model, preset, images, labels=None, seed=0, count=4096):
    """The shares (K,) of a schedule that is learned for this model, in thousandths: see diffusion/learned.py.

    Returns also the mean and the standard deviation of l, the bound's estimate from one time and one image, in
    bits/dim, along the model's own schedule and along the learned one, from `count` estimates each.
    images: uint8 (N, H, W, C), given their labels (N,) if there are any
    """
    s, rng, host = preset.diffusion.make_schedule(), generator(seed, "schedule"), np.random.default_rng(seed)

    def error(log_snr):
        chosen, t = host.integers(len(images), size=len(log_snr)), s.time(1 / (1 + np.exp(-log_snr))).clip(1)
        x0 = scaled(images[chosen])
        eps = rng.standard_normal(x0.shape, dtype=x0.dtype)
        xt = q_sample(s, x0, t, eps)
        p = reverse_process(model, preset.diffusion, None if labels is None else labels[chosen], clip=False)
        found = eps_from_x0(s, p(xt, t)[2], xt, t)
        return to_numpy(((found - eps)**2).reshape(len(x0), -1).mean(axis=1)).astype(np.float64)

    progress, batch = Progress(), likelihood.BATCH
    shares = learned.learn_shares(error, host, batch=batch,
                                  watch=lambda step, steps: progress.count("learning the schedule, step", step, steps))
    shares, found = np.maximum(1, np.rint(1000 * shares)).astype(int), []
    own = np.diff(s.time(1 / (1 + np.exp(-schedule.pieces(shares)[1]))).clip(1)) + 1e-6
    for name, one in (("own", own), ("learned", shares)):
        parts = [learned.estimates(one, error, host.random(batch))[0] for _ in range(-(-count // batch))]
        l = np.concatenate(parts) / math.log(2)
        found.append((l.mean(), l.std()))
    progress.close()
    return shares.tolist(), *found
