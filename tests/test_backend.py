"""The table of operations: what `use` puts into it, and what it refuses."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import tinyddpm
from tinyddpm import dispatch, ops
from tinyddpm.backend import array_module, generator, state, to_numpy
from tinyddpm.dispatch import READABLE


def module_of(**functions):
    """A module that defines these functions itself."""
    module = types.ModuleType("homework")
    for name, f in functions.items():
        f.__module__ = "homework"
        setattr(module, name, f)
    return module


def test_numpy_is_the_readable_code():
    assert tinyddpm.use("numpy") == "numpy"
    assert {name: getattr(ops, name) for name in READABLE} == READABLE
    assert ops.conv2d is ops.conv.conv2d


def test_numba_lays_its_twins_over_the_readable_code():
    assert tinyddpm.use("auto") == "numba" == state.backend
    assert ops.conv2d is not READABLE["conv2d"] and ops.silu is READABLE["silu"]
    assert ops.conv.conv2d is READABLE["conv2d"]           # its file still has the readable one
    tinyddpm.use("numpy")
    assert ops.conv2d is READABLE["conv2d"]


def test_an_override_is_a_pair():
    def silu(x):
        return 2 * x, "remembered"

    def silu_backward(dy, x):
        assert x == "remembered"
        return 3 * dy

    tinyddpm.use("numpy", overrides=module_of(silu=silu, silu_backward=silu_backward))
    y, cache = ops.silu(np.ones(4))
    assert y.tolist() == [2] * 4 and ops.silu_backward(y, cache).tolist() == [6] * 4
    tinyddpm.use("numpy")
    assert ops.silu is READABLE["silu"]


WRONG = {
    "takes (a, b); the operation takes (x)": (lambda a, b: (a, b), lambda dy, x: dy),
    "returned 1 values; expected 2: y and a cache": (lambda x: x, lambda dy, x: dy),
    "silu of homework returned y of shape (2,); expected (4,)": (lambda x: (x[:2], x), lambda dy, x: dy),
    "silu_backward of homework returned gradient 1 of shape (3,); expected (4,)": (lambda x: (x, x),
                                                                                   lambda dy, x: dy[1:]),
    "silu_backward of homework returned 2 values; expected 1": (lambda x: (x, x), lambda dy, x: (dy, dy)),
    "silu of homework fails: ZeroDivisionError": (lambda x: 1 / 0, lambda dy, x: dy),
    "returned y of shape str": (lambda x: ("y", x), lambda dy, x: dy),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_with_an_override_is_said_with_its_name(message):
    silu, silu_backward = WRONG[message]
    with pytest.raises(ValueError, match=re.escape(message)):
        tinyddpm.use("numpy", overrides=module_of(silu=silu, silu_backward=silu_backward))
        y, cache = ops.silu(np.ones(4))
        ops.silu_backward(np.ones(4), cache)


def stub(*args):
    """A stub, as in a new homework file."""
    raise NotImplementedError("4.2 silu")


def test_unpatchify_is_made_of_a_learners_patchify():
    """With any cache of its own: here a tuple, and twice the values in both directions."""
    tinyddpm.use("numpy", overrides=module_of(
        patchify=lambda x, size: (2 * READABLE["patchify"](x, size)[0], ("size", size)),
        patchify_backward=lambda dy, cache: 2 * READABLE["patchify_backward"](dy, cache[1])))
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 8))
    y, cache = ops.unpatchify(x, 2)
    np.testing.assert_array_equal(y, 2 * READABLE["patchify_backward"](x, 2))
    np.testing.assert_array_equal(ops.unpatchify_backward(y, cache), 4 * x)


def test_an_override_that_is_not_written_yet_is_the_librarys():
    twice = lambda x: (2 * x, x)
    tinyddpm.use("numpy", overrides=module_of(silu=twice, silu_backward=lambda dy, x: 2 * dy, linear=stub,
                                              linear_backward=stub))
    assert ops.linear is READABLE["linear"] and ops.silu(np.ones(2))[0].tolist() == [2, 2]
    assert state.own == ("silu", "silu_backward")
    with pytest.raises(ValueError, match="silu but not silu_backward"):
        tinyddpm.use("numpy", overrides=module_of(silu=twice, silu_backward=stub))
    with pytest.raises(ValueError, match="none that is written yet"):
        tinyddpm.use("numpy", overrides=module_of(silu=stub, silu_backward=stub))


@pytest.mark.parametrize("half", ["silu", "silu_backward"])
def test_half_a_pair_is_refused(half):
    with pytest.raises(ValueError, match="as a pair"):
        tinyddpm.use("numpy", overrides=module_of(**{half: lambda *a: None}))
    assert ops.silu is READABLE["silu"]


def test_an_override_of_nothing_is_refused():
    module = module_of(conv=lambda x: x)
    module.silu, module.silu_backward = READABLE["silu"], READABLE["silu_backward"]      # imported, not defined
    with pytest.raises(ValueError, match="none of the operations"):
        tinyddpm.use("numpy", overrides=module)


def test_an_override_switches_off_the_fused_twin_that_contains_it():
    """With silu overridden, numba's fused group_norm_silu must not hide it."""
    calls = []

    def silu(x):
        calls.append("forward")
        return READABLE["silu"](x)

    def silu_backward(dy, x):
        calls.append("backward")
        return READABLE["silu_backward"](dy, x)

    tinyddpm.use("numba", overrides=module_of(silu=silu, silu_backward=silu_backward))
    x, one, zero = np.ones((1, 2, 2, 4)), np.ones(4), np.zeros(4)
    y, cache = ops.group_norm_silu(x, one, zero, 2, 1e-6)
    ops.group_norm_silu_backward(y, cache)
    assert calls == ["forward", "backward"]
    assert ops.conv2d is not READABLE["conv2d"]                # the other twins stay


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="numpy, numba, cupy or auto"):
        tinyddpm.use("torch")


