"""Editing with a trained model, with nothing to train: holes filled, images enlarged, coloured or varied.

What is known of an image x_0 is a measurement y = A x_0. Each function wraps a reverse process p or a sampler, as they
are in steps.py, so that the ways combine, with each other, with guidance and with every sampler.
"""

from collections import namedtuple
from itertools import islice

import numpy as np

from tinyddpm.backend import array_module, generator
from tinyddpm.diffusion.process import mu_from_x0, q_sample
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.generate import guided_process
from tinyddpm.sampling.samplers import SAMPLERS, choose_times
from tinyddpm.sampling.steps import last

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
    """p whose x_0 measures as y: what A sees of it is replaced (Song et al. 2021; Wang et al. 2023, DDNM, Eq. 13).

    The rest of x_0 does not know of it until it is noised together with it, so that the parts may not fit.
    """
    def q(xt, t):
        _, variance, x0 = p(xt, t)
        x0 = x0 + measurement.back(y - measurement.of(x0))
        return mu_from_x0(s, x0, xt, t), variance, x0

    return q


def reconstructed(p, s, measurement, y, scale=1.0, clip=True):
    """p whose x_0 moves to where y is likelier, by p.backward (Chung et al. 2023, DPS; Song et al. 2023, ΠGDM).

    p(y | x_t) is taken for a normal around A x_0 of variance (1 - alpha_bar) A A^T, which it is for data that are
    standard normal. Its score J^T back(y - A x_0) / (1 - alpha_bar), where J = dx_0 / dx_t, moves x_0 as a classifier's
    does. scale: how many times it counts. p must not clip: clip is done here, afterwards.
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
    """A sampler that goes back to where it was `jump` steps ago by adding noise, `repeats` times in all, and then on.

    So the known and the unknown part are fitted to each other again and again (Lugmayr et al. 2022, RePaint).
    """
    def sampler(p, s, x, rng, times, **options):
        for start in range(0, len(times), jump):
            end = [*times, 0][min(start + jump, len(times))]
            for again in range(repeats):
                if again:
                    x = noised(s, x, end, times[start], rng)
                for step in islice(run(p, s, x, rng, times[start:], **options), jump):
                    yield step
                    x = step.x

    return sampler


def noised(s, x, t, later, rng):
    """x at time t, with the noise that brings it to a later time (Eq. 4, from t on)."""
    kept = s.alpha_bar[later] / s.alpha_bar[t]
    noise = rng.standard_normal(x.shape, dtype=x.dtype)
    return per_sample(np.sqrt(kept), x) * x + per_sample(np.sqrt(1 - kept), x) * noise


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
         watch=lambda number: None, sampler="ddim", steps=None, spacing=None, clip=True, **how):
    """An answer for each of the data x0 (N, H, W, C): an array of that shape in which what is measured is as in x0.

    measurement: None for `varied` with this strength; the answer then has whatever outlived the noise
    method: one of METHODS; each ends with `replaced`, so that the answer measures as x0 does
    how: the options of the sampler, and the arguments of guided_process; watch(number) is called with each step
    Raises ValueError for reconstruction with a classifier, whose gradient would need a second derivative.
    """
    chosen, s = SAMPLERS[sampler], diffusion.make_schedule()
    options = {name: how.pop(name) for name in chosen.options if name in how}
    if method == "reconstruction" and measurement and how.get("classifier"):
        raise ValueError("reconstruction and a classifier cannot guide together: choose another method")
    rng, run, reconstructs = generator(seed, "edit"), chosen.run, bool(measurement) and method == "reconstruction"
    p = guided_process(model.eval(gradients=reconstructs), diffusion, clip=clip and not reconstructs, **how)
    times = choose_times(s, steps or min(chosen.steps or s.T, s.T), spacing or chosen.spacing)
    x = rng.standard_normal(x0.shape, dtype=x0.dtype)
    if measurement is None:
        x, times = varied(s, x0, times, strength, rng)
    else:
        y = measurement.of(x0)
        p = replaced(reconstructed(p, s, measurement, y, clip=clip) if reconstructs else p, s, measurement, y)
        run = resampled(run) if method == "resampling" else run

    def watched():
        for number, step in enumerate(run(p, s, x, rng, times, **options), 1):
            watch(number)
            yield step

    return last(watched())
