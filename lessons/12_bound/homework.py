"""Homework 12: 10 points. To have it graded: python lessons/grade.py 12

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import math

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.likelihood import EDGE, HALF_BIN, tanh_cdf       # 0.999, 1 / 255, and the authors' CDF
from tinyddpm.diffusion.normal import log_interval        # log(CDF(high) - CDF(low)) without underflow


# ---- 12.1 Bits per dimension: 1 point ----


def bits_per_dim(nats):
    """Nats of each dimension (N, ...) -> bits per dimension of each sample (N,)."""
    # 1. the mean over all axes but the first
    # 2. a bit is ln 2 nats
    raise NotImplementedError("12.1 bits_per_dim")


# ---- 12.2 What is left at T: 2 points ----


def prior_term(s, x0):
    """L_T = KL(q(x_T | x_0) || N(0, I)) (Eq. 5)."""
    # 1. q(x_T | x_0) has mean sqrt(alpha_bar_T) x_0 and variance 1 - alpha_bar_T
    # 2. its KL from N(0, 1): (mean^2 + variance - 1 - log variance) / 2
    # 3. as bits per dimension of each sample, (N,)
    raise NotImplementedError("12.2 prior_term")


# ---- 12.3 The discretized decoder (Eq. 13): 4 points ----


def decoder(x0, mean, log_variance, cdf="exact"):
    """log p(x_0 | x_1), the discretized decoder (Eq. 13), for every dimension, computed in float64.

    A Gaussian is integrated over the bin of x0, of width 2 / 255; at -1 and 1 the bin extends to infinity.
    x0 (N, ...): data in [-1, 1] that takes the 256 values of a byte; mean and log_variance of the Gaussian
    cdf: "exact", or "tanh", the authors' approximation of the normal CDF with probabilities of at least 1e-12
    Returns log p, like x0, and the cache.
    """
    # 1. in float64; sigma from the log variance
    # 2. the two ends of the bin, in units of sigma from the mean; no end at the first and last value
    # 3. exact: log_interval(low, high); tanh: log of the difference of tanh_cdf, at least 1e-12
    # 4. return log p and a cache (None will do here)
    raise NotImplementedError("12.3 decoder")


# ---- 12.4 Another bin: 3 points ----


def decoder_of_levels(x0, mean, sigma, levels):
    """log p of data that take `levels` evenly spread values from -1 to 1, a bin around each; the outer bins reach to
    infinity.

    x0, mean (N, ...), sigma a number -> log p like x0
    """
    # 1. how far apart are the values? 256 of them give Eq. 13
    raise NotImplementedError("12.4 decoder_of_levels")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 12 --open ----

# Estimate the bits per dimension of mnist-eps for digits, for digits upside down, for their negatives (255 -
# x), for black images and for noise of bytes. Put them in order before you look.
