"""Every faster twin against its readable operation, over shapes that include its edge cases."""

import math

import numpy as np
import pytest

import tinyddpm
from tinyddpm import ops
from tinyddpm.backend import from_numpy, to_numpy
from tinyddpm.dispatch import READABLE
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.ops.accumulate import Accumulating

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-10}       # of the largest value


def conv(x, kernel, K, stride=1, padding=None):
    return "conv2d", [x, (*kernel, x[3], K), (K,)], (stride, padding)


def conv_add(x, K, other):
    return "conv2d_add", [x, (3, 3, x[3], K), (K,), other], ()


def norm(x, groups):
    return "group_norm_silu", [x, x[-1:], x[-1:]], (groups, 1e-6)


def attention(shape, heads):
    return "attention", [shape, shape, shape], (heads,)


CASES = [
    # Winograd: whole tiles, edges of 1, 2 and 3, an image smaller than a tile, more tiles than one chunk
    conv((2, 8, 8, 16), (3, 3), 16), conv((3, 7, 9, 32), (3, 3), 16), conv((1, 5, 6, 16), (3, 3), 48),
    conv((1, 1, 1, 16), (3, 3), 16), conv((2, 2, 3, 64), (3, 3), 32), conv((5, 30, 14, 16), (3, 3), 48),
    # so many channels that the threads divide them up for the gradient of w, within one chunk and over several; an odd
    # number of panels
    conv((2, 5, 6, 128), (3, 3), 256), conv((1, 96, 92, 128), (3, 3), 256), conv((2, 4, 4, 16), (3, 3), 80),
    conv_add((3, 5, 6, 16), 32, (3, 5, 6, 32)), conv_add((3, 5, 6, 16), 32, (3, 1, 1, 32)),
    conv_add((1, 4, 4, 128), 256, (1, 4, 4, 256)),
    conv_add((2, 5, 6, 3), 32, (2, 5, 6, 32)), conv_add((2, 5, 6, 3), 32, (2, 1, 1, 32)),
    # im2col: few channels, stride 2, other kernels, 1x1, the padding of the downsample
    conv((2, 6, 5, 1), (3, 3), 32), conv((2, 6, 5, 32), (3, 3), 1), conv((1, 7, 6, 16), (3, 3), 16, 2),
    conv((2, 8, 6, 16), (3, 3), 16, 2, (0, 1)), conv((1, 7, 7, 3), (5, 3), 4), conv((2, 4, 3, 8), (1, 1), 5),
    conv((1, 5, 5, 2), (1, 1), 2, 2), conv((1, 4, 4, 2), (2, 2), 2, 2, (0, 0)), conv((1, 1, 1, 1), (3, 3), 1),
    conv((3, 13, 11, 24), (3, 3), 24), conv((5, 4, 4, 16), (3, 3), 16, 2, (0, 1)),
    ("group_norm", [(2, 5, 4, 6), (6,), (6,)], (3, 1e-6)), ("group_norm", [(1, 1, 7, 12), (12,), (12,)], (4, 1e-6)),
    ("group_norm", [(3, 4, 4, 4), (4,), (4,)], (2, 1e-6)), ("group_norm", [(2, 4, 6, 24), (24,), (24,)], (8, 1e-6)),
    ("group_norm", [(2, 5, 4, 48), (48,), (48,)], (6, 1e-6)), norm((2, 3, 5, 48), 16), norm((3, 4, 4, 16), 1),
    norm((1, 70, 160), 32),
    norm((2, 5, 4, 6), 3), norm((1, 1, 7, 12), 4), norm((3, 2, 3, 6), 1), norm((1, 6, 6, 32), 32), norm((2, 9, 8), 2),
    ("linear", [(3,), (3, 5), (5,)], ()), ("linear", [(7, 3), (3, 5), (5,)], ()),
    ("linear", [(1, 1), (1, 1), (1,)], ()),
    ("linear", [(2, 3, 4, 6), (6, 2), (2,)], ()),
    ("linear", [(2, 150, 16), (16, 24), (24,)], ()), ("linear", [(3, 300, 5), (5, 7), (7,)], ()),
    # two threads, which share the columns or the rows
    ("linear", [(20, 300), (300, 200), (200,)], ()), ("linear", [(1200, 40), (40, 30), (30,)], ()),
    attention((2, 16, 16), 1), attention((1, 5, 6), 2), attention((3, 49, 64), 1), attention((2, 20, 24), 3),
    attention((1, 130, 8), 4),
    ("concatenate", [(2, 3, 4, 5), (2, 3, 4, 2)], ()), ("concatenate", [(1, 16), (1, 32)], ()),
    ("upsample", [(2, 3, 4, 5)], ()), ("upsample", [(1, 1, 1, 16)], ()),
    ("mean_squared_error", [(3, 7, 11, 3)] * 2, ()), ("mean_squared_error", [(1,)] * 2, ()),
]


