"""Homework 01: 10 points. To have it graded: python lessons/grade.py 01

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import to_numpy        # arrays of a GPU as NumPy's


# ---- 1.1 Data in [-1, 1] as bytes: 2 points ----


def to_uint8(x):
    """Data in [-1, 1] as bytes 0..255, rounded; values outside are clipped."""
    # 1. x = -1 is 0 and x = 1 is 255: shift and scale
    # 2. round to the nearest, not down
    # 3. cut off what lies outside 0..255
    raise NotImplementedError("1.1 to_uint8")


# ---- 1.2 Images beside and below each other: 3 points ----


def grid(images, columns=None, margin=1):
    """uint8 images (N, H, W, C) arranged as a grid in one picture (rows H', columns W', C)."""
    # 1. columns: the root of N, rounded up, where none is given; rows: as many as are needed
    # 2. a sheet of the value 64, with a margin before each row and column and after the last
    # 3. image i goes to row i // columns and column i % columns
    raise NotImplementedError("1.2 grid")


# ---- 1.3 A Gaussian with any covariance: 3 points ----


def correlated(mean, covariance, z):
    """Samples of N(mean, covariance) from standard normal z: mean + L z, with L the Cholesky factor, covariance = L
    L^T.

    mean (D,), covariance (D, D), z (N, D) -> x (N, D)
    """
    # 1. each row of z is one sample
    raise NotImplementedError("1.3 correlated")


# ---- 1.4 Bytes in any range: 2 points ----


def rescale(images, low, high):
    """uint8 images, 0..255, as floating-point numbers from low to high. Any shape -> the same shape"""
    # 1. leave uint8 before you multiply: its numbers wrap around at 256
    raise NotImplementedError("1.4 rescale")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 01 --open ----

# Fit one Gaussian to the ones alone, another to the eights, and draw from both. How many directions hold 90%
# of the variance of each, and whose samples look better? Why?
