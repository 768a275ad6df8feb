"""Dropout (Srivastava et al. 2014)."""

import numpy as np


def dropout(x, rng, p):
    """y = 0 with probability p, else x / (1 - p), so that E[y] = x. The only operation that draws random numbers."""
    mask = (rng.random(x.shape, dtype=np.float32) >= p).astype(x.dtype) / (1 - p)
    return x * mask, mask


def dropout_backward(dy, mask):
    """dx = dy mask"""
    return dy * mask
