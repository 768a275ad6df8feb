"""The samplers by name, and the times at which they evaluate the network."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinyddpm.sampling.solvers import dpm_2, dpmpp_2m, edm, heun, plms, rk45
from tinyddpm.sampling.steps import consistency, ddim, ddpm, spread

LARGEST_SIGMA = 80.0        # EDM's: what has more noise than that is nothing but noise


class Sampler(NamedTuple):
    """A sampler: its printed name, the function, and what it is used with unless flags say otherwise.

    steps: None for one that visits all T times, or finds its own
    evaluations: of the network in K steps, as a function of K; None where only the run tells
    spacing: of the times, a name in SPACINGS
    """
    title: str
    run: Callable
    steps: int | None
    evaluations: Callable | None = lambda K: K
    spacing: str = "even"

    @property
    def options(self):
        """The options of the function: name -> default."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}


SAMPLERS = {
    "ddpm": Sampler("Algorithm 2", ddpm, None),
    "ddim": Sampler("DDIM", ddim, 50),
    "heun": Sampler("Heun", heun, 10, lambda K: 2 * K - 1, "sigma"),
    "edm": Sampler("EDM", edm, 10, lambda K: 2 * K - 1, "sigma"),
    "plms": Sampler("PLMS", plms, 20, lambda K: K + (K > 1), "sigma"),
    "dpmpp_2m": Sampler("DPM-Solver++(2M)", dpmpp_2m, 20, spacing="logsnr"),
    "dpm_2": Sampler("DPM-Solver++(2S)", dpm_2, 10, lambda K: 2 * K - 1, "logsnr"),
    "consistency": Sampler("consistency", consistency, 2, spacing="strides"),
    "rk45": Sampler("RK45", rk45, None, None),
}
OPTIONS = {name: default for sampler in SAMPLERS.values() for name, default in sampler.options.items()}

SPACINGS = {        # name -> times for u from 1 to 0, noise to data, not yet whole numbers
    "even": lambda s, u: 1 + (s.T - 1) * u,
    "strides": None,                                                    # T, T - T / K, ..., T / K: see choose_times
    "quadratic": lambda s, u: 1 + (s.T - 1) * u**2,                                         # denser near the data
    "logsnr": lambda s, u: _of_sigma(s, _sigma(s)[0]**u * _sigma(s)[1]**(1 - u)),
    "sigma": lambda s, u: _of_sigma(s, (u * _sigma(s)[0]**(1 / 7) + (1 - u) * _sigma(s)[1]**(1 / 7))**7),   # EDM, Eq. 5
}


def choose_times(s, steps, spacing="even"):
    """`steps` different times, descending to 1, with a spacing of SPACINGS: even, or denser near the data.

    logsnr and sigma start where noise / signal is 80, if it gets so far. Strides are equal, that to 0 as well, and not
    rounded. Raises ValueError for more than T.
    """
    if spacing == "even":
        return spread(s.T, steps)
    if spacing not in SPACINGS:
        raise ValueError(f"spacing is {spacing!r}; expected {', '.join(SPACINGS)}")
    if not 1 <= steps <= s.T:
        raise ValueError(f"steps is {steps}; expected 1 to T = {s.T}")
    if spacing == "strides":
        return [s.T * k / steps for k in range(steps, 0, -1)]
    t, k = np.round(SPACINGS[spacing](s, np.linspace(0, 1, steps) if steps > 1 else np.ones(1))), np.arange(steps)
    t = np.minimum(np.maximum.accumulate(t - k), s.T + 1 - steps) + k           # ascending, no time twice
    return [int(one) for one in t[::-1]]


def _sigma(s):
    """The largest and the smallest noise / signal of the spacings."""
    largest, smallest = np.sqrt(1 / s.alpha_bar[[s.T, 1]] - 1)
    return min(largest, max(LARGEST_SIGMA, smallest)), smallest


def _of_sigma(s, sigma):
    return s.time(1 / (1 + sigma**2))
