"""A schedule learned for a trained network: the same bound, estimated with less variance (Kingma et al. 2021, VDM).

In continuous time the bound on the negative log likelihood is, but for its ends, the mean over u in 0..1 of

    l = -lambda'(u) |eps - eps_hat|^2 / 2

where lambda = log SNR falls with u. Only the ends of lambda change the mean; the variance depends on all of it. Here
lambda falls by the same height in each of K pieces, to which go the shares p = softmax(theta) of the time u, so that
l = (height / p_k) |eps - eps_hat|^2 / 2 in piece k.
"""

import numpy as np

from tinyddpm import ops
from tinyddpm.diffusion.schedule import pieces


def estimates(shares, error, u):
    """l (N,) at the times u (N,), and the numbers of their pieces (N,).

    error(log_snr): |eps - eps_hat|^2, the mean over dimensions, of some data at these log SNR (N,)
    """
    ends, log_snr = pieces(shares)
    numbers = np.clip(np.searchsorted(ends, u, side="right") - 1, 0, len(shares) - 1)
    slopes = np.diff(log_snr) / np.diff(ends)
    return -slopes[numbers] * error(np.interp(u, ends, log_snr)) / 2, numbers


def variance_gradient(theta, l, numbers):
    """The gradient of log E[l^2] with respect to theta (K,), from l (N,) at uniform times, in these pieces (N,).

    E[l^2] is a sum of integrals over lambda, that over piece k with p_k in its denominator, and no other share. So
    dE / dp_k = -E[l^2 in piece k] / p_k, and dE / dtheta_k = p_k E[l^2] - E[l^2 in piece k] by the softmax.
    """
    squares = np.bincount(numbers, l**2, len(theta))
    return ops.softmax(theta)[0] - squares / squares.sum()


def learn_shares(error, rng, K=16, steps=200, batch=64, watch=lambda step, steps: None):
    """The shares (K,) for which l varies least: where the network errs more, lambda falls more slowly.

    error: as for `estimates`; watch(step, steps) is called after each step
    """
    theta = np.zeros(K)
    for step in range(1, steps + 1):
        u = (rng.random() + np.arange(batch)) / batch                   # evenly spread, so that no piece goes without
        l, numbers = estimates(ops.softmax(theta)[0], error, u)
        theta -= (1.1 - step / steps) * variance_gradient(theta, l, numbers)
        watch(step, steps)
    return ops.softmax(theta)[0]
