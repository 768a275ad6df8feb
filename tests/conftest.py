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
    """CuPy where it finds a device, else the stand-in that runs its kernels on the CPU. Returns its list of waits."""
    try:
        importlib.import_module("cupy").cuda.runtime.getDeviceCount()
    except (ImportError, RuntimeError):
        if not cupy_on_cpu.COMPILER:
            pytest.skip("neither a GPU with CuPy here, nor a C++ compiler for the stand-in")
        with cupy_on_cpu.installed():
            yield cupy_on_cpu.waits
    else:
        yield None
