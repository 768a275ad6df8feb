"""Matrix products inside numba's parallel loops, by the OpenBLAS in NumPy's wheel: each thread of a loop
calls it for a block that fits its cache."""

import ctypes
from pathlib import Path

import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import overload

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112        # cblas.h


def _openblas():
    """The library in NumPy's wheel, or None (macOS Accelerate, conda's MKL, a distribution's own BLAS)."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in folder.glob("*openblas64*"):
            library = ctypes.CDLL(str(path))
            if hasattr(library, "scipy_cblas_sgemm64_"):
                return library
    return None


library = _openblas()


def _external(symbol, real):
    """The cblas function as one that numba can call; it takes addresses as integers."""
    llvmlite.binding.add_symbol("tinyddpm_" + symbol, ctypes.cast(library[symbol], ctypes.c_void_p).value)
    i32, i64, address = types.int32, types.int64, types.uintp
    signature = types.void(i32, i32, i32, i64, i64, i64, real, address, i64, address, i64, real, address, i64)
    return types.ExternalFunction("tinyddpm_" + symbol, signature)


if library:
    _sgemm = _external("scipy_cblas_sgemm64_", types.float32)
    _dgemm = _external("scipy_cblas_dgemm64_", types.float64)


def gemm(a, b, c, transpose_a, transpose_b, accumulate):
    """c = a b, or c += a b, for matrices; a and b can be read transposed. Only for compiled code."""
    raise NotImplementedError("gemm is for compiled code")


@overload(gemm)
def _gemm(a, b, c, transpose_a, transpose_b, accumulate):
    def single(a, b, c, transpose_a, transpose_b, accumulate):
        _sgemm(ROW_MAJOR, TRANSPOSED if transpose_a else PLAIN, TRANSPOSED if transpose_b else PLAIN,
               c.shape[0], c.shape[1], a.shape[0] if transpose_a else a.shape[1],
               np.float32(1), a.ctypes.data, a.strides[0] // 4, b.ctypes.data, b.strides[0] // 4,
               np.float32(1 if accumulate else 0), c.ctypes.data, c.strides[0] // 4)

    def double(a, b, c, transpose_a, transpose_b, accumulate):
        _dgemm(ROW_MAJOR, TRANSPOSED if transpose_a else PLAIN, TRANSPOSED if transpose_b else PLAIN,
               c.shape[0], c.shape[1], a.shape[0] if transpose_a else a.shape[1],
               1.0, a.ctypes.data, a.strides[0] // 8, b.ctypes.data, b.strides[0] // 8,
               1.0 if accumulate else 0.0, c.ctypes.data, c.strides[0] // 8)

    return single if c.dtype == types.float32 else double
