"""The matrix product of the CPU's kernels, against NumPy's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import tinyddpm
from tinyddpm.kernels.cpu.gemm import DEPTH, ROWS, gemm, multiply, pack


@njit                           # no cache, which would not notice a change of gemm.py
def product(a, b, c, accumulate):
    gemm(a, b, c, accumulate)


@njit
def transposed_product(a, b, c, accumulate):
    gemm(a.T, b.T, c, accumulate)


# rows, inner length, columns: below, at and beyond the sizes of the blocks
SHAPES = [(1, 1, 1), (ROWS, 7, 16), (ROWS + 1, 40, 15), (2 * ROWS - 1, 3, 17), (49, DEPTH + 1, 48), (5, 2 * DEPTH, 33)]


@pytest.mark.parametrize("n, m, K", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-13)])
@pytest.mark.parametrize("accumulate", [False, True])
def test_the_product_is_numpys(n, m, K, dtype, tolerance, accumulate):
    """For plain and for transposed matrices that are parts of larger ones; nothing else is written."""
    rng = np.random.default_rng(n + m + K)
    a, b, before = (rng.standard_normal(shape).astype(dtype) for shape in ((n, m), (m, K), (n + 2, K + 3)))
    expected = before.copy()
    expected[1:-1, 2:-1] = a.astype(float) @ b + accumulate * before[1:-1, 2:-1]
    wide_a, wide_b = np.full((n, m + 1), np.nan, dtype), np.full((m, K + 1), np.nan, dtype)
    wide_a[:, :-1], wide_b[:, :-1] = a, b
    for run, left, right in ((product, wide_a[:, :-1], wide_b[:, :-1]),
                             (transposed_product, a.T.copy(), b.T.copy())):
        c = before.copy()
        run(left, right, c[1:-1, 2:-1], accumulate)
        assert np.abs(c - expected).max() <= tolerance * np.abs(expected).max()


def test_panels_may_be_wider_than_the_result_or_as_wide():
    """A result whose rows fill whole vectors has zeros where b has no columns."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20, 9)), rng.standard_normal((9, 37))
    c = np.full((20, 48), np.nan)
    multiply(a, pack(b), c, False)
    np.testing.assert_allclose(c[:, :37], a @ b, rtol=1e-13, atol=1e-13)
    assert not c[:, 37:].any()


def test_a_change_of_the_product_is_noticed_by_cached_kernels(tmp_path):
    """numba's cache looks at the file of the kernel itself only, here linear.py."""
    shutil.copytree(Path(tinyddpm.__file__).parent, tmp_path / "tinyddpm",
                    ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
    changed, found = tmp_path / "tinyddpm" / "kernels" / "cpu" / "gemm.py", []
    code = ("import numpy as np, tinyddpm; from tinyddpm import ops; tinyddpm.use('numba'); one = np.ones((16, 16)); "
            "print(ops.linear(one, one, one[0])[0][0, 0])")
    source = changed.read_text(encoding="utf-8")
    for text in (source, source.replace("accumulate or start > 0", "start > 0"), source):
        changed.write_text(text, encoding="utf-8")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
                              env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")})
        found.append(float(done.stdout))
    assert found == [17, 16, 17]
