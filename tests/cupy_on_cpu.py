"""A stand-in for CuPy where there is no GPU: NumPy's arrays, the .cu files as C++, cuBLAS's two products in float64.

It is stricter than a GPU. Host and device arrays do not mix. A kernel's arguments must have the types of its signature,
be contiguous, and be device arrays. New arrays hold NaN, so that elements which no kernel wrote are noticed. Every
wait of the host for the device is counted. It cannot show speed, or what only happens between a real GPU's threads.
"""

import atexit
import contextlib
import ctypes
import functools
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("c++")
waits = []                      # one entry for each wait of the host for a result
recording = False               # whether a wait, or a copy from the host, would spoil a graph


def wait(what):
    waits.append(what)
    assert not recording, f"{what} waits while a graph is recorded"


class ndarray(np.ndarray):
    """A device array: a NumPy array that refuses to be mixed with host arrays."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if any(getattr(x, "dtype", None) == np.uint16 for x in inputs):
            raise TypeError("arrays of uint16 hold bfloat16: only kernels can compute with them")
        if out is not None:
            kwargs["out"] = tuple(map(on_host, out))
        with np.errstate(all="ignore"):                     # a GPU gives no warnings
            result = getattr(ufunc, method)(*map(on_host, inputs), **kwargs)
        return out[0] if out is not None else on_device(result)

    def __array_function__(self, function, _, args, kwargs):
        return on_device(function(*on_host(args), **{name: on_host(a) for name, a in kwargs.items()}))

    def _waits(name):
        def method(self, *args):
            wait(name)
            return getattr(self.view(np.ndarray), name)(*args)
        return method

    for _name in ("__float__", "__int__", "__bool__", "__index__", "item", "tolist"):
        locals()[_name] = _waits(_name)

    def _reduces(name):
        return lambda self, *args, **kwargs: on_device(getattr(self.view(np.ndarray), name)(*args, **kwargs))

    for _name in ("mean", "var", "sum", "max", "min", "repeat"):
        locals()[_name] = _reduces(_name)

    def set(self, a):
        assert not recording, "a copy from the host while a graph is recorded"
        self.view(np.ndarray)[...] = a

    def get(self):
        wait("get")
        return self.view(np.ndarray).copy()

    def __getitem__(self, index):
        if any(getattr(i, "dtype", None) == bool for i in (index if isinstance(index, tuple) else (index,))):
            wait("a mask")
        return on_device(super().__getitem__(on_host(index)))

    def __setitem__(self, index, value):
        self.view(np.ndarray)[on_host(index)] = on_host(value)

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.__array_interface__["data"][0])


def on_host(x):
    """Device arrays as NumPy arrays. Raises TypeError for a host array among them."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(on_host, x))
    if type(x) is np.ndarray and x.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return x.view(np.ndarray) if isinstance(x, ndarray) else x


def on_device(x):
    if isinstance(x, (tuple, list)):
        return type(x)(map(on_device, x))
    return np.asarray(x).view(ndarray) if isinstance(x, (np.ndarray, np.generic)) else x


def empty(shape, dtype=np.float64):
    a = np.empty(shape, dtype)
    a.reshape(-1).view(np.uint8)[:] = 0xff                      # NaN in every floating-point type, bfloat16 too
    return a.view(ndarray)


def asarray(x, dtype=None):
    assert isinstance(x, ndarray) or not recording, "a copy from the host while a graph is recorded"
    return np.asarray(x.view(np.ndarray) if isinstance(x, ndarray) else x, dtype).view(ndarray)


# ---- kernels ----

