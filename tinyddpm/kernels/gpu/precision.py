"""The arrays between the operations, narrow and wide."""

import cupy
import numpy as np

from tinyddpm.kernels.gpu import product
from tinyddpm.kernels.gpu.launch import contiguous, launch_each
from tinyddpm.kernels.gpu.product import narrowed


def narrow(x, values):
    product.parameters = product.Parameters(values)
    return narrowed(x), None


def widen(x):
    product.parameters = product.Parameters()
    return _wide(x), None


def narrow_backward(dy, cache):
    return _wide(dy)


def widen_backward(dy, cache):
    return narrowed(dy)


def _wide(x):
    if x.dtype.itemsize > 2:
        return x
    y = cupy.empty(x.shape, np.float32)
    launch_each("widen", x.dtype, y.size, contiguous(x), y)
    return y
