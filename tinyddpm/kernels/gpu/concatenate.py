"""Sums, and channels put together and taken apart."""

import cupy

from tinyddpm.kernels.gpu.launch import contiguous, launch_each, pack
from tinyddpm.ops.concatenate import check_add, check_concatenate


def add(a, b):
    check_add(a, b)
    y, V = cupy.empty(a.shape, a.dtype), pack(a.dtype, a.size)
    launch_each("add", a.dtype, y.size // V, contiguous(a), contiguous(b), y, V=V)
    return y


def concatenate(a, b):
    check_concatenate(a, b)
    A, B = a.shape[-1], b.shape[-1]
    y = cupy.empty((*a.shape[:-1], A + B), a.dtype)
    _copy(contiguous(a), contiguous(b), y, A, B, 1)
    return y, A


def concatenate_backward(dy, A):
    B = dy.shape[-1] - A
    da, db = (cupy.empty((*dy.shape[:-1], channels), dy.dtype) for channels in (A, B))
    _copy(da, db, contiguous(dy), A, B, 0)
    return da, db


def _copy(a, b, y, A, B, join):
    V = pack(y.dtype, A, B)
    launch_each("concatenate", y.dtype, y.size // V, a, b, y, A // V, B // V, join, V=V)
