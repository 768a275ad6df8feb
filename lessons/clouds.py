"""Data whose perfect network is known: clouds, each a Gaussian with the same spread in all directions."""

import math

import numpy as np

from tinyddpm.diffusion import process

MEANS = np.array([[-1.5, 0.0], [1.0, 1.2], [1.0, -1.2]])
WEIGHTS = (0.5, 0.3, 0.2)
SIGMA = 0.15


def perfect_x0(s, means=MEANS, sigma=SIGMA, weights=WEIGHTS):
    """E[x_0 | x_t], as a function of xt (N, D) and t (N,), for clouds of standard deviation sigma."""
    def x0(xt, t):
        a = s.alpha_bar[t[0]]
        away, variance = xt[:, None] - np.sqrt(a) * means, a * sigma**2 + 1 - a
        log = np.log(weights) - (away**2).sum(axis=2) / (2 * variance)
        share = np.exp(log - log.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        eps = np.sqrt(1 - a) / variance * (share[:, :, None] * away).sum(axis=1)
        return process.x0_from_eps(s, xt, t, eps)
    return x0


def reverse(s, x0):
    """The reverse process p(xt, t) of a function that gives x_0."""
    return lambda xt, t: process.p_mean_variance(s, x0(xt, t), xt, t, clip=False)


class Differences:
    """A reverse process whose backward takes differences of its x_0: slow, and needs no network."""

    def __init__(self, p):
        self.p = p

    def __call__(self, xt, t):
        self.last = xt, t
        return self.p(xt, t)

    def backward(self, dx0, h=1e-4):
        xt, t = self.last
        return np.stack([(dx0 * (self.p(xt + h * e, t)[2] - self.p(xt - h * e, t)[2])).sum(axis=1) / (2 * h)
                         for e in np.eye(xt.shape[1])], axis=1)


def density(x, alpha_bar, means, sigma, weights=WEIGHTS):
    """Of x_t, numbers, where x_0 is one of the means with noise of standard deviation sigma."""
    variance = alpha_bar * sigma**2 + 1 - alpha_bar
    each = np.exp(-(x[:, None] - np.sqrt(alpha_bar) * means)**2 / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return each @ np.array(weights)


def arrive(s, y, t, after, means, sigma, weights):
    """Where the ODE leads y = x_t / sqrt(alpha_bar), numbers: to those with as large a share of the data below them."""
    def below(y, t):
        spread = np.sqrt(sigma**2 + 1 / s.alpha_bar[t] - 1)
        return np.vectorize(math.erfc)((means - y[:, None]) / spread / math.sqrt(2)) / 2 @ np.array(weights)

    share, low, high = below(y, t), np.full_like(y, -500), np.full_like(y, 500)
    for _ in range(60):                                     # bisection
        middle = (low + high) / 2
        less = below(middle, after) < share
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return middle
