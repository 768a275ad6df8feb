"""The linear map, in blocks of rows that stay in a thread's cache from product to product."""

import numba
import numpy as np
from numba import prange

from tinyddpm.kernels.cpu.blas import gemm
from tinyddpm.kernels.cpu.jit import parallel

ROWS = 128          # in a block


def linear(x, w, b):
    y = np.empty((*x.shape[:-1], w.shape[1]), x.dtype)
    _linear(np.ascontiguousarray(x).reshape(-1, len(w)), w, b, y.reshape(-1, len(b)), numba.get_num_threads())
    return y, (x, w)


def linear_backward(dy, cache):
    x, w = cache
    rows, drows = np.ascontiguousarray(x).reshape(-1, len(w)), np.ascontiguousarray(dy).reshape(-1, w.shape[1])
    dx = np.empty_like(rows)
    shares = max(1, min(numba.get_num_threads(), len(rows) // ROWS))
    dw, db = np.zeros((shares, *w.shape), w.dtype), np.zeros((shares, w.shape[1]), w.dtype)
    _linear_backward(rows, np.ascontiguousarray(w.T), drows, dx, dw, db)      # faster in small products
    return dx.reshape(x.shape), dw.sum(axis=0), db.sum(axis=0)


@parallel
def _linear(x, w, b, y, workers):
    for worker in prange(workers):
        end = len(x) * (worker + 1) // workers
        for start in range(len(x) * worker // workers, end, ROWS):
            stop = min(start + ROWS, end)
            for i in range(start, stop):
                for k in range(len(b)):
                    y[i, k] = b[k]
            gemm(x[start:stop], w, y[start:stop], False, False, True)


@parallel
def _linear_backward(x, w_transposed, dy, dx, dw, db):
    shares = len(dw)
    for share in prange(shares):
        end = len(x) * (share + 1) // shares
        for start in range(len(x) * share // shares, end, ROWS):
            stop = min(start + ROWS, end)
            gemm(dy[start:stop], w_transposed, dx[start:stop], False, False, False)
            gemm(x[start:stop], dy[start:stop], dw[share], True, False, True)
            for i in range(start, stop):
                for k in range(dy.shape[1]):
                    db[share, k] += dy[i, k]
