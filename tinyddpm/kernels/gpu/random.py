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

    def random(self, shape, dtype=np.float64):
        """Uniform in [0, 1), with 24 bits."""
        return self._draw("uniform", cupy.empty(shape, dtype), dtype)

    def standard_normal(self, shape, dtype=np.float64):
        return self._draw("normal", cupy.empty(shape, dtype), dtype)

    def keep(self, shape, p):
        """bool, True with probability 1 - p"""
        return self._draw("keep", cupy.empty(shape, bool), np.float32, p)

    def _draw(self, name, y, dtype, *p):
        self.draws += 1
        launch_each(name, np.dtype(dtype), -(-y.size // 4), y, *self.key, self.draws, *p, y.size)
        return y
