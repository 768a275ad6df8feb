"""The linear map, in blocks of rows that stay in a thread's cache from product to product."""

import numpy as np

from tinyddpm.kernels.cpu.gemm import gemm, multiply, pack
from tinyddpm.kernels.cpu.jit import compiled, parallel, part, threads
from tinyddpm.kernels.cpu.simd import LANES

ROWS = 120          # in a block; a multiple of the rows of the product


def linear(x, w, b):
    y = np.empty((*x.shape[:-1], w.shape[1]), x.dtype)
    rows = np.ascontiguousarray(x).reshape(-1, len(w))
    _linear(_threads(rows, w), _across(rows, w), rows, w, False, b, y.reshape(-1, len(b)))
    return y, (x, w)


def linear_backward(dy, cache):
    x, w = cache
    rows, drows = np.ascontiguousarray(x).reshape(-1, len(w)), np.ascontiguousarray(dy).reshape(-1, w.shape[1])
    dx, across, workers = np.empty_like(rows), _across(rows, w), _threads(rows, w)
    _linear(workers, across, drows, w, True, np.zeros(len(w), w.dtype), dx)
    shares = workers if across else max(1, min(workers, len(rows) // ROWS))
    dw, db = np.zeros((1 if across else shares, *w.shape), w.dtype), np.zeros((shares, w.shape[1]), w.dtype)
    _weight_gradient(shares, across, rows, drows, dw, db)
    return dx.reshape(x.shape), dw.sum(axis=0), db.sum(axis=0)


def _threads(rows, w):
    return threads(len(rows) * w.size // LANES)


def _across(rows, w):
    """Whether the threads share the columns of the result instead of its rows; each then packs only its part of w."""
    return len(rows) < len(w)


@compiled
def _place(worker, workers, across, rows, columns):
    """Which rows and columns of the result are this thread's."""
    if across:
        first, end = part(worker, workers, (columns + LANES - 1) // LANES)
        return 0, rows, first * LANES, min(end * LANES, columns)
    first, end = part(worker, workers, rows)
    return first, end, 0, columns


@parallel
def _linear(worker, workers, across, x, w, transposed, b, y):
    first, end, left, right = _place(worker, workers, across, *y.shape)
    panels = pack(w.T[:, left:right]) if transposed else pack(w[:, left:right])
    for start in range(first, end, ROWS):
        rows = slice(start, min(start + ROWS, end))
        block = y[rows, left:right]
        for i in range(len(block)):
            for k in range(right - left):
                block[i, k] = b[left + k]
        multiply(x[rows], panels, block, True)


@parallel
def _weight_gradient(share, shares, across, x, dy, dw, db):
    first, end, left, right = _place(share, shares, across, *dy.shape)
    dw = dw[0 if across else share, :, left:right]
    for start in range(first, end, ROWS):
        rows = slice(start, min(start + ROWS, end))
        block = dy[rows, left:right]
        gemm(x[rows].T, block, dw, True)
        for i in range(len(block)):
            for k in range(right - left):
                db[share, left + k] += block[i, k]
