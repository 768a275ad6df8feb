"""Random numbers drawn on the GPU."""

import cupy
import numpy as np

from tinyddpm.kernels.gpu.launch import launch_each


class Generator:
    """As far as it is needed here, what np.random.Generator is on the host.

    key: integers; equal keys give equal numbers, on every GPU
    """

    def __init__(self, key):
        self.key = np.random.SeedSequence(key).generate_state(2, np.uint32).view(np.int32)
        self.draws = 0
        self.device = None              # the key and a number of draws, where kernels read them

    def next(self):
        """What a kernel needs: an array with the key and a number of draws, and how many draws later this one is."""
        if self.device is None:
            self.device = cupy.asarray(np.array([*self.key, 0], np.int32))
        self.draws += 1
        return self.device, self.draws

    def random(self, shape, dtype=np.float64):
        """Uniform in [0, 1), with 24 bits."""
        return self._draw("uniform", shape, dtype)

    def standard_normal(self, shape, dtype=np.float64):
        return self._draw("normal", shape, dtype)

    def _draw(self, name, shape, dtype):
        y = cupy.empty(shape, dtype)
        launch_each(name, y.dtype, -(-y.size // 4), y, *self.next(), y.size)
        return y


class Recorded(Generator):
    """The generator of a recorded graph: before each replay, it takes up another's key and draws."""

    def __init__(self):
        self.draws, self.device = 0, cupy.empty(3, np.int32)

    def follow(self, other):
        if self.draws:
            self.device.set(np.array([*other.key, other.draws], np.int32))
            other.draws += self.draws