def results(gradients):
    """What a backward returns, as a tuple."""
    return gradients if isinstance(gradients, tuple) else (gradients,)


def compare(expected, got, tolerance, what):
    expected, got = to_numpy(expected), to_numpy(got)
    assert got.shape == expected.shape and got.dtype == expected.dtype, what
    error = np.abs(expected - got).max() / np.abs(expected).max()
    assert error <= tolerance, f"{what}: {error:.1e} of the largest value"


@pytest.fixture(params=["numba", "cupy"])
def backend(request):
    if request.param == "cupy":
        request.getfixturevalue("gpu")
    tinyddpm.use(request.param)
    return request.param


def twin_beside_readable(backend, precision, name, shapes, settings, dtype, exact=np.float64):
    """(expected, got) for the result and each gradient; the readable operation runs in the type `exact`."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    tinyddpm.use("numpy")
    expected, cache = READABLE[name](*(a.astype(exact) for a in arrays), *settings)
    dy = rng.standard_normal(expected.shape).astype(dtype)
    gradients = READABLE[name + "_backward"](dy.astype(exact), cache)

    tinyddpm.use(backend, precision=precision)
    twin_arrays = [from_numpy(a.copy()) for a in arrays]
    got, twin_cache = getattr(ops, name)(*twin_arrays, *settings)
    twin_gradients = getattr(ops, name + "_backward")(from_numpy(dy), twin_cache)
    for before, after in zip(arrays, twin_arrays):
        np.testing.assert_array_equal(before, to_numpy(after), err_msg=f"{name} changed an argument")
    return [(expected, got), *zip(results(gradients), results(twin_gradients), strict=True)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name, shapes, settings", CASES, ids=[f"{n}-{s[0]}-{a}" for n, s, a in CASES])
def test_twin_equals_readable(backend, name, shapes, settings, dtype):
    if backend == "cupy" and math.prod(shapes[0]) > 1_000_000:
        pytest.skip("its many tiles are alike")
    for i, (e, g) in enumerate(twin_beside_readable(backend, "fp32", name, shapes, settings, dtype, exact=dtype)):
        compare(e, g, TOLERANCE[dtype], f"{name}, result {i}")


def test_every_twin_is_among_the_cases(backend):
    twins = {name for name, f in READABLE.items() if f is not getattr(ops, name)}
    cases = {name for name, _, _ in CASES} | {"adam_ema", "add"}
    others = {"narrow", "widen", "dropout", "embedding", "squared_norm"}                   # tests/test_gpu.py
    assert {name.removesuffix("_backward") for name in twins} == (cases | others if backend == "cupy"
                                                                  else cases - {"mean_squared_error"})


@pytest.mark.parametrize("name, shapes, settings",
                         [conv((3, 5, 6, 16), (3, 3), 32), conv((1, 5, 6, 128), (3, 3), 256),
                          conv((2, 5, 4, 3), (3, 3), 5),
                          conv_add((2, 5, 6, 16), 16, (2, 5, 6, 16)), conv_add((2, 5, 6, 3), 8, (2, 1, 1, 8))])
def test_gradients_that_a_twin_accumulates(backend, name, shapes, settings):
    """They equal those that the twin returns, added to what the arrays hold; dx (and dother) are the same."""
    backward = getattr(ops, name + "_backward")
    assert isinstance(backward, Accumulating)
    rng = np.random.default_rng(0)
    arrays = [from_numpy(rng.standard_normal(shape)) for shape in shapes]
    y, cache = getattr(ops, name)(*arrays, *settings)
    dx, dw, db, *dother = backward(y, cache)
    held_dw, held_db = from_numpy(rng.standard_normal(dw.shape)), from_numpy(rng.standard_normal(db.shape))
    sum_dw, sum_db = held_dw.copy(), held_db.copy()
    others = backward.add(y, cache, sum_dw, sum_db)
    compare(held_dw + dw, sum_dw, 1e-12, "dw")
    compare(held_db + db, sum_db, 1e-12, "db")
    for e, g in zip((dx, *dother), results(others), strict=True):
        np.testing.assert_array_equal(to_numpy(e), to_numpy(g))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_add_twin(backend, dtype):
    a, b = np.random.default_rng(0).standard_normal((2, 3, 5, 4, 7)).astype(dtype)
    got = ops.add(from_numpy(a), from_numpy(b))
    np.testing.assert_array_equal(to_numpy(got), a + b)
    with pytest.raises(ValueError, match="expected one shape"):
        ops.add(from_numpy(a), from_numpy(b[:1]))


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-7), (np.float64, 2e-15)])
def test_exp_of_a_vector(dtype, tolerance):
    numba = pytest.importorskip("numba")
    from tinyddpm.kernels.cpu import simd

    @numba.njit
    def exp(x, y):
        for i in range(0, len(x), simd.LANES):
            simd.store(y, (i,), simd.exp(simd.load(x, (i,))))
    x = np.concatenate([np.linspace(-87, 88, 9984),
                        [0, -0.0, 1e-30, -1e-30, np.log(2) / 2, -np.log(2) / 2, 1, -1]] * 2).astype(dtype)
    y = np.empty_like(x)
    exp(x, y)
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=tolerance)
    x = np.array([-np.inf, -1e30, np.nan, *[0] * 13], dtype)
    y = np.empty_like(x)
    exp(x, y)
    assert y[0] < 2e-38 and y[1] < 2e-38 and np.isnan(y[2])


def test_a_kernel_is_called_once_for_each_part_and_says_that_memory_is_short():
    numba = pytest.importorskip("numba")
    tinyddpm.use("numba")
    from tinyddpm.kernels.cpu.jit import parallel, part

    @parallel
    def count_calls(i, count, calls, parts, size):
        calls[i] += count
        start, stop = part(i, count, len(parts))
        parts[start:stop] += 1
        np.empty(size)
    calls, parts = np.zeros((2, 7), int), np.zeros(23, int)
    count_calls(5, calls[0], parts, 0)
    assert calls.tolist() == [[5] * 5 + [0] * 2, [0] * 7] and (parts == 1).all()
    count_calls(numba.get_num_threads() + 1, calls[1], parts[:0], 0)
    assert calls[1].sum() == (numba.get_num_threads() + 1)**2
    with pytest.raises(MemoryError):
        count_calls(3, calls[1], parts, 2**55)


def test_small_work_wakes_no_thread(monkeypatch):
    pytest.importorskip("numba")
    from tinyddpm.kernels.cpu import jit

    monkeypatch.setattr(jit, "get_num_threads", lambda: 3)
    sizes = 0, jit.GRAIN, 2 * jit.GRAIN - 1, 2 * jit.GRAIN, 100 * jit.GRAIN
    assert [jit.threads(size) for size in sizes] == [1, 1, 1, 2, 3] and jit.GRAIN > 1000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adam_ema_twin(backend, dtype):
    rng = np.random.default_rng(0)
    buffers = [rng.standard_normal(1001).astype(dtype) for _ in range(5)]
    buffers[3] = np.abs(buffers[3])
    twin = [from_numpy(b.copy()) for b in buffers]
    for step, *settings in ((1, 1e-2, 0.9, 0.99, 1e-8, 0.7, 0.95), (2, 1e-2, 0, 0, 1e-8, 1, 0),
                            (3, 1e-2, 0.9, 0.99, 1e-8, 0.7, 0.95)):
        settings = (step, *settings)                            # integers too, as from --ema-decay 0
        READABLE["adam_ema"](*buffers, *settings)
        ops.adam_ema(*twin, *settings)
    for name, e, g in zip(("values", "grads", "m", "v", "ema"), buffers, twin):
        compare(e, g, TOLERANCE[dtype], name)


@pytest.mark.parametrize("x", [-200.0, -87.0, -1.0, 0.0, 1e-3, 1.0, 50.0, 1e4])
def test_group_norm_silu_twin_has_no_overflow(backend, x):
    """beta alone determines the result here: gamma is 0, so y = silu(beta)."""
    image = from_numpy(np.random.default_rng(0).standard_normal((1, 4, 4, 16)).astype(np.float32))
    gamma, beta = from_numpy(np.zeros(16, np.float32)), from_numpy(np.full(16, x, np.float32))
    y, cache = ops.group_norm_silu(image, gamma, beta, 1, 1e-6)
    s = 1 / (1 + np.exp(-x)) if x > -700 else 0.0
    np.testing.assert_allclose(to_numpy(y), x * s, rtol=1e-5, atol=1e-30)
    _, _, dbeta = ops.group_norm_silu_backward(y * 0 + 1, cache)
    np.testing.assert_allclose(to_numpy(dbeta), 16 * s * (1 + x * (1 - s)), rtol=1e-5, atol=1e-30)


def test_group_norm_twin_with_a_large_mean():
    """Two passes, mean first: the variance of numbers around 1000 survives float32."""
    tinyddpm.use("numba")
    x = (1000 + np.random.default_rng(0).standard_normal((1, 16, 16, 16))).astype(np.float32)
    exact, _ = READABLE["group_norm_silu"](x.astype(np.float64), np.ones(16), np.zeros(16), 2, 1e-6)
    y, _ = ops.group_norm_silu(x, np.ones(16, np.float32), np.zeros(16, np.float32), 2, 1e-6)
    np.testing.assert_allclose(y, exact, atol=2e-3)


@pytest.mark.parametrize("case",
                         [conv((2, 7, 7, 16), (3, 3), 32), conv((2, 7, 7, 3), (3, 3), 5), norm((4, 7, 7, 48), 4),
                          ("linear", [(50, 24), (24, 40), (40,)], ()), attention((2, 21, 16), 2)])
def test_a_twin_gives_the_same_bits_wherever_its_arrays_lie(case):
    """Vector loops check at run time whether arrays are close to each other; the result must not depend on it."""
    tinyddpm.use("numba")
    name, shapes, settings = case
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]

    def run():
        y, cache = getattr(ops, name)(*arrays, *settings)
        return b"".join(a.tobytes() for a in (y, *getattr(ops, name + "_backward")(y, cache)))
    first, between = run(), []
    for size in rng.integers(1, 3000, 1500):
        between = [*between[-20:], np.empty(size, np.uint8)]       # moves what is allocated next
        assert run() == first


def test_a_network_on_numba_equals_the_readable_one():
    config = UNetConfig(image_size=8, image_channels=1, base_channels=16, channel_multipliers=(1, 2), groups=8,
                        attention_resolutions=(4,), dropout=0.0)
    x = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    results = []
    for name in ("numpy", "numba"):
        tinyddpm.use(name)
        model = UNet(config)
        model.flat_values[...] = np.random.default_rng(1).standard_normal(model.flat_values.size) * 0.1
        y = model.forward(x, np.array([1, 50, 1000]))
        results.append((y, model.backward(np.ones_like(y)), model.flat_grads.copy()))
    for what, e, g in zip(("y", "dx", "gradients"), *results):
        compare(e, g, 1e-4, what)