@functools.cache
def compiled(code, options):
    """A .cu file compiled to a library, and its kernels: name -> types of the arguments."""
    source = f'#include "{HERE / "cuda_on_cpu.h"}"\n{code}'
    expanded = subprocess.run([COMPILER, "-x", "c++", "-E", "-P", *options, "-"], input=source, capture_output=True,
                              text=True, check=True).stdout
    signatures, calls = {}, ""
    for name, parameters, body in re.findall(r'extern "C"\s+void (\w+)\(([^)]*)\)(.*?)(?=extern "C"|\Z)', expanded,
                                             re.DOTALL):
        kinds = [re.sub(r"\bconst\b|__restrict__|\s", "", p.strip().rsplit(maxsplit=1)[0])
                 for p in parameters.split(",")]
        signatures[name] = kinds
        values = ", ".join(f"*({kind}*)a[{i}]" for i, kind in enumerate(kinds))
        words = "__syncthreads", "convolve<", "sum_lanes(", "row_reduce"
        together = any(word in body for word in words)                      # threads that wait for each other
        calls += (f'static void call_{name}(void** a) {{ {name}({values}); }}\n'
                  f'extern "C" void run_{name}(void** a, int gx, int gy, int bx, int by, int bytes) '
                  f'{{ launch(call_{name}, a, gx, gy, bx, by, {int(together)}, bytes); }}\n')
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        subprocess.run([COMPILER, "-x", "c++", "-O1", "-w", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", *options, "-o",
                        library, "-"], input=source + calls, text=True, check=True)
        return ctypes.CDLL(str(library)), signatures


class RawModule:
    def __init__(self, code, options):
        self.library, self.signatures = compiled(code, tuple(options))
        given = dict(o.removeprefix("-D").split("=") for o in options if o.startswith("-D"))
        real = np.float64 if given["REAL"] == "double" else np.float32
        number = (real, np.uint16, np.float16, real)[int(given["NARROW"])]
        self.types = {"real": real, "number": number,
                      "int": np.int32, "bool": np.bool_}

    def get_function(self, name):
        def start(grid, block, arguments, shared_mem=0):
            kinds, slots = self.signatures[name], []
            assert len(arguments) == len(kinds), f"{name}: {len(arguments)} arguments for {kinds}"
            for a, kind in zip(arguments, kinds):
                if kind.endswith("*") and isinstance(a, ndarray):
                    right = a.dtype == self.types[kind[:-1]] and a.flags.c_contiguous
                    assert right, f"{name}: {a.dtype} for {kind}, or not contiguous"
                    slots.append(ctypes.c_void_p(a.data.ptr))
                elif kind.endswith("*"):
                    assert type(a) is np.uintp and a == 0, f"{name}: {a!r} for {kind}"
                    slots.append(ctypes.c_void_p(0))
                else:
                    assert type(a) is self.types[kind], f"{name}: {a!r} for {kind}"
                    slots.append(np.ctypeslib.as_ctypes_type(type(a))(a))
            pointers = (ctypes.c_void_p * len(slots))(*(ctypes.addressof(slot) for slot in slots))
            (gx, gy), (bx, by) = ((*size, 1)[:2] for size in (grid, block))
            assert bx * by <= 1024 and gy <= 65535 and shared_mem <= getattr(start, "max_dynamic_shared_size_bytes", 0)
            getattr(self.library, f"run_{name}")(pointers, gx, gy, bx, by, shared_mem)
        start.kernel = start
        return start


@functools.cache
def blas():
    """The path of a library with cuBLAS's functions."""
    library = Path(tempfile.mkdtemp()) / "cublas.so"
    atexit.register(shutil.rmtree, library.parent)
    subprocess.run([COMPILER, "-O1", "-w", "-shared", "-fPIC", "-o", library, HERE / "cublas_on_cpu.cpp"], check=True)
    return str(library)


# ---- graphs ----

def record(method, arguments, pool, stream):
    """A replay runs the method again. Only a GPU shows what a graph would have kept of a host's value."""
    from tinyddpm.kernels.gpu.random import Recorded

    generators, found = [a for a in arguments if isinstance(a, Recorded)], types.SimpleNamespace()
    if generators:
        method(*arguments)                  # which counts the draws

    def launch():
        global recording
        for generator in generators:
            generator.draws = 0
        recording = True
        try:
            found.copy = method(*arguments).copy
        finally:
            recording = False
    return launch, found


# ---- NCCL, between threads of this process ----

