"""Data whose perfect network is known: clouds, each a Gaussian with the same spread in all directions."""

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


def density(x, alpha_bar, means, sigma, weights=WEIGHTS):
    """Of x_t, numbers, where x_0 is one of the means with noise of standard deviation sigma."""
    variance = alpha_bar * sigma**2 + 1 - alpha_bar
    each = np.exp(-(x[:, None] - np.sqrt(alpha_bar) * means)**2 / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return each @ np.array(weights)
