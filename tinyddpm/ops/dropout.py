"""Dropout (Srivastava et al. 2014). The mask is an argument of dropout, so that it can be repeated and checked."""

import numpy as np


def dropout_mask(rng, shape, p):
    """Which elements are kept: True with probability 1 - p. The only operation that draws random numbers."""
    return rng.random(shape, dtype=np.float32) >= p


def dropout(x, keep, p):
    """y = x / (1 - p) where keep, else 0, so that E[y] = x. keep: booleans, shaped like x"""
    mask = keep.astype(x.dtype) / (1 - p)
    return x * mask, mask


def dropout_backward(dy, mask):
    """dx = dy mask"""
    return dy * mask
