"""How the kernels for the CPU are compiled."""

import sys
import tempfile

from numba import config, njit
from numba.core import event

# Only multiply and add may be fused. With more freedom, the compiler's vector loops would divide and add in another
# order than its scalar ones, and which of them runs depends on the addresses of the arrays: the last bits would differ
# from run to run, and nothing would be faster. Division by zero is as in NumPy, without a check.
OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy", "cache": True}

try:
    njit(**OPTIONS)(lambda: None)
except RuntimeError:                # neither the package's folder nor the user's can be written
    folder = tempfile.TemporaryDirectory()                  # removed when the program ends
    config.CACHE_DIR = folder.name
    print("the kernels have to be compiled in every run: set NUMBA_CACHE_DIR to a folder that can be written",
          file=sys.stderr, flush=True)

compiled = njit(**OPTIONS)
inlined = njit(inline="always", **OPTIONS)           # a part of each kernel that calls it
parallel = njit(parallel=True, **OPTIONS)


class Announcement(event.Listener):
    """Prints one line when the first kernel has to be compiled; later runs load them from numba's cache."""

    made = False

    def on_start(self, compilation):
        if not self.made and compilation.data["dispatcher"].__module__.startswith("tinyddpm"):
            self.made = True
            print("compiling the kernels: half a minute, the first time only", file=sys.stderr, flush=True)

    def on_end(self, compilation):
        pass


event.register("numba:compile", Announcement())
