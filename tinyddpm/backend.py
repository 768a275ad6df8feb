"""Which array library is in force, and which table of operations.

Layers call `ops.conv2d(...)`; `use` decides what stands behind the name: the readable operation
from tinyddpm/ops, or its faster twin from tinyddpm/kernels, or a function of your own.
"""

import importlib
import sys
import zlib
from types import SimpleNamespace

import numpy as np

ops = SimpleNamespace()     # the table: attribute name -> the operation in force
state = SimpleNamespace(backend=None, xp=np, precision="fp32", own=())

BACKENDS = ("numpy", "numba", "cupy")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
INSTALL = {"numba": "pip install numba", "cupy": "pip install cupy-cuda12x[ctk]  (or cupy-cuda13x[ctk])"}


def use(backend="auto", overrides=None, precision="fp32"):
    """Fill the table of operations; may be called again at any time.

    backend: "numpy" (the readable code), "numba" (fast on a CPU), "cupy" (a GPU), or "auto":
        numba where it can be imported, else numpy.
    overrides: a module whose functions replace the operations of the same name, forward and
        backward together. A fused operation that contains an overridden one falls back to its
        readable form, which is built from the parts.
    precision: of what goes into matrix products, whose sums are float32: "fp32", or on a GPU "tf32",
        "bf16" or "fp16" (kernels/gpu.py); all else is as it was.
    Returns the name of the backend. Raises ValueError for a backend that is unknown or not
    installed, for overrides that hold half a pair or no operation at all, and for a precision that
    the backend does not have.
    """
    from tinyddpm import ops as readable
    from tinyddpm.overrides import find

    if backend == "auto":
        try:
            importlib.import_module("numba")
            backend = "numba"
        except ImportError:
            backend = "numpy"
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)} or auto")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision != "fp32" and backend != "cupy":
        raise ValueError(f"precision {precision} needs a GPU, backend cupy; the backend {backend} has fp32 alone")
    own = find(overrides, readable.TABLE) if overrides else {}
    twins, xp = _load(backend)
    for fused, parts in readable.COMPOSED_OF.items():
        if own.keys() & set(parts):
            twins = {name: f for name, f in twins.items() if name.removesuffix("_backward") != fused}

    vars(ops).clear()
    vars(ops).update(readable.TABLE | twins | own)
    state.backend, state.xp, state.precision, state.own = backend, xp, precision, tuple(own)
    return backend


def _load(backend):
    """The faster twins of a backend and its array library; the threads are shared out here."""
    if backend == "numpy":
        if "tinyddpm.kernels.threads" in sys.modules:
            sys.modules["tinyddpm.kernels.threads"].restore()
        return {}, np
    try:
        if backend == "cupy":
            cupy = importlib.import_module("cupy")
            cupy.cuda.runtime.getDeviceCount()
            return importlib.import_module("tinyddpm.kernels.gpu").activate(), cupy
        return importlib.import_module("tinyddpm.kernels.cpu").activate(), np
    except ImportError as error:
        raise ValueError(f"the {backend} backend needs {backend}: {INSTALL[backend]}  ({error})") from None
    except RuntimeError as error:      # CuPy without a device
        raise ValueError(f"the {backend} backend finds no device: {error}") from None


def describe():
    """The backend in force, its version and its threads, in one line."""
    if state.backend == "numba":
        return importlib.import_module("tinyddpm.kernels.threads").describe()
    if state.backend == "cupy":
        name = state.xp.cuda.runtime.getDeviceProperties(state.xp.cuda.runtime.getDevice())["name"].decode()
        return f"cupy {state.xp.__version__} on {name}, matrix products in {state.precision}"
    return f"{state.xp.__name__} {state.xp.__version__}"


def array_module(x):
    """numpy or cupy: the library that the array x belongs to."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np


def to_numpy(x):
    """x as a NumPy array, copied from the GPU if it lives there."""
    return x.get() if hasattr(x, "get") else np.asarray(x)


def from_numpy(x):
    """x as an array of the library in force, copied to the GPU if that is CuPy's."""
    return state.xp.asarray(x)


def generator(seed, *stream):
    """A random generator of the library in force.

    The stream (words and numbers, such as "train", 17) selects one of many independent
    generators of the same seed. A run draws step k's numbers from generator(seed, "train", k):
    it can be resumed at any step with nothing but the seed and the step.
    """
    key = [seed] + [zlib.crc32(s.encode()) if isinstance(s, str) else s for s in stream]
    if state.xp is np:
        return np.random.default_rng(key)
    random, number = state.xp.random, int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    # Counter-based: a new one costs nothing, where XORWOW takes milliseconds. The size makes the numbers those of any GPU.
    return random.Generator(random.Philox4x3210(number, size=2**18))