class Nccl(types.ModuleType):
    available, NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = True, 7, 8, 0
    identity = bytes(range(100, 228))
    places, barrier = {}, None

    def get_unique_id(self):
        return self.identity

    def NcclCommunicator(self, size, identity, rank):
        assert type(identity) is bytes and identity == self.identity
        return Communicator(size, rank)


nccl = Nccl("cupy.cuda.nccl")


class Communicator:
    def __init__(self, size, rank):
        self.size, self.rank = size, rank

    def destroy(self):
        Nccl.barrier.wait(20)
        time.sleep(self.rank * 0.4)

    def _all(self, address, count, kind):
        """This rank's array, and those of all ranks once all have arrived."""
        mine = np.frombuffer((ctypes.c_char * (count * {7: 4, 8: 8}[kind])).from_address(address),
                             {7: np.float32, 8: np.float64}[kind])
        Nccl.places[self.rank] = mine.copy()
        Nccl.barrier.wait(20)
        found = [Nccl.places[rank] for rank in range(self.size)]
        Nccl.barrier.wait(20)
        return mine, found

    def allReduce(self, source, target, count, kind, operation, stream):
        assert source == target and operation == Nccl.NCCL_SUM
        mine, found = self._all(source, count, kind)
        mine[...] = sum(found)

    def bcast(self, address, count, kind, root, stream):
        mine, found = self._all(address, count, kind)
        mine[...] = found[root]


# ---- the modules ----

def _module(name, **content):
    module = types.ModuleType(name)
    vars(module).update(content)
    return module


def _numpys(name):
    function = getattr(np, name)
    if not callable(function) or isinstance(function, type):
        return function
    if name == "add":
        return types.SimpleNamespace(at=lambda a, index, b: np.add.at(*on_host((a, index, b))))
    return lambda *args, **kwargs: on_device(function(*on_host(args), **kwargs))


DEVICE = types.SimpleNamespace(use=lambda: None, compute_capability="80",
                               attributes={"MaxSharedMemoryPerBlockOptin": 101376})


def modules():
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 1, getDevice=lambda: 0, runtimeGetVersion=lambda: 13000,
                                    getDeviceProperties=lambda i: {"name": b"a CPU, as a stand-in"})
    pool = functools.partial(types.SimpleNamespace, total_bytes=lambda: 123, free_all_blocks=lambda: None)
    device = types.SimpleNamespace(get_cublas_handle=lambda: 0)
    stream = types.SimpleNamespace(synchronize=lambda: waits.append("synchronize"), ptr=0)
    cuda = types.SimpleNamespace(runtime=runtime, device=device, get_current_stream=lambda: stream, nccl=nccl,
                                 compiler=None, nvrtc=None, Device=lambda i=0: DEVICE, MemoryPool=pool,
                                 Stream=lambda non_blocking: None)
    cupy = _module("cupy", __version__="14.0 on a CPU", __getattr__=_numpys, ndarray=ndarray, empty=empty,
                   asarray=asarray, array=asarray,
                   empty_like=lambda a: empty(a.shape, a.dtype), RawModule=RawModule, cuda=cuda,
                   get_default_memory_pool=pool)
    libs = _module("cupy_backends.cuda.libs", cublas=_module("cublas", __file__=blas()))
    names = {"cupy": cupy, "cupy.cuda": cuda, "cupy_backends": _module("cupy_backends"),
             "cupy_backends.cuda": _module("cupy_backends.cuda"),
             "cupy_backends.cuda.libs": libs}
    return names


@contextlib.contextmanager
def installed():
    """Within the block, `import cupy` finds the stand-in."""
    import tinyddpm

    ours = modules()
    before = {name: sys.modules.get(name) for name in ours}
    sys.modules.update(ours)
    waits.clear()
    importlib.import_module("tinyddpm.kernels.gpu.graph").record = record
    try:
        yield
    finally:
        tinyddpm.use("numpy")
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
        for name in [name for name in sys.modules if name.startswith("tinyddpm.kernels.gpu")]:
            del sys.modules[name]                               # which refers to the stand-in
