"""Dropout: a mask of one byte a number, and its application in one pass."""

import cupy

from tinyddpm.kernels.gpu.launch import contiguous, launch_each, pack


def dropout_mask(rng, shape, p):
    return rng.keep(shape, p)


def dropout(x, keep, p):
    return _apply(x, keep, p), (keep, p)


def dropout_backward(dy, cache):
    return _apply(dy, *cache)


def _apply(x, keep, p):
    y, V = cupy.empty(x.shape, x.dtype), pack(x.dtype, x.size)
    launch_each("dropout", x.dtype, x.size // V, contiguous(x), keep, y, 1 / (1 - p), V=V)
    return y
