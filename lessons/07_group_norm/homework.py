"""Homework 07: 11 points. To have it graded: python lessons/grade.py 07

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given that
cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The library's
own versions are taken away while the grader runs.
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.norm import check_group_norm


# ---- 7.1 Group normalization: 5 points ----


def group_norm(x, gamma, beta, groups, eps):
    """Normalize each group of C / G channels of each sample to mean 0 and variance 1, then scale and shift.

    x (N, H, W, C) or (N, L, C), gamma (C,), beta (C,) -> y like x
    eps: added to the variance, so that a constant group causes no division by 0
    Raises ValueError if groups does not divide C.
    """
    # 1. reshape so that the channels of a group have an axis of their own: (N, L, G, C / G)
    # 2. mean and variance over pixels and channels of a group
    # 3. normalize, then scale and shift each channel
    raise NotImplementedError("7.1 group_norm")


def group_norm_backward(dy, cache):
    """dy like x -> dx like x, dgamma (C,), dbeta (C,)

    With n the normalized input and dn = dy gamma: dx = rstd (dn - mean(dn) - n mean(dn n)),
    with means over each group. The two subtracted terms come from the mean and the variance.
    """
    # 1. dgamma and dbeta are sums over samples and pixels
    # 2. dn = dy gamma is the gradient with respect to the normalized numbers
    # 3. dx = rstd (dn - mean(dn) - n mean(dn n)), the means over each group
    raise NotImplementedError("7.1 group_norm_backward")


# ---- 7.2 Without centring: 4 points ----


def rms_group_norm(x, gamma, beta, groups, eps):
    """Divide each group by the root of its mean square plus eps; no mean is taken away. Then scale and shift.

    x (N, H, W, C) or (N, L, C), gamma (C,), beta (C,) -> y like x, and a cache
    """
    # 1. as 7.1, with one statistic less
    raise NotImplementedError("7.2 rms_group_norm")


def rms_group_norm_backward(dy, cache):
    """dy like x -> dx like x, dgamma (C,), dbeta (C,)"""
    # 1. which of the two subtractions of 7.1 stays?
    raise NotImplementedError("7.2 rms_group_norm_backward")


# ---- 7.3 Scale and shift from outside: 2 points ----


def modulate(x, scale, shift):
    """y = x (1 + scale) + shift, the same for all pixels of a sample: another way to tell a block the time.

    x (N, H, W, C), scale (N, C), shift (N, C) -> y like x, and a cache
    """
    # 1. the factors need axes for H and W
    raise NotImplementedError("7.3 modulate")


def modulate_backward(dy, cache):
    """dy like x -> dx like x, dscale (N, C), dshift (N, C)"""
    # 1. what is spread out forwards is summed up backwards
    raise NotImplementedError("7.3 modulate_backward")
