"""Operands of matrix products, their types and their padding; products by cuBLAS; sums over rows."""

import ctypes
import functools
import os

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas

from tinyddpm.backend import state
from tinyddpm.kernels.gpu.launch import contiguous, launch, launch_each, pack

R_64F, R_32F, R_16F, R_16BF = 1, 0, 2, 14                           # cuBLAS's types
COMPUTE_64F, COMPUTE_32F, COMPUTE_TF32 = 70, 68, 77                 # and its arithmetic
TYPES = {np.float64: R_64F, np.float32: R_32F, np.float16: R_16F, np.uint16: R_16BF}
WORKSPACE = 2**25           # bytes of memory for cuBLAS, as NVIDIA advises for large GPUs
NARROW_TYPES = {"bf16": np.dtype(np.uint16), "fp16": np.dtype(np.float16)}


def padded(x, axes=1):
    """x, contiguous, its last `axes` axes, 1 or 2, padded with zeros to whole packs of 16 bytes."""
    sides, width = x.shape[-axes:], 16 // x.dtype.itemsize
    wanted = tuple(-(-side // width) * width for side in sides)
    if wanted == sides:
        return contiguous(x)
    y, one = cupy.empty((*x.shape[:-axes], *wanted), x.dtype), (1,) * (2 - axes)
    launch_each("pad", x.dtype, y.size, cupy.ascontiguousarray(x), y, *one, *sides, *one, *wanted)
    return y


def filters(w, dtype):
    """Weights in that type, their last two axes padded."""
    if dtype == w.dtype:
        return padded(w, 2)
    start = (w.data.ptr - parameters.start) // w.itemsize
    if 0 <= start < parameters.size:
        w = parameters.narrow[start:start + w.size].reshape(w.shape)
    return padded(narrowed(w), 2)


def narrowed(x):
    """x, contiguous, in 16 bits if the precision has so many."""
    x, dtype = contiguous(x), NARROW_TYPES.get(state.precision)
    if dtype is None or x.dtype != np.float32:
        return x
    y, V = cupy.empty(x.shape, dtype), pack(x.dtype, x.size)
    launch_each("narrow", dtype, y.size // V, x, y, V=V)
    return y


class Parameters:
    """A narrow copy of a network's parameters, made once for a forward (see ops.narrow)."""

    def __init__(self, values=None):
        self.narrow = None if values is None else narrowed(values)
        self.start, self.size = (0, 0) if self.narrow is values else (values.data.ptr, values.size)


parameters = Parameters()


@functools.cache
def number(value, dtype):
    """A number that cuBLAS reads from the host's memory."""
    return np.full(1, value, dtype)


@functools.cache
def blas():
    """The library that CuPy has loaded: CuPy's own calls of it refuse to be recorded in a graph. And its workspace."""
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    library = ctypes.CDLL(f"cublas64_{major}.dll" if os.name == "nt" else cublas.__file__)
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    head, one = [pointer, *[integer] * 5, pointer], [pointer, integer, integer]
    library.cublasGemmEx.argtypes = [*head, *one, *one, pointer, *one, integer, integer]
    library.cublasGemmStridedBatchedEx.argtypes = [*head, *one, long, *one, long, pointer, *one, long, *[integer] * 3]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    return library, cupy.empty(WORKSPACE, np.uint8)


def multiply(a, b, out, transpose_a=False, transpose_b=False, add=False):
    """out = a b, or out += a b, each (rows, columns), or (batch, rows, columns) with any strides before the columns.

    cuBLAS stores matrices by columns, so it computes out^T = b^T a^T.
    """
    (M, N), K = out.shape[-2:], a.shape[-2 if transpose_a else -1]
    kinds = [TYPES[z.dtype.type] for z in (b, a, out)]
    narrower = kinds[0] == R_32F and state.precision != "fp32"
    compute = COMPUTE_64F if kinds[2] == R_64F else COMPUTE_TF32 if narrower else COMPUTE_32F
    real = np.float64 if compute == COMPUTE_64F else np.float32
    one, factor = (number(value, real).ctypes.data for value in (1, int(add)))
    library, workspace = blas()
    handle = cupy.cuda.device.get_cublas_handle()
    library.cublasSetStream_v2(handle, cupy.cuda.get_current_stream().ptr)
    library.cublasSetWorkspace_v2(handle, workspace.data.ptr, workspace.nbytes)
    steps = [max(z.strides[-2] // z.itemsize, z.shape[-1]) for z in (b, a, out)]            # from row to row
    B, A, C = ((z.data.ptr, kind, step) for z, kind, step in zip((b, a, out), kinds, steps))
    if out.ndim == 2:
        status = library.cublasGemmEx(handle, transpose_b, transpose_a, N, M, K, one, *B, *A, factor, *C, compute, -1)
    else:
        nextb, nexta, nextc = (z.strides[0] // z.itemsize for z in (b, a, out))                 # from matrix to matrix
        status = library.cublasGemmStridedBatchedEx(handle, transpose_b, transpose_a, N, M, K, one, *B, nextb, *A,
                                                    nexta, factor, *C, nextc, len(out), compute, -1)
    if status:
        raise RuntimeError(f"cuBLAS: status {status} for a product of {a.shape} and {b.shape}")


def column_sums(x):
    """x (S, rows, K) -> (S, K), real, for many rows in two stages: over parts of about a thousand, then over these."""
    S, rows, K = x.shape
    if rows == 1 and x.dtype.itemsize > 2:
        return x.reshape(S, K)
    parts = next(parts for parts in range(max(1, rows // 1024), 0, -1) if rows % parts == 0)
    if parts > 1:
        return column_sums(column_sums(x.reshape(S * parts, -1, K)).reshape(S, parts, K))
    sums = cupy.empty((S, K), np.float64 if x.dtype == np.float64 else np.float32)
    V = pack(x.dtype, K)
    packs = min(32, K // V)
    lanes = min(1024 // packs, rows)
    launch("column_sums", x.dtype, (-(-K // (packs * V)), S), (packs, lanes), x, sums, rows, K, V=V)
    return sums


def add_sums(a, parts_a, b=None, parts_b=None):
    """a += the sum of parts_a (parts, *a.shape) over the parts, and b likewise, in one launch."""
    if b is None:
        b, parts_b = a[:0], parts_a
    V = pack(a.dtype, a.size, b.size)
    blocks_a, blocks_b = (-(-z.size // (32 * V)) for z in (a, b))
    launch("add_sums", a.dtype, (blocks_a + blocks_b,), (32, 8), a, parts_a, len(parts_a), a.size, b, parts_b,
           len(parts_b), b.size, blocks_a, V=V)
