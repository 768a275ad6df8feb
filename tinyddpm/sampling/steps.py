"""From noise to data, step by step: the paper's Algorithm 2, and DDIM, which takes fewer steps.

All samplers share the signature sampler(p, s, x, rng, times, **options) and yield a Step for each step, so that the
caller can watch, draw or stop; `last` runs a sampler to its end.

p: the reverse process, p(xt, t) -> mean, variance, x0 for t (N,), see diffusion/prediction.py
s: the Schedule; x (N, ...): x_t at the first of the times, standard normal noise at T
rng: the generator of the noise of each step; times: at which the network is evaluated, descending to 1
"""

from collections import namedtuple

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.process import eps_from_x0, q_sample
from tinyddpm.diffusion.schedule import per_sample

Step = namedtuple("Step", "t x x0")
Step.__doc__ = """After a step from time t: x, the new, less noisy image, and x0, the estimate of the clean data."""


def ddpm(p, s, x, rng, times):
    """Algorithm 2. Raises ValueError unless the times descend one by one to 1."""
    times = list(times)
    if times != list(range(len(times), 0, -1)):
        raise ValueError(f"ddpm: {len(times)} times from {times[0]} on; Algorithm 2 visits every t down to 1")
    for t in times:
        x, sigma2, x0 = p(x, np.full(len(x), t))                        # the mean; z = 0 at t = 1
        if t > 1:
            x = x + array_module(x).sqrt(sigma2) * rng.standard_normal(x.shape, dtype=x.dtype)     # Algorithm 2, line 4
        yield Step(t, x, x0)


def ddim(p, s, x, rng, times, eta=0.0):
    """DDIM (Song, Meng, Ermon 2020, their Eq. 12). The last step goes from the last time to the data.

    eta: 0 to 1, scales the noise of each step: with 0 the result is a function of x, with 1 the
        steps are Algorithm 2's with the small variance. Raises ValueError for any other value.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"ddim: eta is {eta}; expected 0 to 1")
    for t, previous in pairs(times):
        _, _, x0 = p(x, np.full(len(x), t))
        eps = eps_from_x0(s, x0, x, t)
        alpha_bar, alpha_bar_previous = s.alpha_bar[t], s.alpha_bar[previous]
        sigma = eta * np.sqrt((1 - alpha_bar_previous) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_previous))
        x = (per_sample(np.sqrt(alpha_bar_previous), x) * x0
             + per_sample(np.sqrt(1 - alpha_bar_previous - sigma**2), x) * eps)
        if sigma > 0:
            x = x + per_sample(sigma, x) * rng.standard_normal(x.shape, dtype=x.dtype)
        yield Step(t, x, x0)


def consistency(p, s, x, rng, times):
    """For models whose x_0 is the same all along a path (Song et al. 2023): to x_0, and back by new noise."""
    for t, previous in pairs(times):
        _, _, x0 = p(x, np.full(len(x), t))
        x = q_sample(s, x0, previous, rng.standard_normal(x.shape, dtype=x.dtype)) if previous else x0
        yield Step(t, x, x0)


def noised(s, x, t, later, rng):
    """x at time t, with the noise that brings it to a later time (Eq. 4, from t on)."""
    kept = s.alpha_bar[later] / s.alpha_bar[t]
    noise = rng.standard_normal(x.shape, dtype=x.dtype)
    return per_sample(np.sqrt(kept), x) * x + per_sample(np.sqrt(1 - kept), x) * noise


def pairs(times):
    """Each time with the next; the last with 0, the data."""
    return zip(times, [*times[1:], 0])


def spread(T, steps):
    """`steps` times spread evenly from T down to 1, both included. Raises ValueError for more than T."""
    if not 1 <= steps <= T:
        raise ValueError(f"steps is {steps}; expected 1 to T = {T}")
    return [int(t) for t in np.round(np.linspace(T, 1, steps))]


def last(steps):
    """The result of a sampler: x after its last step."""
    for step in steps:
        pass
    return step.x
