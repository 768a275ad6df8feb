"""Threads: numba and BLAS each have a pool, and two pools would compete for the same cores.

A matrix product after a parallel loop would then take 8 ms instead of 1.1. So only numba's threads are used, and each
calls BLAS with one thread. To wait for each other they spin briefly, and then sleep: with the long spin of GNU's
OpenMP, a step takes twice as long as soon as another program needs one of the cores. If NumPy has a BLAS other than
OpenBLAS (macOS Accelerate, MKL), both pools remain, and numba's threads sleep at once.
"""

import ctypes
import os

import numba

from tinyddpm.kernels.cpu import blas

default = blas.library.scipy_openblas_get_num_threads64_() if blas.library else None


def share():
    """Give the cores to numba, before it starts its threads. NUMBA_NUM_THREADS sets their number; environment
    variables for the number of BLAS's threads, and for how OpenMP's wait, have no effect."""
    os.environ["OMP_DYNAMIC"] = "false"
    if blas.library:
        blas.library.scipy_openblas_set_num_threads64_(1)
        os.environ.pop("OMP_WAIT_POLICY", None)
        os.environ["GOMP_SPINCOUNT"] = "1000"               # of 300,000
    else:
        os.environ["OMP_WAIT_POLICY"] = "passive"


def restore():
    """Give BLAS its threads back, for the numpy backend, which has no others."""
    if blas.library:
        blas.library.scipy_openblas_set_num_threads64_(default)


def describe():
    """One line for --verbose."""
    threads = f"numba {numba.__version__} with {numba.get_num_threads()} threads"
    if blas.library:
        return f"{threads}, each calling OpenBLAS (kernels for {core_name()}) on its own"
    return (f"{threads}; NumPy brings another BLAS than OpenBLAS, which compiled code cannot call: "
            "convolution, linear map and attention use NumPy and are slower")


def core_name():
    """The type of processor for which OpenBLAS chose its kernels."""
    if not blas.library:
        return "unknown (NumPy has another BLAS)"
    function = blas.library.scipy_openblas_get_corename64_
    function.restype = ctypes.c_char_p
    return function().decode()
