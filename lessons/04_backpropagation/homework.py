"""Homework 04: 11 points. To have it graded: python lessons/grade.py 04

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import array_module      # array_module(x) is NumPy here, CuPy on a GPU


# ---- 4.1 The linear map: 3 points ----


def linear(x, w, b):
    """y = x w + b over the last axis.

    x (..., C), w (C, K), b (K,) -> y (..., K)
    """
    # 1. keep what the backward needs
    raise NotImplementedError("4.1 linear")


def linear_backward(dy, cache):
    """dy (..., K) -> dx (..., C), dw (C, K), db (K,)"""
    # 1. for w and b all axes but the last are one batch: reshape to rows
    # 2. three gradients, each in the shape of its argument
    raise NotImplementedError("4.1 linear_backward")


# ---- 4.2 SiLU: 3 points ----


def silu(x):
    """y = x sigmoid(x), elementwise. x and y have the same shape."""
    # 1. the sigmoid without overflow: (1 + tanh(x / 2)) / 2
    raise NotImplementedError("4.2 silu")


def silu_backward(dy, x):
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x)."""
    # 1. the product rule, with s' = s (1 - s)
    raise NotImplementedError("4.2 silu_backward")


# ---- 4.3 Softplus: 2 points ----


def softplus(x):
    """y = log(1 + exp(x)), elementwise, without overflow. x of any shape -> (y, cache)"""
    # 1. exp(800) is infinite: take the larger of 0 and x out of the logarithm
    raise NotImplementedError("4.3 softplus")


def softplus_backward(dy, cache):
    """dy like y -> dx"""
    # 1. the derivative is an old friend
    raise NotImplementedError("4.3 softplus_backward")


# ---- 4.4 Rows of length one: 3 points ----


def unit_rows(x):
    """y = x / |x|, each row divided by its length. x (N, D) -> (y, cache)"""
    # 1. keep the axis: lengths are (N, 1)
    raise NotImplementedError("4.4 unit_rows")


def unit_rows_backward(dy, cache):
    """dy (N, D) -> dx (N, D)"""
    # 1. x is used twice: directly, and in the length
    # 2. a row that grows along itself does not change y: what does that say about dx?
    raise NotImplementedError("4.4 unit_rows_backward")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 04 --open ----

# Count the calls of the forward that gradcheck.check needs for the lesson's network with 10, 100 and 1,000
# hidden units, and time one backward for each. Plot both.
