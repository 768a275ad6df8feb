"""The twins for the CPU, compiled by numba.

Every kernel is called once for each part of the work, by the threads at once: see `parallel` in jit.py.
"""

import os

import numba
import numpy as np

from tinyddpm.backend import call
from tinyddpm.kernels.cpu import attention, concatenate, conv, linear, memory, norm, resample, update


def activate():
    """Give numba all cores, before it starts its threads; NUMBA_NUM_THREADS sets their number.

    Between two kernels they spin for about as long as Python needs, and then sleep: to wake them takes as long as a
    small kernel, but with the long spin of GNU's OpenMP a step takes twice as long as soon as another program needs one
    of the cores. Environment variables for how OpenMP waits have no effect.
    Returns the files with the twins, the array library, its random generator, and how a network is run.
    """
    memory.keep()
    os.environ["OMP_DYNAMIC"] = "false"
    os.environ.pop("OMP_WAIT_POLICY", None)
    os.environ["GOMP_SPINCOUNT"] = "20000"              # of 300,000
    numba.get_num_threads()                             # starts them, which kernels that come from the cache do not
    return [attention, concatenate, conv, linear, norm, resample, update], np, np.random.default_rng, call


def describe():
    """One line for --verbose."""
    return f"numba {numba.__version__} with {numba.get_num_threads()} threads"
