"""The twins for a GPU: cuBLAS's matrix products, and the kernels of the .cu files around them.

Arrays keep the type that the readable operations give them. The precision of `use` narrows only the operands
of matrix products, to bfloat16 or float16, with sums in float32; never group norm, softmax, loss or update.
bfloat16 numbers are stored in arrays of uint16, because CuPy has no such type.
"""

import cupy

from tinyddpm.backend import state
from tinyddpm.kernels.gpu import attention, conv, linear, loss, norm, resample, update


def activate():
    """The files with the twins, and the array library. Raises RuntimeError if there is no GPU."""
    cupy.cuda.runtime.getDeviceCount()
    return [attention, conv, linear, loss, norm, resample, update], cupy


def describe():
    """One line for --verbose."""
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["name"].decode()
    return f"cupy {cupy.__version__} on {name}, matrix products in {state.precision}"
