"""The linear map, in blocks of rows that stay in a thread's cache from product to product."""

import numpy as np

from tinyddpm.kernels.cpu.gemm import gemm, multiply, pack
from tinyddpm.kernels.cpu.jit import compiled, parallel, part, threads
from tinyddpm.kernels.cpu.simd import LANES

ROWS = 120          # in a block; a multiple of the rows of the product


def linear(x, w, b):
    y = np.empty((*x.shape[:-1], w.shape[1]), x.dtype)
    rows = np.ascontiguousarray(x).reshape(-1, len(w))
    workers, across = _division(rows, w)
    _linear(workers, across, rows, w, b, y.reshape(-1, len(b)))
    return y, (x, w)


def linear_backward(dy, cache):
    x, w = cache
    rows, drows = np.ascontiguousarray(x).reshape(-1, len(w)), np.ascontiguousarray(dy).reshape(-1, w.shape[1])
    workers, across = _division(rows, w)
    shares = 1 if across else workers
    dx, dw, db = np.empty_like(rows), np.zeros((shares, *w.shape), w.dtype), np.zeros((shares, w.shape[1]), w.dtype)
    _linear_backward(workers, across, rows, drows, w, dx, dw, db)
    return dx.reshape(x.shape), dw.sum(axis=0), db.sum(axis=0)


def _division(rows, w):
    """The number of threads, and whether they share the columns of results instead of the rows."""
    return threads(len(rows) * w.size // LANES), len(rows) < len(w)


@compiled
def _place(worker, workers, across, rows, columns):
    """The first row, the end and the columns of this thread's part of a result."""
    if across:
        first, end = part(worker, workers, (columns + LANES - 1) // LANES)
        return 0, rows, slice(first * LANES, end * LANES)           # of which a slice leaves out those after the last
    first, end = part(worker, workers, rows)
    return first, end, slice(0, columns)


@parallel
def _linear(worker, workers, across, x, w, b, y):
    first, end, columns = _place(worker, workers, across, *y.shape)
    panels, b = pack(w[:, columns]), b[columns]
    for start in range(first, end, ROWS):
        rows = slice(start, min(start + ROWS, end))
        block = y[rows, columns]
        for i in range(len(block)):
            for k in range(len(b)):
                block[i, k] = b[k]
        multiply(x[rows], panels, block, True)


@parallel
def _linear_backward(worker, workers, across, x, dy, w, dx, dw, db):
    """dx = dy w^T, dw += x^T dy, db += the sums of dy, all from the same rows while they are in the cache."""
    first, end, columns = _place(worker, workers, across, *dx.shape)
    panels = pack(w.T[:, columns])
    _, _, columns_of_dy = _place(worker, workers, across, *dy.shape)
    share = 0 if across else worker
    dw, db = dw[share, :, columns_of_dy], db[share, columns_of_dy]
    for start in range(first, end, ROWS):
        rows = slice(start, min(start + ROWS, end))
        block = dy[rows, columns_of_dy]
        multiply(dy[rows], panels, dx[rows, columns], False)
        gemm(x[rows].T, block, dw, True)
        for i in range(len(block)):
            for k in range(len(db)):
                db[k] += block[i, k]
