"""How fast the forward process adds noise: tables of beta_t, alpha_t and alpha_bar_t for t = 0..T."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tinyddpm.backend import array_module

LOG_SNR = math.log(1e4), math.log(4e-5)         # at both ends of linear


class Table(np.ndarray):
    """Values for t = 0..T. At real times t between them, values are interpolated linearly: table[2.5]."""

    def __getitem__(self, t):
        if isinstance(t, (float, np.ndarray)) and np.asarray(t).dtype.kind == "f":
            return np.interp(t, np.arange(len(self)), self)
        return np.asarray(self)[t]


@dataclass(frozen=True, eq=False)
class Schedule:
    """The tables of a forward process with T steps, from beta (T + 1,) in float64, beta[0] = 0.

    Index 0 stands for the data, so that the paper's t = 1..T are the indices, alpha_bar[0] = 1, and
    Eq. 7 needs no special case at t = 1. Solvers also need times in between: each table is a Table.
    """

    beta: np.ndarray

    def __post_init__(self):
        beta = self.beta
        if beta.ndim != 1 or len(beta) < 2 or beta.dtype != np.float64 or beta[0] != 0:
            raise ValueError("Schedule: beta must be a float64 table of length T + 1, T >= 1, with beta[0] = 0")
        if not np.all((0 < beta[1:]) & (beta[1:] < 1)):
            raise ValueError(f"Schedule: every beta must lie between 0 and 1; they are {beta[1:].min():.3g} to "
                             f"{beta.max():.3g}")
        object.__setattr__(self, "beta", beta.view(Table))

    @property
    def T(self):
        return len(self.beta) - 1

    @cached_property
    def alpha(self):
        """alpha_t = 1 - beta_t"""
        return 1 - self.beta

    @cached_property
    def alpha_bar(self):
        """alpha_bar_t = alpha_1 ... alpha_t: the fraction of the data's variance that remains at t (Eq. 4)"""
        return np.cumprod(self.alpha)

    @cached_property
    def beta_tilde(self):
        """beta_tilde_t, the variance of q(x_{t-1} | x_t, x_0), Eq. 7; 0 at t = 1, where x_{t-1} is x_0"""
        table = np.zeros_like(self.beta)
        table[1:] = (1 - self.alpha_bar[:-1]) / (1 - self.alpha_bar[1:]) * self.beta[1:]
        return table

    @cached_property
    def snr(self):
        """The signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t); infinite at t = 0"""
        return np.append(np.inf, self.alpha_bar[1:] / (1 - self.alpha_bar[1:])).view(Table)

    def time(self, alpha_bar):
        """The real time t in 0..T with this alpha_bar: alpha_bar[t], the other way round."""
        return np.interp(alpha_bar, self.alpha_bar[::-1], np.arange(self.T, -1, -1))

    def variance(self, kind):
        """sigma_t^2 of the reverse process: "large" is beta_t, "small" is beta_tilde_t (section 3.2).

        At t = 1, for the decoder (Eq. 13), both use beta_tilde_2, as the authors do.
        """
        if kind not in ("large", "small"):
            raise ValueError(f"the variance is {kind!r}; expected large (beta_t) or small (beta_tilde_t)")
        table = (self.beta if kind == "large" else self.beta_tilde).copy()
        if self.T > 1:
            table[1] = self.beta_tilde[2]
        return table


def per_sample(values, x):
    """Values of a table, one for all samples or (N,), one for each, as a factor for x, in the type of x."""
    values = np.asarray(values, x.dtype)
    return array_module(x).asarray(values.reshape(values.shape + (1,) * (x.ndim - 1)) if values.ndim else values)


def linear(T=1000, beta_1=1e-4, beta_T=0.02):
    """beta from beta_1 to beta_T in equal steps: the paper's schedule, designed for T = 1000."""
    return from_betas(np.linspace(beta_1, beta_T, T))


def quadratic(T=1000, beta_1=1e-4, beta_T=0.02):
    """sqrt(beta) from sqrt(beta_1) to sqrt(beta_T) in equal steps."""
    return from_betas(np.linspace(beta_1**0.5, beta_T**0.5, T) ** 2)


def constant(T=1000, beta=0.01):
    """The same beta at every step."""
    return from_betas(np.full(T, beta))


def cosine(T=1000, offset=0.008, largest=0.999):
    """alpha_bar falls like a squared cosine (Nichol and Dhariwal 2021), with beta at most `largest`."""
    return from_alpha_bar(np.cos((np.arange(T + 1) / T + offset) / (1 + offset) * np.pi / 2) ** 2, largest)


def sigmoid(T=1000, start=-3.0, end=3.0, largest=0.999):
    """alpha_bar falls like a sigmoid from start to end (Jabri et al. 2023), with beta at most `largest`."""
    f = 1 / (1 + np.exp(np.linspace(start, end, T + 1)))
    return from_alpha_bar(f - f[-1], largest)


def logarithmic(T=1000, shares=(1,)):
    """log SNR falls from its value at the first step of linear to that at the last (Kingma et al. 2021).

    shares: of the steps, for each of as many pieces of the way, equally high; by default all steps are equal
    """
    log_snr = np.interp(np.linspace(0, 1, T), *pieces(shares))
    return from_alpha_bar(np.append(1.0, 1 / (1 + np.exp(-log_snr))))


def pieces(shares):
    """Where the pieces of `logarithmic` meet: the share of the steps before, and log SNR, both (K + 1,)."""
    return np.append(0.0, np.cumsum(shares) / np.sum(shares)), np.linspace(*LOG_SNR, len(shares) + 1)


def straight(T=1000):
    """x_t in proportion to (1 - u) x_0 + u eps, with u in equal steps from 0 (rectified flow, Liu et al. 2023).

    In these coordinates x_t is divided by sqrt((1 - u)^2 + u^2), so that Eq. 4 holds. At T, u is T / (T + 1).
    """
    u = np.arange(T + 1) / (T + 1)
    return from_alpha_bar((1 - u)**2 / ((1 - u)**2 + u**2))


def from_alpha_bar(f, largest=1.0):
    """The schedule whose alpha_bar is in proportion to f (T + 1,), with beta at most `largest`."""
    return from_betas(np.minimum(1 - f[1:] / f[:-1], largest))


def from_betas(betas):
    """The schedule with these beta_1..beta_T."""
    return Schedule(np.append(0.0, betas))


SCHEDULES = {           # name -> the Schedule of a DiffusionConfig c
    "linear": lambda c: linear(c.T, c.beta_1, c.beta_T),
    "quadratic": lambda c: quadratic(c.T, c.beta_1, c.beta_T),
    "constant": lambda c: constant(c.T, c.beta_T),
    "cosine": lambda c: cosine(c.T),
    "sigmoid": lambda c: sigmoid(c.T),
    "logarithmic": lambda c: logarithmic(c.T),
    "straight": lambda c: straight(c.T),
    "learned": lambda c: logarithmic(c.T, c.shares),
}
