"""Homework 07: 11 points. To have it graded: python lessons/grade.py 07

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.norm import check_group_norm


# ---- 7.1 Group normalization and SiLU, as one: 5 points ----


def group_norm_silu(x, gamma, beta, groups, eps):
    """silu(group_norm(x)), which opens every residual block. It is one operation so that the twins can fuse it."""
    # 1. check_group_norm(x, gamma, beta, groups) raises what is asked for
    # 2. the lesson's rows are groups: reshape to (N, L, G, C / G), whose axes 1 and 3 are one row
    # 3. normalize, scale and shift each channel, then y = s sigmoid(s)
    raise NotImplementedError("7.1 group_norm_silu")


def group_norm_silu_backward(dy, cache):
    """dy like x -> dx like x, dgamma (C,), dbeta (C,)"""
    # 1. the lines of the forward, from the last to the first; both parts are in lessons 4 and 7
    raise NotImplementedError("7.1 group_norm_silu_backward")


# ---- 7.2 Without centring: 4 points ----


def rms_group_norm(x, gamma, beta, groups, eps):
    """Divide each group by the root of its mean square plus eps; no mean is taken away. Then scale and shift.

    x (N, H, W, C) or (N, L, C), gamma (C,), beta (C,) -> y like x, and a cache
    """
    # 1. as in 7.1, with one statistic less
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


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 07 --open ----

# Put an image through a convolution without a bias and a group norm; then the same image times 5, and divided
# by 1000. By how much do the outputs differ, and what can the rest of the network no longer know?
