"""Homework 06: 11 points. To have it graded: python lessons/grade.py 06

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.conv import check_conv2d    # the padding of both axes, ((top, bottom), (left, right))


# ---- 6.1 Convolution: 5 points ----


def conv2d(x, w, b, stride=1, padding=None):
    """y[n, i, j] = b + sum over p, q of x[n, i stride + p, j stride + q] w[p, q], x padded with zeros.

    Each of the kh kw positions of the kernel is one matrix product of a shifted view of x.
    x (N, H, W, C), w (kh, kw, C, K), b (K,) -> y (N, H', W', K)
    padding: rows and columns of zeros (before, after); None means "same", k // 2 on both sides,
        which keeps H and W at stride 1. The paper's downsampling is stride 2, padding (0, 1).
    Raises ValueError for shapes that do not fit, and for an even kernel without a padding.
    """
    # 1. check_conv2d(x, w, b, padding) gives the padding; pad x with zeros; H' = (H + top + bottom - kh) //
    #    stride + 1
    # 2. for each kernel position (p, q): the view of the padded x that it meets
    # 3. one matrix product for each position, added up; then the bias
    # 4. return y and what the backward needs: x, not the padded copy; w, the stride and the padding
    raise NotImplementedError("6.1 conv2d")


def conv2d_backward(dy, cache):
    """dy (N, H', W', K) -> dx (N, H, W, C), dw (kh, kw, C, K), db (K,)"""
    # 1. the same windows again: dw[p, q] is a product of the window and dy
    # 2. dy w[p, q]^T goes back to where the window came from; windows overlap, so add
    # 3. cut the padding off dx
    raise NotImplementedError("6.1 conv2d_backward")


# ---- 6.2 Upsampling: 2 points ----


def upsample(x):
    """Each pixel becomes a 2x2 square. x (N, H, W, C) -> y (N, 2H, 2W, C)"""
    # 1. repeat rows, then columns; nothing to remember: the cache is None
    raise NotImplementedError("6.2 upsample")


def upsample_backward(dy, cache):
    """Each pixel collects the gradient of its square. dy (N, 2H, 2W, C) -> dx (N, H, W, C)"""
    # 1. each pixel was used four times
    raise NotImplementedError("6.2 upsample_backward")


# ---- 6.3 A dilated convolution: 4 points ----


def dilated_conv2d(x, w, b, dilation):
    """y[n, i, j] = b + sum over p, q of x[n, i + (p - kh // 2) dilation, j + (q - kw // 2) dilation] w[p, q], zeros
    outside.

    x (N, H, W, C), w (kh, kw, C, K) with odd kh and kw, b (K,) -> y (N, H, W, K), and a cache
    """
    # 1. how much padding does the widened kernel need?
    # 2. the windows of 6.1, starting at p dilation and q dilation
    raise NotImplementedError("6.3 dilated_conv2d")


def dilated_conv2d_backward(dy, cache):
    """dy (N, H, W, K) -> dx (N, H, W, C), dw (kh, kw, C, K), db (K,)"""
    # 1. as in 6.1
    raise NotImplementedError("6.3 dilated_conv2d_backward")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 06 --open ----

# Put a single white pixel through 1, 6 and 24 blurs of 3 x 3. How far does it reach, and how wide is it,
# measured as the standard deviation of the brightness along a row? Explain the numbers.
