"""Denoising Diffusion Probabilistic Models (Ho, Jain, Abbeel 2020), built from scratch in NumPy."""

import sys
import traceback


def _report(kind, error, trace, usual=sys.excepthook):
    """Report an error as usual, but nothing of Ctrl-C while modules are imported: the program has not begun."""
    inner = [frame.f_code.co_name for frame, _ in traceback.walk_tb(trace)][1:]
    if kind is not KeyboardInterrupt or not {"<module>", "_find_and_load"}.intersection(inner):
        usual(kind, error, trace)


sys.excepthook = _report

from tinyddpm.dispatch import use  # noqa: E402

__version__ = "0.1.0"

use("numpy")
