"""Homework 17: 10 points. To have it graded: python lessons/grade.py 17

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.process import mu_from_x0            # the mean of Eq. 7
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.editing import Measurement            # Measurement(of, back)


# ---- 17.1 What is known: 2 points ----


def masked(mask):
    """The pixels where mask (1, H, W, 1) is 1, which are known; the others are 0."""
    # 1. -> Measurement(of, back): of(x) = A x; back(y), the smallest x with A x = y; the same here
    raise NotImplementedError("17.1 masked")


def smaller(factor):
    """The mean of each square of factor x factor pixels: (N, H, W, C) -> (N, H / factor, W / factor, C)."""
    # 1. -> Measurement(of, back), too
    # 2. of: reshape to squares, and the mean of each
    # 3. back: every pixel of a square has its mean
    raise NotImplementedError("17.1 smaller")


# ---- 17.2 Replacement: 2 points ----


def replaced(p, s, measurement, y):
    """A reverse process like p whose x_0 agrees with y: the part that A measures is replaced (DDNM, Wang et al. 2023).

    The other part is formed as if y were known only through the noise of x_t: the two need not fit well.
    """
    # 1. return a function of xt and t, like p(xt, t) -> mean, variance, x_0; the variance stays
    # 2. x_0 + back(y - of(x_0)), and the mean of Eq. 7 from it
    raise NotImplementedError("17.2 replaced")


# ---- 17.3 Noise for going back: 1 point ----


def noised(s, x, t, later, rng):
    """x at time t, with the noise that brings it to a later time (Eq. 4, from t on)."""
    # 1. alpha_bar at the later time divided by that at t takes the place of alpha_bar in Eq. 4
    raise NotImplementedError("17.3 noised")


# ---- 17.4 The truth in the plane, and beyond: 2 points ----


def conditional(mean, covariance, known, values):
    """The Gaussian of the other numbers, given some: its mean and its covariance.

    mean (D,), covariance (D, D); known: a list of indices; values: of these, in that order
    -> mean (D - K,) and covariance (D - K, D - K) of the others, in their order
    """
    # 1. np.ix_(a, b) picks rows a and columns b
    raise NotImplementedError("17.4 conditional")


# ---- 17.5 Reconstruction: 3 points ----


def reconstructed(p, s, measurement, y, scale=1.0, clip=True):
    """A reverse process like p whose x_0 is moved to make y more likely (DPS, Chung et al. 2023; Song et al. 2023).

    p(y | x_t) is taken to be normal with mean A x_0 and covariance (1 - alpha_bar) A A^T, which is exact for standard
    normal data. Its score with respect to x_t is J^T back(y - A x_0) / (1 - alpha_bar), where J = dx_0 / dx_t, and
    p.backward multiplies by J^T. It moves x_0 as the score of a classifier does.

    scale: a factor of the score. p must not clip: that is done here, afterwards.
    """
    # 1. the residual y - A x_0, taken back, then through p.backward
    # 2. x_0 moves by scale / sqrt(alpha_bar) times that; then it is clipped, if asked
    raise NotImplementedError("17.5 reconstructed")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 17 --open ----

# Fill the left half of the same digit with ten seeds, by `--method replacement`, `resampling` and
# `reconstruction` of edit.py. How varied are the answers of each, and is more variety better?
