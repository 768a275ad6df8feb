"""The linear map."""

import cupy

from tinyddpm.kernels.gpu.product import column_sums, multiply, operands, start
from tinyddpm.ops.accumulate import Accumulating


def linear(x, w, b):
    y, rows, filters = start((*x.shape[:-1], len(b)), b), operands(x).reshape(-1, len(w)), operands(w)
    multiply(rows, filters, y.reshape(-1, len(b)), add=True)
    return y, (rows, filters, x.shape)


@Accumulating
def linear_backward(dy, cache, dw, db):
    rows, filters, shape = cache
    dy = cupy.ascontiguousarray(dy).reshape(-1, dw.shape[1])
    narrow_dy, dx = operands(dy), cupy.empty(shape, dy.dtype)
    multiply(narrow_dy, filters, dx.reshape(rows.shape), transpose_b=True)
    multiply(rows, narrow_dy, dw, transpose_a=True, add=True)
    db += column_sums(dy[None])[0]
    return dx
