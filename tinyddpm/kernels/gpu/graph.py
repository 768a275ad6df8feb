"""CUDA graphs: all kernels of a network's forward or backward in one launch.

The host needs 25 to 40 us to launch a kernel from Python, and many kernels run for less. So a network's forward and
backward run as they are until both have run once for arguments of a kind, which compiles their kernels. After that CUDA
records the launches instead of making them, and from then on the host starts the whole recording.

A recording has the addresses of its arrays in it. They come from a memory pool of their own, which nothing else uses;
arguments are copied into them, and results out of them. Parameters and gradients are views of two buffers that stay
where they are. Nothing in between may wait for the device, or copy from the host.
"""

import weakref

import cupy

from tinyddpm.backend import state
from tinyddpm.kernels.gpu.random import Generator, Recorded

MOST = 4                    # recordings of a network that are kept, of those last used

networks = weakref.WeakKeyDictionary()          # network -> kind of arguments -> Recording, the last used at the end


def run(method, *arguments):
    """Call a network's method _forward or _backward, or replay its recording."""
    if state.own:                               # a learner's operations may do what cannot be recorded
        return method(*arguments)
    network, recordings = method.__self__, networks.setdefault(method.__self__, {})
    if method.__name__ == "_forward":
        kind = (state.precision, network.training, network.stores, *map(_kind, arguments))
        recordings[kind] = recordings.pop(kind, None) or Recording()
        if len(recordings) > MOST:
            del recordings[next(iter(recordings))]
        return recordings[kind].forward(method, network.stores, arguments)
    if not recordings:                          # without a forward, the method refuses
        return method(*arguments)
    return recordings[next(reversed(recordings))].backward(method, arguments)


def _kind(argument):
    return "generator" if isinstance(argument, Generator) else (argument.shape, argument.dtype)


class Recording:
    """The graphs of a network's forward and, if it stores what that needs, backward, for arguments of one kind."""

    def __init__(self):
        self.warm = self.forward_ran = False
        self.graphs, self.pool, self.stream = {}, cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)

    def forward(self, method, stores, arguments):
        self.forward_ran = True
        if not self.warm:
            result = method(*arguments)
            self.warm = not stores              # else once the backward has run, too
            return result
        if "_forward" not in self.graphs or stores and "_backward" not in self.graphs:
            cupy.get_default_memory_pool().free_all_blocks()            # what the plain run left
            self.graphs["_forward"] = Graph(method, arguments, self.pool, self.stream)
        return self.graphs["_forward"].replay(arguments)

    def backward(self, method, arguments):
        if not (self.graphs and self.forward_ran):                      # without a forward, the method refuses
            self.warm, self.forward_ran = True, False
            return method(*arguments)
        self.forward_ran = False
        if "_backward" not in self.graphs:
            self.graphs["_backward"] = Graph(method, arguments, self.pool, self.stream)
        return self.graphs["_backward"].replay(arguments)


class Graph:
    """What method(*arguments) launches."""

    def __init__(self, method, arguments, pool, stream):
        self.arguments = [Recorded() if isinstance(a, Generator) else cupy.empty_like(a) for a in arguments]
        self.launch, self.result = record(method, self.arguments, pool, stream)

    def replay(self, arguments):
        for mine, given in zip(self.arguments, arguments):
            if isinstance(mine, Recorded):
                mine.follow(given)
            elif _kind(mine) != _kind(given):               # which mine[...] = given could hide
                raise ValueError(f"found {given.shape} of {given.dtype}; expected {mine.shape} of {mine.dtype}")
            else:
                mine[...] = given
        self.launch()
        return self.result.copy()


def record(method, arguments, pool, stream):
    """A function that makes the launches of method(*arguments), and the array where they leave the result."""
    with cupy.cuda.using_allocator(pool.malloc), stream:
        stream.begin_capture()
        try:
            result = method(*arguments)
        finally:
            graph = stream.end_capture()
    return graph.launch, result
