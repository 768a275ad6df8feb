"""The twins for the CPU: numba, and BLAS inside its parallel loops.

In every kernel a loop over `worker` gives each thread one fixed part of the work, so that sums are added in the same
order in every run.
"""

import numpy as np

from tinyddpm.kernels.cpu import attention, blas, concatenate, conv, linear, memory, norm, resample, threads, update
from tinyddpm.kernels.cpu.threads import describe


def activate():
    """Give the cores to numba's threads. Returns the files with the twins, the array library, its random generator."""
    memory.keep()
    threads.share()
    files = [concatenate, norm, resample, update] + ([attention, conv, linear] if blas.library else [])
    return files, np, np.random.default_rng