def test_a_missing_backend_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ValueError, match="pip install cupy-cuda12x"):
        tinyddpm.use("cupy")
    for name in [name for name in sys.modules if name.startswith("tinyddpm.kernels.cpu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ValueError, match="needs numba: pip install --upgrade numba"):
        tinyddpm.use("numba")


def test_the_module_that_is_missing_is_named(monkeypatch):
    """numba may be missing for another backend, or refuse this NumPy without a module's name."""
    for error, text in ((ImportError("No module named 'numba'", name="numba"),
                         "needs numba: pip install --upgrade numba"),
                        (ImportError("Numba needs NumPy 2.2 or less. Got NumPy 2.4."),
                         "needs numba: pip install --upgrade"),
                        (ImportError("No module named 'cupy'", name="cupy"), "needs cupy: pip install cupy")):
        def refuse(name, error=error):
            raise error
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=f"the cupy backend {text}"):
            patch.setattr(dispatch.importlib, "import_module", refuse)
            tinyddpm.use("cupy")


NO_CACHE = """
from numba.core import caching
caching.CacheImpl._locator_classes = [c for c in caching.CacheImpl._locator_classes if "UserProvided" in c.__name__]
import tinyddpm, os
tinyddpm.use("numba")
from numba import config
assert os.path.isdir(config.CACHE_DIR)
print(config.CACHE_DIR)
"""


def test_kernels_that_cannot_be_cached_are_compiled_for_one_run():
    """As where neither the package's folder nor the user's can be written."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", NO_CACHE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "set NUMBA_CACHE_DIR" in done.stderr, done.stderr
    assert not os.path.exists(done.stdout.strip())


def test_ctrl_c_during_imports_is_quiet(tmp_path):
    """... but not one in the program itself, whose place its author may want to know."""
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "sooner.py").write_text("import tinyddpm\nfrom slow import nothing")
    (tmp_path / "later.py").write_text("import tinyddpm\nraise KeyboardInterrupt")
    for program, quiet in (("sooner.py", True), ("later.py", False)):
        done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(Path(tinyddpm.__file__).parent.parent)})
        assert done.returncode == -2 and ("Traceback" not in done.stderr) == quiet, done.stderr


def test_auto_without_numba_is_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert tinyddpm.use("auto") == "numpy"


def test_arrays_and_generators():
    x = np.ones(3)
    assert array_module(x) is np and to_numpy(x) is x
    draw = lambda *key: generator(*key).standard_normal(4).tolist()
    assert draw(1, "step", 2) == draw(1, "step", 2)
    assert len({tuple(draw(*key)) for key in [(1, "step", 2), (1, "step", 3), (2, "step", 2), (1, "sample", 2)]}) == 4


def test_the_description_names_the_threads():
    """--verbose names the libraries."""
    tinyddpm.use("numpy")
    assert dispatch.describe() == f"numpy {np.__version__}"
    tinyddpm.use("numba")
    assert re.fullmatch(r"numba [\d.]+ with \d+ threads", dispatch.describe())


def test_compiling_is_announced_once(tmp_path):
    """In one line on stderr; the next process finds the kernel in the cache and prints nothing."""
    code = ("import numpy as np, tinyddpm; from tinyddpm import ops; tinyddpm.use('numba'); "
            "x = np.ones((2, 3, 5)); print(ops.add(x, x).sum())")
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for expected in ("compiling the kernels: twenty seconds, the first time only\n", ""):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "60.0\n", expected)


@pytest.mark.skipif(sys.platform != "linux", reason="needs getrusage's page faults and glibc's allocator")
def test_freed_memory_is_kept_for_the_next_step():
    """In a new process, which holds no freed memory yet."""
    code = ("import numpy as np, resource, tinyddpm; tinyddpm.use('numba')\n"
            "def page_faults():\n"
            "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "    np.ones(2**26, np.uint8)\n"
            "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
            "print(page_faults(), page_faults(), page_faults())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    first, second, third = map(int, done.stdout.split())
    assert first > 10 * max(second, third, 1)


@pytest.mark.parametrize("environment",
                         [{}, {"OMP_NUM_THREADS": "1", "OMP_DYNAMIC": "true", "OMP_WAIT_POLICY": "passive"}])
def test_numba_has_the_cores_whatever_the_environment_says(environment):
    """Their number and their way of waiting stay fixed."""
    code = ("import os, numba, tinyddpm; tinyddpm.use('numba'); print(numba.get_num_threads(), "
            "os.environ['OMP_DYNAMIC'], os.environ.get('OMP_WAIT_POLICY'), os.environ['GOMP_SPINCOUNT'])")
    environment = os.environ | environment | {"NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "2 false None 20000\n", done.stderr


def test_import_brings_in_none_of_the_large_libraries():
    code = ("import sys, tinyddpm, tinyddpm.nn, tinyddpm.training, tinyddpm.data, tinyddpm.plots; "
            "print({'numba', 'matplotlib', 'cupy', 'PIL'} & sys.modules.keys())")
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True,
                          text=True).stdout == "set()\n"
