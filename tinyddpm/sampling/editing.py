"""Editing with a trained model, with nothing to train: holes filled, images enlarged, coloured or varied.

What is known of an image x_0 is a measurement y = A x_0. The functions wrap a reverse process p or a sampler, both as
in steps.py, and so can be combined with each other, with guidance and with every sampler.
"""

import itertools
from collections import namedtuple

import numpy as np

from tinyddpm.backend import array_module, generator
from tinyddpm.diffusion.process import mu_from_x0, q_sample
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.generate import BATCH, guided_process
from tinyddpm.sampling.samplers import SAMPLERS, choose_times
from tinyddpm.sampling.steps import noised

Measurement = namedtuple("Measurement", "of back")
Measurement.__doc__ = """A linear measurement A: of(x) = A x; back(y): the smallest x with A x = y (pseudo-inverse)."""


def masked(mask):
    """The pixels where mask (1, H, W, 1) is 1, which are known; the others are 0."""
    return Measurement(lambda x: mask * x, lambda y: mask * y)


def smaller(factor):
    """The mean of each square of factor x factor pixels: (N, H, W, C) -> (N, H / factor, W / factor, C)."""
    def of(x):
        N, H, W, C = x.shape
        return x.reshape(N, H // factor, factor, W // factor, factor, C).mean(axis=(2, 4))

    return Measurement(of, lambda y: y.repeat(factor, axis=1).repeat(factor, axis=2))


def grey(channels=3):
    """The mean of the channels: (N, H, W, channels) -> (N, H, W, 1)."""
    return Measurement(lambda x: x.mean(axis=-1, keepdims=True), lambda y: y.repeat(channels, axis=-1))


# ---- the ways ----

def replaced(p, s, measurement, y):
    """A reverse process like p whose x_0 agrees with y: the part that A measures is replaced (DDNM, Wang et al. 2023).

    The other part is formed as if y were known only through the noise of x_t: the two need not fit well.
    """
    def q(xt, t):
        _, variance, x0 = p(xt, t)
        x0 = x0 + measurement.back(y - measurement.of(x0))
        return mu_from_x0(s, x0, xt, t), variance, x0

    return q


def reconstructed(p, s, measurement, y, scale=1.0, clip=True):
    """A reverse process like p whose x_0 is moved to make y more likely (DPS, Chung et al. 2023; Song et al. 2023).

    p(y | x_t) is taken to be normal with mean A x_0 and covariance (1 - alpha_bar) A A^T, which is exact for standard
    normal data. Its score with respect to x_t is J^T back(y - A x_0) / (1 - alpha_bar), where J = dx_0 / dx_t, and
    p.backward multiplies by J^T. It moves x_0 as the score of a classifier does.

    scale: a factor of the score. p must not clip: that is done here, afterwards.
    """
    def q(xt, t):
        _, variance, x0 = p(xt, t)
        score = p.backward(measurement.back(y - measurement.of(x0)))
        x0 = x0 + per_sample(scale / np.sqrt(s.alpha_bar[t]), xt) * score
        if clip:
            x0 = array_module(x0).clip(x0, -1, 1)
        return mu_from_x0(s, x0, xt, t), variance, x0

    return q


def resampled(run, jump=5, repeats=5):
    """A sampler like `run` that walks every `jump` steps `repeats` times (RePaint, Lugmayr et al. 2022).

    Noise takes x back to where these steps began, so that the known and the unknown part can adapt to each other.
    """
    def sampler(p, s, x, rng, times, **options):
        for start in range(0, len(times), jump):
            end = [*times, 0][min(start + jump, len(times))]
            for again in range(repeats):
                if again:
                    x = noised(s, x, end, times[start], rng)
                for step in itertools.islice(run(p, s, x, rng, times[start:], **options), jump):
                    yield step
                    x = step.x

    return sampler


def varied(s, image, times, strength, rng):
    """x_t of an image at `strength` (0 to 1) of the way to noise, and the times left (SDEdit, Meng et al. 2022).

    Raises ValueError for any other strength.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"the strength is {strength}; expected more than 0, and at most 1")
    left = times[min(round((1 - strength) * len(times)), len(times) - 1):]
    return q_sample(s, image, left[0], rng.standard_normal(image.shape, dtype=image.dtype)), left


# ---- all together ----

METHODS = "replacement", "resampling", "reconstruction"


def edit(model, diffusion, x0, measurement=None, method="reconstruction", strength=0.5, seed=0,
         watch=lambda number: None, labels=None, sampler="ddim", steps=None, spacing=None, clip=True,
         **how):
    """An edited image for each of x0 (N, H, W, C), with the same measurement, in batches.

    measurement: None for `varied` with this strength: then only what the noise leaves of x0 is kept
    method: one of METHODS, each of which ends with `replaced`
    how: the options of the sampler, and the arguments of guided_process; watch(number) is called with each step
    labels: None, or (N,)
    Raises ValueError for reconstruction with a classifier, whose gradient would need a second derivative.
    """
    chosen, s = SAMPLERS[sampler], diffusion.make_schedule()
    options = {name: how.pop(name) for name in chosen.options if name in how}
    if method == "reconstruction" and measurement and how.get("classifier"):
        raise ValueError("reconstruction and a classifier cannot guide together: choose another method")
    reconstructs = bool(measurement) and method == "reconstruction"
    run = resampled(chosen.run) if measurement and method == "resampling" else chosen.run
    times = choose_times(s, steps or min(chosen.steps or s.T, s.T), spacing or chosen.spacing)
    model.eval(gradients=reconstructs)
    found, numbers = [], itertools.count(1)
    for start in range(0, len(x0), BATCH):
        batch, rng = slice(start, start + BATCH), generator(seed, "edit", start)
        p = guided_process(model, diffusion, None if labels is None else labels[batch], clip=clip and not reconstructs,
                           **how)
        x, left = rng.standard_normal(x0[batch].shape, dtype=x0.dtype), times
        if measurement is None:
            x, left = varied(s, x0[batch], times, strength, rng)
        else:
            y = measurement.of(x0[batch])
            p = replaced(reconstructed(p, s, measurement, y, clip=clip) if reconstructs else p, s, measurement, y)
        for step in run(p, s, x, rng, left, **options):
            watch(next(numbers))
        found.append(step.x)
    model.eval()
    return array_module(x0).concatenate(found)
