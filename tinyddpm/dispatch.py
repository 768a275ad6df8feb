"""Selects the functions behind the names in `ops`: the readable operations, their faster twins, or a learner's own.

The package `ops` is the table. This is the only module that knows the kernels.
"""

import importlib
import inspect
import re

import numpy as np

from tinyddpm import ops
from tinyddpm import overrides as learner
from tinyddpm.backend import call, state

READABLE = {name: f for name, f in vars(ops).items() if inspect.isfunction(f)}      # the operations of ops/, by name

# Backend -> the package with its twins; and how to install what they need.
BACKENDS = {"numpy": None, "numba": "tinyddpm.kernels.cpu", "cupy": "tinyddpm.kernels.gpu"}
INSTALL = {"numba": "pip install --upgrade numba", "cupy": "pip install cupy-cuda12x[ctk]  (or cupy-cuda13x[ctk])"}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


def use(backend="auto", overrides=None, precision="fp32"):
    """Choose the functions behind the names in `ops`; may be called again at any time.

    backend: "numpy" (the readable code), "numba" (fast on a CPU), "cupy" (a GPU), or "auto":
        numba if it can be imported, else numpy.
    overrides: a module whose functions replace the operations of the same name, forward and
        backward together. A fused operation that contains an overridden one falls back to its
        readable form, which is built from the parts.
    precision: "fp32", or on a GPU "tf32", for the operands of matrix products alone, "bf16" or "fp16", for the arrays
        within a network too (see kernels/gpu).
    Returns the name of the backend. Raises ValueError for a backend that is unknown or not
    installed, for overrides that hold half a pair or no operation at all, and for a precision that
    the backend does not support.
    """
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
        raise ValueError(f"precision {precision} needs a GPU, backend cupy; the backend {backend} only has fp32")
    own = learner.find(overrides, READABLE) if overrides else {}
    files, xp, generator, run = _load(backend)
    twins = {name: f for file in files for name, f in vars(file).items()
             if name in READABLE and callable(f) and not own.keys() & _parts(name.removesuffix("_backward"))}
    vars(ops).update(READABLE | twins | own)
    state.backend, state.xp, state.generator, state.run = backend, xp, generator, run
    state.precision, state.own = precision, tuple(own)
    return backend


def _parts(name):
    """The operations that a composed operation calls as ops.NAME, and those that they call."""
    called = set(re.findall(r"\bops\.(\w+)\(", inspect.getsource(READABLE[name])))
    return called.union(*map(_parts, called))


def _load(backend):
    """A backend's files with twins, which are named like the operations; array library, generator, way to run."""
    kernels = BACKENDS[backend]
    if kernels is None:
        return [], np, np.random.default_rng, call
    try:
        return importlib.import_module(kernels).activate()
    except ImportError as error:
        missing = next((name for name in INSTALL if name in str(error).lower()), backend)
        raise ValueError(f"the {backend} backend needs {missing}: {INSTALL[missing]}  ({error})") from None
    except RuntimeError as error:      # CuPy without a device
        raise ValueError(f"the {backend} backend found no device: {error}") from None


def describe():
    """The active backend, its version and its threads or device, in one line."""
    kernels = BACKENDS[state.backend]
    return importlib.import_module(kernels).describe() if kernels else f"numpy {np.__version__}"
