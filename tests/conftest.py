"""Every test starts with the readable operations; kernels are compiled at most once (numba's cache)."""

import importlib
import sys
from pathlib import Path

import pytest

import tinyddpm

sys.path.insert(0, str(Path(__file__).parent))
import cupy_on_cpu


@pytest.fixture(autouse=True)
def numpy_backend():
    tinyddpm.use("numpy")
    yield
    tinyddpm.use("numpy")


@pytest.fixture
def gpu():
    """CuPy if it finds a device, else the stand-in that runs its kernels on the CPU. Yields the stand-in's waits."""
    try:
        importlib.import_module("cupy").cuda.runtime.getDeviceCount()
    except (ImportError, RuntimeError):
        if not cupy_on_cpu.COMPILER:
            pytest.skip("needs a GPU with CuPy, or a C++ compiler for the stand-in")
        with cupy_on_cpu.installed():
            yield cupy_on_cpu.waits
    else:
        yield None
