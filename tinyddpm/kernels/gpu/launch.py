"""The kernels of the .cu files: compiled on first use, and launched with arguments of the declared types."""

import functools
import re
from pathlib import Path

import cupy
import numpy as np

from tinyddpm.backend import state

FOLDER = Path(__file__).parent
NARROW = {"fp32": 0, "tf32": 0, "bf16": 1, "fp16": 2}
DECLARATION = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')

# A kernel's name -> its file, and the types of its parameters.
KERNELS = {name: (path.name, [parameter.strip().rsplit(maxsplit=1)[0] for parameter in parameters.split(",")])
           for path in sorted(FOLDER.glob("*.cu")) for name, parameters in DECLARATION.findall(path.read_text())}


def source(file):
    """The text of a .cu file, preceded by the types."""
    return (FOLDER / "types.cu").read_text() + (FOLDER / file).read_text()


@functools.cache
def module(file, real, narrow):
    """A file, compiled for these types; CuPy caches compiled files on disk."""
    return cupy.RawModule(code=source(file), options=("--std=c++17", f"-DREAL={real}", f"-DNARROW={narrow}"))


@functools.cache
def kernel(name, real, narrow):
    return module(KERNELS[name][0], real, narrow).get_function(name)


def launch(name, dtype, grid, block, *arguments):
    """Launch a kernel; numbers among its arguments are converted to the declared type, int or real."""
    types, (_, kinds) = {"int": np.int32, "real": dtype.type}, KERNELS[name]
    arguments = [a if kind.endswith("*") else types[kind](a) for a, kind in zip(arguments, kinds, strict=True)]
    real = "double" if dtype == np.float64 else "float"
    kernel(name, real, narrow_to(dtype))(grid, block, arguments)


def launch_each(name, dtype, size, *arguments):
    """Launch a kernel with one thread for each of `size` numbers; `size` is its last argument."""
    launch(name, dtype, (-(-size // 256),), (256,), *arguments, size)


def narrow_to(dtype):
    """The NARROW of the active precision: only float32 is narrowed."""
    return NARROW[state.precision] if dtype == np.float32 else 0
