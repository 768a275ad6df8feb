"""Sums and concatenation."""

import numpy as np

from tinyddpm.kernels.cpu.jit import threads
from tinyddpm.kernels.cpu.runs import add_rows, copy_rows
from tinyddpm.ops.concatenate import check_add, check_concatenate

RUN = 4096          # the length of the rows of a sum; any length would do


def add(a, b):
    check_add(a, b)
    a, b, y = a.reshape(-1), b.reshape(-1), np.empty(a.shape, a.dtype)
    flat, rows = y.reshape(-1), len(a) // RUN
    add_rows(threads(len(a)), a, 0, RUN, b, 0, RUN, flat, RUN, rows)
    np.add(a[rows * RUN:], b[rows * RUN:], out=flat[rows * RUN:])
    return y


def concatenate(a, b):
    check_concatenate(a, b)
    (*shape, A), B = a.shape, b.shape[-1]
    y = np.empty((*shape, A + B), a.dtype)
    copy_rows(threads(a.size), a.reshape(-1), 0, A, y.reshape(-1), 0, A + B, A, a.size // A)
    copy_rows(threads(b.size), b.reshape(-1), 0, B, y.reshape(-1), A, A + B, B, b.size // B)
    return y, A


def concatenate_backward(dy, A):
    *shape, C = dy.shape
    da, db = np.empty((*shape, A), dy.dtype), np.empty((*shape, C - A), dy.dtype)
    copy_rows(threads(da.size), dy.reshape(-1), 0, C, da.reshape(-1), 0, A, A, dy.size // C)
    copy_rows(threads(db.size), dy.reshape(-1), A, C, db.reshape(-1), 0, C - A, C - A, dy.size // C)
    return da, db
