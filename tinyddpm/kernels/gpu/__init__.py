"""The twins for a GPU: the kernels of the .cu files, and cuBLAS's matrix products for attention.

With the precisions bf16 and fp16, `narrow` and `widen` enclose the part of a network whose arrays have 16 bits: each
twin gives its result the type of its argument. bfloat16 numbers are stored in arrays of uint16, because CuPy has no
such type. Parameters and their gradients, statistics, sums, softmax, loss and update are float32 in all precisions;
products of float32 arrays use TF32 in all but fp32.
"""

import cupy

from tinyddpm.backend import state
from tinyddpm.kernels.gpu import attention, concatenate, conv, dropout, embedding, loss, norm, precision, resample
from tinyddpm.kernels.gpu import update
from tinyddpm.kernels.gpu.graph import run
from tinyddpm.kernels.gpu.random import Generator


def activate():
    """The files with the twins, the array library, its random generator, and how a network is run (see graph.py).

    Raises RuntimeError if there is no GPU.
    """
    cupy.cuda.runtime.getDeviceCount()
    files = [attention, concatenate, conv, dropout, embedding, loss, norm, precision, resample, update]
    return files, cupy, Generator, run


def describe():
    """One line for --verbose."""
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["name"].decode()
    return f"cupy {cupy.__version__} on {name}, precision {state.precision}"
