"""Denoising Diffusion Probabilistic Models (Ho, Jain, Abbeel 2020), built from scratch in NumPy."""

import sys
import traceback


def _report(kind, error, trace, usual=sys.excepthook):
    """Report an error as usual, but nothing of Ctrl-C while the program still imports its modules."""
    if kind is not KeyboardInterrupt or not any((frame.line or "").startswith(("import ", "from "))
                                                for frame in traceback.extract_tb(trace, 1)):
        usual(kind, error, trace)


sys.excepthook = _report

from tinyddpm.dispatch import use  # noqa: E402

__version__ = "0.1.0"

use("numpy")
