"""Sums, concatenation and upsampling: rows of memory that are added or copied, shared out among the threads.

One kernel copies and one adds. A row is a run of `width` numbers; the rows of an array lie `step` numbers apart.
"""

import numpy as np
from numba import prange

from tinyddpm.kernels import parallel
from tinyddpm.kernels.simd import LANES, load, store
from tinyddpm.ops.concatenate import check_add, check_concatenate

RUN = 4096          # the rows of a sum that could be cut anywhere


def add(a, b):
    check_add(a, b)
    a, b, y = a.reshape(-1), b.reshape(-1), np.empty(a.shape, a.dtype)
    flat, rows = y.reshape(-1), len(a) // RUN
    _add(a, 0, RUN, b, 0, RUN, flat, RUN, rows)
    np.add(a[rows * RUN:], b[rows * RUN:], out=flat[rows * RUN:])
    return y


def concatenate(a, b):
    check_concatenate(a, b)
    (*shape, A), B = a.shape, b.shape[-1]
    y = np.empty((*shape, A + B), a.dtype)
    _copy(a.reshape(-1), 0, A, y.reshape(-1), 0, A + B, A, a.size // A)
    _copy(b.reshape(-1), 0, B, y.reshape(-1), A, A + B, B, b.size // B)
    return y, A


def concatenate_backward(dy, A):
    *shape, C = dy.shape
    da, db = np.empty((*shape, A), dy.dtype), np.empty((*shape, C - A), dy.dtype)
    _copy(dy.reshape(-1), 0, C, da.reshape(-1), 0, A, A, dy.size // C)
    _copy(dy.reshape(-1), A, C, db.reshape(-1), 0, C - A, C - A, dy.size // C)
    return da, db


def upsample(x):
    """Every pixel twice, then every line of pixels twice."""
    N, H, W, C = x.shape
    wide, y = np.empty((N, H, 2 * W, C), x.dtype), np.empty((N, 2 * H, 2 * W, C), x.dtype)
    for once in range(2):
        _copy(x.reshape(-1), 0, C, wide.reshape(-1), once * C, 2 * C, C, N * H * W)
    for once in range(2):
        _copy(wide.reshape(-1), 0, 2 * W * C, y.reshape(-1), once * 2 * W * C, 4 * W * C, 2 * W * C, N * H)
    return y, None


def upsample_backward(dy, cache):
    N, H, W, C = dy.shape
    dy, wide, dx = dy.reshape(-1), np.empty(dy.size // 2, dy.dtype), np.empty((N, H // 2, W // 2, C), dy.dtype)
    _add(dy, 0, 2 * W * C, dy, W * C, 2 * W * C, wide, W * C, N * H // 2)
    _add(wide, 0, 2 * C, wide, C, 2 * C, dx.reshape(-1), C, dx.size // C)
    return dx


@parallel
def _copy(a, a_first, a_step, y, y_first, y_step, width, rows):
    vectors = width - width % LANES
    for i in prange(rows):
        source, target = a_first + i * a_step, y_first + i * y_step
        for k in range(0, vectors, LANES):
            store(y, (target + k,), load(a, (source + k,)))
        for k in range(vectors, width):
            y[target + k] = a[source + k]


@parallel
def _add(a, a_first, a_step, b, b_first, b_step, y, width, rows):
    """The rows of y lie one after another."""
    vectors = width - width % LANES
    for i in prange(rows):
        from_a, from_b, target = a_first + i * a_step, b_first + i * b_step, i * width
        for k in range(0, vectors, LANES):
            store(y, (target + k,), load(a, (from_a + k,)) + load(b, (from_b + k,)))
        for k in range(vectors, width):
            y[target + k] = a[from_a + k] + b[from_b + k]
