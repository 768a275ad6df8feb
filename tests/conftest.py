"""Every test starts with the readable operations. What takes long runs beside the tests, on the other core."""

import concurrent.futures
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import tinyddpm

HERE = Path(__file__).parent
LESSONS = sorted((HERE.parent / "lessons").glob("[0-9][0-9]_*"))
sys.path.insert(0, str(HERE))
import cupy_on_cpu

# Tests that start many processes, or that need none of the others' set-up: a second pytest runs them.
SECOND = ("test_programs.py", "test_parallel.py", "test_homework.py", "test_files.py", "test_gpu.py")
REPORTS = os.environ.get("TINYDDPM_REPORTS")                # in that one, the file for its reports
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
    """The tests that wait for compiled kernels, for the lessons or for the second pytest come last."""
    items.sort(key=lambda item: (item.path.name in SECOND,
                                 item.path.stem in ("test_benchmark", "test_kernels", "test_lessons")))


def pytest_collection_finish(session):
    files = {item.path.stem for item in session.items}
    session.config.beside = beside = Beside(2 if len(files) == 1 else 1)
    if session.config.option.collectonly:
        return
    if len(files) > 20 and not REPORTS:                         # the whole run
        session.config.second = Second(session.config)
    if "test_kernels" in files and len(files) > 1:
        beside.start("kernels", "-c", COMPILE)
    if "test_lessons" in files:
        for folder in LESSONS:
            beside.start(folder.name, str(folder / "lesson.py"), "--quick")


def pytest_runtest_logreport(report):
    if REPORTS:
        with open(REPORTS, "a") as file:
            file.write(json.dumps(CONFIG.hook.pytest_report_to_serializable(config=CONFIG, report=report)) + "\n")


def pytest_configure(config):
    global CONFIG
    CONFIG = config


def pytest_runtest_protocol(item):
    """The reports of a test that the second pytest runs; None for all others, which run as usual."""
    second = getattr(item.config, "second", None)
    if second is None or item.path.name not in SECOND:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in second.of(item.nodeid):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


class Second:
    """A second pytest, for the files SECOND."""

    def __init__(self, config):
        self.config, self.file = config, tempfile.NamedTemporaryFile("r", suffix=".reports")
        self.process = subprocess.Popen([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                                         *(HERE / name for name in SECOND)], cwd=config.rootpath,
                                        env=os.environ | {"TINYDDPM_REPORTS": self.file.name},
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.found, self.rest = {}, ""

    def of(self, nodeid):
        """The reports of a test, once it has ended."""
        while not any(report.when == "teardown" for report in self.found.get(nodeid, [])):
            ended = self.process.poll() is not None
            *lines, self.rest = (self.rest + self.file.read()).split("\n")
            for line in lines:
                report = self.config.hook.pytest_report_from_serializable(config=self.config, data=json.loads(line))
                self.found.setdefault(report.nodeid, []).append(report)
            if ended and not lines:
                raise RuntimeError(f"the second pytest ended without {nodeid}")
            time.sleep(0 if lines else 0.1)
        return self.found[nodeid]


def pytest_sessionfinish(session):
    if hasattr(session.config, "second"):
        session.config.second.process.kill()
    if hasattr(session.config, "beside"):
        session.config.beside.end()


@pytest.fixture(autouse=True)
def numpy_backend():
    tinyddpm.use("numpy")
    yield
    tinyddpm.use("numpy")


def cupy_is_real():
    """Whether CuPy is installed and finds a device."""
    try:
        importlib.import_module("cupy").cuda.runtime.getDeviceCount()
    except (ImportError, RuntimeError):
        return False
    return True


@pytest.fixture
def gpu():
    """CuPy if it finds a device, else the stand-in that runs its kernels on the CPU. Yields the stand-in's waits."""
    if not cupy_is_real():
        if not cupy_on_cpu.COMPILER:
            pytest.skip("needs a GPU with CuPy, or a C++ compiler for the stand-in")
        with cupy_on_cpu.installed():
            yield cupy_on_cpu.waits
    else:
        yield None
