"""The linear map, in blocks of rows that stay in a thread's cache from product to product."""

import numba
import numpy as np
from numba import prange

from tinyddpm.kernels.cpu.gemm import gemm, multiply, pack_panel, panels_for
from tinyddpm.kernels.cpu.jit import parallel

ROWS = 120          # in a block; a multiple of the rows of the product


def linear(x, w, b):
    y = np.empty((*x.shape[:-1], w.shape[1]), x.dtype)
    _linear(np.ascontiguousarray(x).reshape(-1, len(w)), w, b, y.reshape(-1, len(b)), numba.get_num_threads())
    return y, (x, w)


def linear_backward(dy, cache):
    x, w = cache
    rows, drows = np.ascontiguousarray(x).reshape(-1, len(w)), np.ascontiguousarray(dy).reshape(-1, w.shape[1])
    dx = np.empty_like(rows)
    # a copy of w^T, so that the same compiled function serves
    _linear(drows, np.ascontiguousarray(w.T), np.zeros(len(w), w.dtype), dx, numba.get_num_threads())
    shares = max(1, min(numba.get_num_threads(), len(rows) // ROWS))
    dw, db = np.zeros((shares, *w.shape), w.dtype), np.zeros((shares, w.shape[1]), w.dtype)
    _weight_gradient(rows, drows, dw, db)
    return dx.reshape(x.shape), dw.sum(axis=0), db.sum(axis=0)


@parallel
def _linear(x, w, b, y, workers):
    panels = panels_for(w)
    for block in prange(len(panels)):
        pack_panel(w, block, panels)
    for worker in prange(workers):
        end = len(x) * (worker + 1) // workers
        for start in range(len(x) * worker // workers, end, ROWS):
            stop = min(start + ROWS, end)
            for i in range(start, stop):
                for k in range(len(b)):
                    y[i, k] = b[k]
            multiply(x[start:stop], panels, y[start:stop], True)


@parallel
def _weight_gradient(x, dy, dw, db):
    shares = len(dw)
    for share in prange(shares):
        end = len(x) * (share + 1) // shares
        for start in range(len(x) * share // shares, end, ROWS):
            stop = min(start + ROWS, end)
            gemm(x[start:stop].T, dy[start:stop], dw[share], True)
            for i in range(start, stop):
                for k in range(dy.shape[1]):
                    db[share, k] += dy[i, k]
