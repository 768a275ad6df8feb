"""Homework 09: 10 points. To have it graded: python lessons/grade.py 09

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import math

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.concatenate import check_concatenate


# ---- 9.1 Time as a vector: 2 points ----


def time_embedding(t, width, dtype=np.float32):
    """[sin((t - 1) f_i), cos((t - 1) f_i)] with frequencies f_i = exp(-i ln(10000) / (width / 2 - 1)).

    t (N,), the paper's 1..T -> (N, width). The authors' code counts time from 0; hence the t - 1, used only here.
    There is no backward: times are given, not learned.
    Raises ValueError unless width is even and at least 4.
    """
    # 1. width / 2 frequencies, from 1 down to 1 / 10000 in equal ratios
    # 2. angles (t - 1) f_i: the authors count from 0
    # 3. all sines first, then all cosines
    raise NotImplementedError("9.1 time_embedding")


# ---- 9.2 Skip connections: 2 points ----


def concatenate(a, b):
    """Concatenate the channels. a (..., C1), b (..., C2) -> y (..., C1 + C2)"""
    # 1. remember where the seam is
    raise NotImplementedError("9.2 concatenate")


def concatenate_backward(dy, channels):
    """dy (..., C1 + C2) -> da (..., C1), db (..., C2)"""
    # 1. cut there
    raise NotImplementedError("9.2 concatenate_backward")


# ---- 9.3 Patches as channels: 3 points ----


def patchify(x, size):
    """Fold each size x size patch into the channels. x (N, H, W, C) -> y (N, H / size, W / size, size size C)"""
    # 1. give the pixels within a patch axes of their own
    # 2. bring them behind the patches' axes, and into the channels
    raise NotImplementedError("9.3 patchify")


def patchify_backward(dy, size):
    """Unfold the channels again. dy (N, H, W, size size C) -> dx (N, size H, size W, C)"""
    # 1. the same steps, backwards
    raise NotImplementedError("9.3 patchify_backward")


# ---- 9.4 Half the resolution by means: 3 points ----


def mean_downsample(x):
    """The mean of each 2x2 square: half the resolution without parameters. x (N, 2H, 2W, C) -> y (N, H, W, C), and a
    cache"""
    # 1. reshape so that a square has two axes of its own
    raise NotImplementedError("9.4 mean_downsample")


def mean_downsample_backward(dy, cache):
    """dy (N, H, W, C) -> dx (N, 2H, 2W, C)"""
    # 1. each pixel counted for a quarter
    raise NotImplementedError("9.4 mean_downsample_backward")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 09 --open ----

# Give the network mnist-eps a digit with the noise of t = 300, and tell it t = 150, 300 and 500. Draw the x_0
# that it predicts.
