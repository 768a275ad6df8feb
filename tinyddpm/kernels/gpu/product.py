"""Matrix products by cuBLAS, with their operands, the arrays to which they are added, and sums over rows."""

import functools

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas

from tinyddpm.backend import state
from tinyddpm.kernels.gpu.launch import launch, launch_each, narrow_to

R_64F, R_32F, R_16F, R_16BF = 1, 0, 2, 14                           # cuBLAS's types
COMPUTE_64F, COMPUTE_32F, COMPUTE_TF32 = 70, 68, 77                 # and its arithmetic


def operands(x):
    """x, contiguous, in the type of the operands of matrix products."""
    x = cupy.ascontiguousarray(x)
    narrow = narrow_to(x.dtype)
    if not narrow:
        return x
    y = cupy.empty(x.shape, np.float16 if narrow == 2 else np.uint16)
    launch_each("operands", x.dtype, x.size, x, y)
    return y


@functools.cache
def number(value, dtype):
    """A number that cuBLAS reads from the host's memory."""
    return np.full(1, value, dtype)


def multiply(a, b, out, transpose_a=False, transpose_b=False, add=False):
    """out = a b, or out += a b, each (rows, columns), or (batch, rows, columns) with any strides before the columns.

    cuBLAS stores matrices by columns, so it computes out^T = b^T a^T.
    """
    (M, N), K = out.shape[-2:], a.shape[-2 if transpose_a else -1]
    types = {np.float64: R_64F, np.float32: R_32F, np.float16: R_16F, np.uint16: R_16BF}
    kinds = [types[z.dtype.type] for z in (b, a, out)]
    compute = COMPUTE_64F if kinds[2] == R_64F else COMPUTE_TF32 if state.precision == "tf32" else COMPUTE_32F
    one, factor = (number(value, out.dtype).ctypes.data for value in (1, int(add)))
    handle = cupy.cuda.device.get_cublas_handle()
    steps = [max(z.strides[-2] // z.itemsize, z.shape[-1]) for z in (b, a, out)]            # from row to row
    B, A, C = ((z.data.ptr, kind, step) for z, kind, step in zip((b, a, out), kinds, steps))
    if out.ndim == 2:
        cublas.gemmEx(handle, transpose_b, transpose_a, N, M, K, one, *B, *A, factor, *C, compute, -1)
    else:
        nextb, nexta, nextc = (z.strides[0] // z.itemsize for z in (b, a, out))                 # from matrix to matrix
        cublas.gemmStridedBatchedEx(handle, transpose_b, transpose_a, N, M, K, one, *B, nextb, *A, nexta, factor,
                                    *C, nextc, len(out), compute, -1)


def start(shape, b, other=None):
    """An array of that shape (..., K) that holds b + other, to which a product is added."""
    y = cupy.empty(shape, b.dtype)
    pixels = 1 if other is None or other.size == y.size else y.size // other.size
    other = np.uintp(0) if other is None else other
    launch_each("start", b.dtype, y.size, y, cupy.ascontiguousarray(b), other, pixels, shape[-1])
    return y


def column_sums(x):
    """x (S, rows, K) -> (S, K), for many rows in two stages: over parts of about a thousand, then over the parts."""
    S, rows, K = x.shape
    parts = next(parts for parts in range(max(1, rows // 1024), 0, -1) if rows % parts == 0)
    if parts > 1:
        return column_sums(column_sums(x.reshape(S * parts, -1, K)).reshape(S, parts, K))
    sums = cupy.empty((S, K), x.dtype)
    launch("column_sums", x.dtype, (-(-K // 32), S), (32, 8), x, sums, rows, K)
    return sums
