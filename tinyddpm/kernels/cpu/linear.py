"""The linear map, in blocks of rows that stay in a thread's cache from product to product."""

import numpy as np

from tinyddpm.kernels.cpu.gemm import gemm, multiply, pack
from tinyddpm.kernels.cpu.jit import parallel, part, threads
from tinyddpm.kernels.cpu.simd import LANES

ROWS = 120          # in a block; a multiple of the rows of the product


def linear(x, w, b):
    y = np.empty((*x.shape[:-1], w.shape[1]), x.dtype)
    rows = np.ascontiguousarray(x).reshape(-1, len(w))
    _linear(_threads(rows, w), rows, w, b, y.reshape(-1, len(b)))
    return y, (x, w)


def linear_backward(dy, cache):
    x, w = cache
    rows, drows = np.ascontiguousarray(x).reshape(-1, len(w)), np.ascontiguousarray(dy).reshape(-1, w.shape[1])
    dx = np.empty_like(rows)
    # a copy of w^T, so that the same compiled function serves
    _linear(_threads(rows, w), drows, np.ascontiguousarray(w.T), np.zeros(len(w), w.dtype), dx)
    shares = max(1, min(_threads(rows, w), len(rows) // ROWS))
    dw, db = np.zeros((shares, *w.shape), w.dtype), np.zeros((shares, w.shape[1]), w.dtype)
    _weight_gradient(shares, rows, drows, dw, db)
    return dx.reshape(x.shape), dw.sum(axis=0), db.sum(axis=0)


def _threads(rows, w):
    return threads(len(rows) * w.size // LANES)


@parallel
def _linear(worker, workers, x, w, b, y):
    panels = pack(w)                                    # by each thread for itself: less work than to wait for others
    first, end = part(worker, workers, len(x))
    for start in range(first, end, ROWS):
        rows = slice(start, min(start + ROWS, end))
        block = y[rows]
        for i in range(len(block)):
            for k in range(len(b)):
                block[i, k] = b[k]
        multiply(x[rows], panels, block, True)


@parallel
def _weight_gradient(share, shares, x, dy, dw, db):
    first, end = part(share, shares, len(x))
    for start in range(first, end, ROWS):
        rows = slice(start, min(start + ROWS, end))
        block = dy[rows]
        gemm(x[rows].T, block, dw[share], True)
        for i in range(len(block)):
            for k in range(block.shape[1]):
                db[share, k] += block[i, k]
