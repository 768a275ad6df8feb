"""Arrays: which library they belong to, how they are copied between host and GPU, and random generators.

This is the lowest layer: it imports nothing else from tinyddpm. `dispatch.use` sets `state`.
"""

import sys
import zlib
from types import SimpleNamespace

import numpy as np


def call(method, *arguments):
    """Run the U-Net's forward or backward. On a GPU, graph.run takes its place."""
    return method(*arguments)


# The active backend, its array library and random generator, its way to run a network, its precision, and the names of
# a learner's operations.
state = SimpleNamespace(backend=None, xp=np, generator=np.random.default_rng, run=call, precision="fp32", own=())


def array_module(x):
    """numpy or cupy: the library that the array x belongs to."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np


def on_gpu(x=None):
    """Whether the array x is on a GPU; without x, whether the active backend's arrays are."""
    return (state.xp if x is None else array_module(x)) is not np


def to_numpy(x):
    """x as a NumPy array, copied from the GPU if it is there."""
    return x.get() if on_gpu(x) else np.asarray(x)


def from_numpy(x):
    """x as an array of the active backend, copied to the GPU if its arrays are there."""
    return state.xp.asarray(x)


def generator(seed, *stream):
    """A random generator of the active backend's library.

    The stream (words and numbers, such as "train", 17) selects one of many independent
    generators of the same seed. A run draws step k's numbers from generator(seed, "train", k):
    it can be resumed at any step from only the seed and the step.
    """
    key = [seed] + [zlib.crc32(s.encode()) if isinstance(s, str) else s for s in stream]
    return state.generator(key)
