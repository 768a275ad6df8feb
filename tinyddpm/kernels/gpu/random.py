"""Random numbers drawn on the GPU."""

import cupy
import numpy as np

from tinyddpm.kernels.gpu.launch import launch_each


class Generator:
    """As far as it is needed here, what np.random.Generator is on the host. Nothing of it lies on the device.

    key: integers; equal keys give equal numbers, on every GPU
    """

    def __init__(self, key):
        self.key = np.random.SeedSequence(key).generate_state(2, np.uint32).view(np.int32)
        self.draws = 0

    def next(self):
        """The two words of the key and the number of the next draw."""
        self.draws += 1
        return *self.key, self.draws

    def random(self, shape, dtype=np.float64):
        """Uniform in [0, 1), with 24 bits."""
        return self._draw("uniform", shape, dtype)

    def standard_normal(self, shape, dtype=np.float64):
        return self._draw("normal", shape, dtype)

    def _draw(self, name, shape, dtype):
        y = cupy.empty(shape, dtype)
        launch_each(name, y.dtype, -(-y.size // 4), y, *self.next(), y.size)
        return y
