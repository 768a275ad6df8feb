"""Dropout: one pass draws, scales and keeps a byte for each number."""

import cupy

from tinyddpm.kernels.gpu.launch import contiguous, launch_each, pack


def dropout(x, rng, p):
    y, keep, V = cupy.empty(x.shape, x.dtype), cupy.empty(x.shape, bool), pack(x.dtype, x.size)
    launch_each("dropout", x.dtype, x.size // V, contiguous(x), y, keep, *rng.next(), p, V=V)
    return y, (keep, p)


def dropout_backward(dy, cache):
    keep, p = cache
    dx, V = cupy.empty(dy.shape, dy.dtype), pack(dy.dtype, dy.size)
    launch_each("dropout_backward", dy.dtype, dy.size // V, contiguous(dy), keep, dx, p, V=V)
    return dx
