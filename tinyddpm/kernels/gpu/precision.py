"""The arrays between the operations, narrow and wide."""

import cupy
import numpy as np

from tinyddpm.kernels.gpu.launch import contiguous, launch_each
from tinyddpm.kernels.gpu.product import narrowed


def narrow(x):
    return narrowed(x), None


def widen(x):
    if x.dtype.itemsize > 2:
        return x, None
    y = cupy.empty(x.shape, np.float32)
    launch_each("widened", x.dtype, y.size, contiguous(x), y)
    return y, None


def narrow_backward(dy, cache):
    return widen(dy)[0]


def widen_backward(dy, cache):
    return narrow(dy)[0]
