"""Every test starts with the readable operations. What takes long runs beside the tests, on the other core."""

import concurrent.futures
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tinyddpm

HERE = Path(__file__).parent
LESSONS = sorted((HERE.parent / "lessons").glob("[0-9][0-9]_*"))
sys.path.insert(0, str(HERE))
import cupy_on_cpu

ONE_THREAD = {name: "1" for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
# Compiles the kernels for the CPU into numba's cache, where the tests find them.
COMPILE = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import numpy as np, test_kernels
for dtype in np.float32, np.float64:
    for case in test_kernels.CASES:
        test_kernels.twin_beside_readable("numba", "fp32", *case, dtype, exact=dtype)
"""


class Beside:
    """Commands that run one after another beside the tests, two at a time if a single file is tested."""

    def __init__(self, workers):
        self.pool, self.processes, self.jobs = concurrent.futures.ThreadPoolExecutor(workers), [], {}

    def start(self, name, *command):
        self.jobs[name] = self.pool.submit(self._run, [sys.executable, *command])

    def result(self, name):
        """The CompletedProcess of a command, once it has ended."""
        return self.jobs[name].result()

    def _run(self, command):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=os.environ | ONE_THREAD)
        self.processes.append(process)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def end(self):
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.kill()


def pytest_collection_modifyitems(items):
    """The tests that wait for compiled kernels, or for the lessons, come last."""
    items.sort(key=lambda item: item.path.stem in ("test_benchmark", "test_kernels", "test_lessons"))


def pytest_collection_finish(session):
    files = {item.path.stem for item in session.items}
    session.config.beside = beside = Beside(2 if len(files) == 1 else 1)
    if session.config.option.collectonly:
        return
    if "test_kernels" in files and len(files) > 1:
        beside.start("kernels", "-c", COMPILE)
    if "test_lessons" in files:
        for folder in LESSONS:
            beside.start(folder.name, str(folder / "lesson.py"), "--quick")


def pytest_sessionfinish(session):
    if hasattr(session.config, "beside"):
        session.config.beside.end()


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
