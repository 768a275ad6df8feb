"""The kernels of the .cu files: compiled on first use, and launched with arguments of the declared types."""

import functools
import hashlib
import os
import re
from pathlib import Path

import cupy
import numpy as np
from cupy.cuda import nvrtc

from tinyddpm.backend import state

FOLDER = Path(__file__).parent
NARROW = {np.dtype(np.uint16): 1, np.dtype(np.float16): 2}          # of types.cu; bfloat16 has no type in CuPy
DECLARATION = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(.*?\) )?(\w+)\(([^)]*)\)')
PARTS = {"conv.cu": ["instructions.cu"], "dropout.cu": ["philox.cu"], "random.cu": ["philox.cu"]}      # what files need
LEAST_CAPABILITY = 80       # for products of 16-bit numbers and of TF32
HOPPER = "90"                                       # the compute capability whose tensor cores conv.cu knows

# A kernel's name -> its file, and the types of its parameters.
KERNELS = {name: (path.name, ["*" if "*" in p else p.split()[0] for p in parameters.split(",")])
           for path in sorted(FOLDER.glob("*.cu")) for name, parameters in DECLARATION.findall(path.read_text())}


def source(file):
    """The text of a .cu file, preceded by the types."""
    return "".join((FOLDER / part).read_text() for part in ("types.cu", *PARTS.get(file, ()), file))


@functools.cache
def module(file, options):
    """A file, compiled with these options; CuPy caches compiled files on disk."""
    if file != "conv.cu" or cupy.cuda.Device().compute_capability != HOPPER:
        return cupy.RawModule(code=source(file), options=options)
    # CuPy compiles for sm_90, but the instructions of Hopper's tensor cores belong to sm_90a.
    options, code = [*options, f"-arch=sm_{HOPPER}a"], source(file)
    key = hashlib.sha256(repr((code, options, nvrtc.getVersion())).encode()).hexdigest()
    path = Path(os.environ.get("CUPY_CACHE_DIR", os.path.expanduser("~/.cupy/kernel_cache"))) / f"tinyddpm-{key}.cubin"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        program = nvrtc.createProgram(code, file, [], [])
        nvrtc.compileProgram(program, options)
        part = path.with_suffix(f".{os.getpid()}")                  # other processes may do the same
        part.write_bytes(nvrtc.getCUBIN(program))
        os.replace(part, path)
    return cupy.RawModule(path=str(path))


@functools.cache
def kernel(name, dtype, precision, **constants):
    """A kernel for arrays of that type, and a converter for each argument: to int, to real, or None for an array."""
    capability = cupy.cuda.Device().compute_capability
    if precision != "fp32" and int(capability) < LEAST_CAPABILITY:
        raise ValueError(f"precision {precision} needs a GPU of compute capability {LEAST_CAPABILITY / 10}; "
                         f"this one has {int(capability) / 10}")
    real = "double" if dtype == np.float64 else "float"
    narrow = NARROW.get(dtype, 3 if precision != "fp32" and dtype == np.float32 else 0)
    file, kinds = KERNELS[name]
    options = {"REAL": real, "NARROW": narrow, **constants}
    function = module(file, ("--std=c++17", *(f"-D{key}={value}" for key, value in options.items()))).get_function(name)
    if "dynamic" in (FOLDER / file).read_text():
        function.max_dynamic_shared_size_bytes = shared_memory()
    types = {"int": np.int32, "real": np.float64 if real == "double" else np.float32}
    return function.kernel, [types.get(kind) for kind in kinds]


@functools.cache
def shared_memory():
    """The bytes of shared memory that a block can have."""
    return cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]


def launch(name, dtype, grid, block, *arguments, shared=0, **constants):
    """Launch a kernel on arrays of that type; numbers among its arguments are converted to the declared type.

    shared: bytes of shared memory beside what the kernel declares
    constants: are defined for the compiler
    """
    function, converters = kernel(name, dtype, state.precision, **constants)
    arguments = [convert(a) if convert else a for convert, a in zip(converters, arguments, strict=True)]
    function(grid, block, arguments, shared_mem=shared)


def launch_each(name, dtype, size, *arguments, **constants):
    """Launch a kernel with one thread for each of `size` numbers or packs; `size` is its last argument."""
    launch(name, dtype, (-(-size // 256),), (256,), *arguments, size, **constants)


def pack(dtype, *sizes):
    """How many numbers fit in one access of 16 bytes, if that divides all sizes; else 1."""
    width = 16 // dtype.itemsize
    return 1 if any(size % width for size in sizes) else width


def contiguous(x):
    """x, contiguous, and at an address that 16-byte accesses allow."""
    x = cupy.ascontiguousarray(x)
    return x.copy() if x.data.ptr % 16 else x
