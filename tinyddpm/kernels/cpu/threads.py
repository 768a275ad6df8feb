"""Who has the cores: numba's threads and BLAS's are two pools, and two pools on the same cores fight.

One matrix product after one parallel loop then takes 8 ms instead of 1.1. So numba's threads are the only ones, and
each calls BLAS with one thread. They wait for each other in a short loop, and then asleep: with the long loop of GNU's
OpenMP, a step takes twice as long as soon as another program wants one of the cores. Where NumPy brings another BLAS
than OpenBLAS (macOS Accelerate, MKL), both pools stay, and numba's threads sleep at once.
"""

import ctypes
import os

import numba

from tinyddpm.kernels.cpu import blas

default = blas.library.scipy_openblas_get_num_threads64_() if blas.library else None


def share():
    """Give the cores to numba, before it starts its threads. How many there are is NUMBA_NUM_THREADS's to say; what the
    environment says of BLAS's threads, and of how OpenMP's wait, no longer counts."""
    os.environ["OMP_DYNAMIC"] = "false"
    if blas.library:
        blas.library.scipy_openblas_set_num_threads64_(1)
        os.environ.pop("OMP_WAIT_POLICY", None)
        os.environ["GOMP_SPINCOUNT"] = "1000"               # of 300,000
    else:
        os.environ["OMP_WAIT_POLICY"] = "passive"


def restore():
    """Give BLAS its threads back, for the backend that has nothing else."""
    if blas.library:
        blas.library.scipy_openblas_set_num_threads64_(default)


def describe():
    """One line for --verbose."""
    threads = f"numba {numba.__version__} with {numba.get_num_threads()} threads"
    if blas.library:
        return f"{threads}, each calling OpenBLAS (its kernels for {core_name()}) by itself"
    return (f"{threads}; NumPy brings another BLAS than OpenBLAS, which compiled code cannot call: "
            "convolution, linear map and attention stay NumPy's, and slower")


def core_name():
    """The processor whose kernels OpenBLAS chose."""
    if not blas.library:
        return "unknown (NumPy has another BLAS)"
    function = blas.library.scipy_openblas_get_corename64_
    function.restype = ctypes.c_char_p
    return function().decode()
