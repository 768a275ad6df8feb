"""How the kernels for the CPU are compiled."""

import sys

from numba import njit
from numba.core import event

# Multiply and add may be fused, and nothing else: with more freedom the compiler's vector loops would divide and add in
# another order than its scalar ones, and which of them runs depends on where the arrays lie: the last bits would differ
# from run to run. It would not be faster either. Division by zero is NumPy's, without a check.
OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy", "cache": True}

compiled = njit(**OPTIONS)
parallel = njit(parallel=True, **OPTIONS)


class Announcement(event.Listener):
    """Prints one line when the first kernel has to be compiled; later starts find them in numba's cache."""

    made = False

    def on_start(self, compilation):
        if not self.made and compilation.data["dispatcher"].__module__.startswith("tinyddpm"):
            self.made = True
            print("compiling the kernels: half a minute, the first time only", file=sys.stderr, flush=True)

    def on_end(self, compilation):
        pass


event.register("numba:compile", Announcement())
