"""The GPU backend: its kernels' source, its precisions, steps that never wait. Without a GPU: cupy_on_cpu.py."""

import contextlib
import ctypes
import glob
import importlib
import math
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import cupy_on_cpu
import pytest
from conftest import cupy_is_real
from test_kernels import CASES, results, twin_beside_readable

import tinyddpm
from tinyddpm import data, ops, presets
from tinyddpm.backend import call, from_numpy, generator, state, to_numpy
from tinyddpm.diffusion import discrete
from tinyddpm.diffusion.discrete import DiscreteConfig
from tinyddpm.dispatch import READABLE
from tinyddpm.nn import TransformerConfig, UNet, UNetConfig
from tinyddpm.sampling.unmask import generate
from tinyddpm.training import Trainer, distill, load_checkpoint, save_checkpoint
from tinyddpm.training.discrete import DiscreteTrainer
from tinyddpm.training.fit import fit, read_metrics
from tinyddpm.training.optimizer import GROW_AFTER, LossScale

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tinyddpm" / "kernels" / "gpu"
FILES = sorted(path.name for path in FOLDER.glob("*.cu") if "__global__" in path.read_text())
PRECISIONS = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2, "fp16": 2e-3}       # of the largest value
SMALL = [case for case in CASES if math.prod(case[1][0]) < 100_000]


# ---- the source ----

def nvrtc():
    """NVIDIA's run-time compiler, from the system, CuPy's or NVIDIA's packages, or None."""
    places = [p for folder in sys.path for p in glob.glob(os.path.join(folder, "nvidia", "*", "lib", "libnvrtc.so*"))]
    for name in (*places, "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    return None


def compile_for(source, options, arch, folder):
    """The error messages of NVRTC or nvcc, "" if there are none. Skips the test if neither is installed."""
    options = [*options, f"-arch=sm_{arch}"]
    if library := nvrtc():
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"gpu.cu", 0, None, None)
        if not library.nvrtcCompileProgram(program, len(options),
                                           (ctypes.c_char_p * len(options))(*(o.encode() for o in options))):
            return ""
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        return log.value.decode()
    if nvcc := shutil.which("nvcc"):
        (folder / "gpu.cu").write_text(source)
        done = subprocess.run([nvcc, *options, "-cubin", "-o", folder / "gpu.cubin", folder / "gpu.cu"],
                              capture_output=True, text=True)
        return done.stderr if done.returncode else ""
    pytest.skip("neither NVRTC nor nvcc is installed")


@pytest.fixture
def source():
    with contextlib.nullcontext() if cupy_is_real() else cupy_on_cpu.installed():
        tinyddpm.use("cupy")
        yield importlib.import_module("tinyddpm.kernels.gpu.launch").source


@pytest.mark.parametrize("arch, real, narrow", [
    ("75", "float", 0), ("80", "float", 1), ("90", "float", 3), ("90", "double", 0), ("90a", "float", 1),
    ("90a", "float", 2)])
def test_the_source_compiles(source, arch, real, narrow, tmp_path):
    for file in FILES:
        options = {"REAL": real, "NARROW": narrow, "TILE": 64, "STAGES": 4, "V": 2}
        assert compile_for(source(file), ["--std=c++17", *(f"-D{name}={value}" for name, value in options.items())],
                           arch, tmp_path) == ""


def test_a_mistake_in_the_source_is_seen(source, tmp_path):
    wrong = source("product.cu").replace("= store(wide", "= stor(wide")
    assert '"stor"' in compile_for(wrong, ["-DREAL=float", "-DNARROW=1"], 90, tmp_path)


# ---- precisions ----

@pytest.mark.parametrize("name, shapes, settings", [
    case for case in SMALL if case[0] in ("conv2d", "conv2d_add", "linear", "attention")])
def test_twins_in_tf32(gpu, name, shapes, settings):
    """Compared with the readable operation in float64. In fp32: tests/test_kernels.py."""
    for i, (expected, got) in enumerate(twin_beside_readable("cupy", "tf32", name, shapes, settings, np.float32)):
        error = np.abs(expected - to_numpy(got)).max() / np.abs(expected).max()
        assert error <= PRECISIONS["tf32"], f"{name}, result {i}: {error:.1e}"


NARROWED = {"conv2d": 1, "conv2d_add": 1, "linear": 1, "group_norm": 1, "group_norm_silu": 1, "attention": 3,
            "concatenate": 2, "upsample": 1}        # operations within a network: how many arguments are activations


@pytest.mark.parametrize("precision, name, shapes, settings", [
    (precision, *case) for precision, every in (("bf16", 1), ("fp16", 3)) for case in SMALL[::every]
    if case[0] in NARROWED])
def test_twins_on_narrow_arrays(gpu, precision, name, shapes, settings):
    """Their results are narrow too, the gradients of parameters are not."""
    compare_narrow(precision, name, shapes, settings)


def compare_narrow(precision, name, shapes, settings):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    if name.startswith("conv2d") or name == "linear":
        arrays[1] /= math.sqrt(math.prod(shapes[1][:-1]))
    expected, cache = READABLE[name](*(a.astype(np.float64) for a in arrays), *settings)
    dy = rng.standard_normal(expected.shape).astype(np.float32)
    gradients = READABLE[name + "_backward"](dy.astype(np.float64), cache)
    tinyddpm.use("cupy", precision=precision)
    from tinyddpm.kernels.gpu.product import narrowed
    narrow = [i < NARROWED[name] or i == 3 and shapes[3] == expected.shape for i in range(len(arrays))]
    given = [narrowed(from_numpy(a)) if small else from_numpy(a) for a, small in zip(arrays, narrow)]
    y, cache = getattr(ops, name)(*given, *settings)
    got = results(getattr(ops, name + "_backward")(narrowed(from_numpy(dy)), cache))
    for i, (e, g, small) in enumerate(zip([expected, *results(gradients)], [y, *got], [True, *narrow], strict=True)):
        assert g.dtype == (narrowed(given[0]).dtype if small else np.float32)
        error = np.abs(e - to_numpy(ops.widen(g)[0])).max() / np.abs(e).max()
        assert error <= PRECISIONS[precision], f"{name}, result {i}: {error:.1e}"


@pytest.mark.parametrize("precision, least", [("tf32", 1e-5), ("bf16", 1e-4), ("fp16", 1e-5)])
def test_a_precision_is_what_it_says(gpu, precision, least):
    """A product of numbers with many digits is as inexact as it should be: the narrow types are used."""
    x, w, b = (np.random.default_rng(0).standard_normal(n).astype(np.float32) for n in ((64, 64), (64, 64), 64))
    tinyddpm.use("cupy", precision=precision)
    from tinyddpm.kernels.gpu.product import narrowed
    y, _ = ops.linear(narrowed(from_numpy(x)), from_numpy(w), from_numpy(b))
    exact = x.astype(np.float64) @ w + b
    assert np.abs(to_numpy(ops.widen(y)[0]) - exact).max() / np.abs(exact).max() > least


MUTANTS = [("conv2d", "(unsigned)(j[b][r] + right) < W", "true"), ("conv2d", "kw - 1 - q : q", "q : q"),
           ("conv2d", "++p == kh) p = 0", "++p == kh) p = 1"),
           ("conv2d_add", "value += of_image[e]", ""),
           ("conv2d_add", "value += load(in_one", "value = load(in_one"),
           ("conv2d", "if (i[l] >= H) i[l] -= H", ""),
           ("conv2d", "down = f / C / kw - kh / 2", "down = f / C / kw - 1"),
           ("linear", "r += blockDim.y", "r += 2 * blockDim.y"),
           ("group_norm", "- m[v];\n            sum", ";\n            sum"),
           ("group_norm_silu", "normal * sigmoid(normal)", "sigmoid(normal)"),
           ("group_norm_silu", "(1 + z * (1 - s))", "(1 + z * s)"),
           ("group_norm", "sum_normal[v] += dnormal * normal", "sum_normal[v] += dnormal"),
           ("attention", "- sum) * scale", "- sum)"),
           ("attention", "exp(logits[j] * scale - largest) / sum", "exp(logits[j] * scale - largest)"),
           ("upsample", "+ load(z[1].at[v]) ", ""),
           ("concatenate", "row * B + column - A", "row * B"),
           ("mean_squared_error", "= d * d", "= d")]


@pytest.mark.parametrize("name, right, wrong", MUTANTS)
def test_a_wrong_kernel_is_found(gpu, name, right, wrong, monkeypatch):
    """Each of these changes makes some twin differ, over the shapes of the tests above."""
    from tinyddpm.kernels.gpu import conv, launch

    caches = [launch.module, launch.kernel, conv._plan, conv._gradient_plan]
    source, (file,) = launch.source, [file for file in FILES if right in (FOLDER / file).read_text()]
    monkeypatch.setattr(launch, "source",
                        lambda name: source(name).replace(right, wrong) if name == file else source(name))
    [cache.cache_clear() for cache in caches]
    worst = 0
    try:
        for case in SMALL:
            if case[0] == name:
                for expected, got in twin_beside_readable("cupy", "fp32", *case, np.float32):
                    error = np.abs(expected - to_numpy(got)).max() / np.abs(expected).max()
                    worst = max(worst, error if error == error else 1)
            if worst > 1e-3:
                break
    finally:
        [cache.cache_clear() for cache in caches]
    assert worst > 1e-3


def test_random_numbers(gpu):
    """Philox's published words for a key and a counter of zeros; moments; a draw of its own for every call and key."""
    tinyddpm.use("cupy")
    from tinyddpm.kernels.gpu.launch import launch_each
    y = from_numpy(np.zeros(4, np.float32))
    launch_each("uniform", y.dtype, 1, y, from_numpy(np.zeros(3, np.int32)), 0, 4)
    np.testing.assert_array_equal(to_numpy(y) * 2**24, [0x6627e8, 0xe169c5, 0xbc57ac, 0x9b00db])
    for dtype in (np.float32, np.float64):
        rng, again, other = generator(3, "a"), generator(3, "a"), generator(4, "a")
        uniform, normal = (to_numpy(draw((50_001,), dtype=dtype)) for draw in (rng.random, rng.standard_normal))
        assert uniform.dtype == normal.dtype == dtype and uniform.min() >= 0 and uniform.max() < 1
        for got, moments in ((uniform, [1 / 2, 1 / 3, 1 / 4, 1 / 5]), (normal, [0, 1, 0, 3])):
            np.testing.assert_allclose([(got.astype(float)**k).mean() for k in (1, 2, 3, 4)], moments, atol=0.1)
        assert abs(np.corrcoef(normal[:-1], normal[1:])[0, 1]) < 0.02
        np.testing.assert_array_equal(to_numpy(again.random((50_001,), dtype=dtype)), uniform)
        assert not (to_numpy(again.random((50_001,), dtype=dtype)) == uniform).all()
        assert not (to_numpy(other.random((50_001,), dtype=dtype)) == uniform).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("shape", [(6, 50, 40), (3, 7, 5)])
def test_dropout_draws_its_mask(gpu, precision, shape):
    tinyddpm.use("cupy", precision=precision)
    from tinyddpm.kernels.gpu.product import narrowed
    x = narrowed(from_numpy(np.full(shape, 1.5, np.float32)))
    y, cache = ops.dropout(x, generator(0), 0.25)
    dx = ops.dropout_backward(narrowed(from_numpy(np.full(shape, 3, np.float32))), cache)
    y, dx = (to_numpy(ops.widen(z)[0]) for z in (y, dx))
    assert set(y.reshape(-1)) == {0, 2} and abs((y == 0).mean() - 0.25) < (0.01 if y.size > 1000 else 0.2)
    np.testing.assert_array_equal(dx, 2 * y)


def test_sums_over_many_numbers(gpu):
    """The squared norm of a gradient, in packs and not, and the gradient of a table of which rows are used twice."""
    rng = np.random.default_rng(0)
    tinyddpm.use("cupy")
    for size in (1, 7, 4096, 300_004):
        x = rng.standard_normal(size)
        for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-14)):
            found = ops.squared_norm(from_numpy(x.astype(dtype)))
            assert found.dtype == dtype
            np.testing.assert_allclose(float(found), x @ x, rtol=tolerance)
    table, dy, index = rng.standard_normal((5, 6)), rng.standard_normal((4, 6)), np.array([3, 0, 3, 4])
    y, cache = ops.embedding(from_numpy(table), from_numpy(index))
    np.testing.assert_array_equal(to_numpy(y), table[index])
    expected = np.zeros_like(table)
    np.add.at(expected, index, dy)
    np.testing.assert_allclose(to_numpy(ops.embedding_backward(from_numpy(dy), cache)), expected, rtol=1e-14)


@pytest.mark.parametrize("kept", [0, 700])
def test_norms_of_images_that_shared_memory_cannot_keep(gpu, kept, monkeypatch):
    """700 bytes hold five of 30 pixels, in the backward two."""
    tinyddpm.use("cupy")
    from tinyddpm.kernels.gpu import norm
    monkeypatch.setattr(norm, "KEPT", kept)
    norm._blocks.cache_clear()
    for precision in ("bf16", "fp16"):
        tinyddpm.use("numpy")                               # for what is expected
        compare_narrow(precision, "group_norm_silu", [(2, 5, 6, 64), (64,), (64,)], (16, 1e-6))
    assert 0 <= norm._blocks((2, 5, 6, 64), 16, np.dtype(np.uint16), 1).sizes[3] <= kept / 64
    norm._blocks.cache_clear()


def test_narrow_and_widen_enclose_a_network(gpu):
    """The parameters are narrowed for one forward: what they are later counts later."""
    tinyddpm.use("cupy", precision="bf16")
    rng = np.random.default_rng(0)
    x, values = (from_numpy(rng.standard_normal(n).astype(np.float32)) for n in ((1, 4, 4, 8), 576))
    w, b = values.reshape(3, 3, 8, 8), from_numpy(np.zeros(8, np.float32))
    h, _ = ops.narrow(x, values)
    y, _ = ops.conv2d(h, w, b)
    assert h.dtype == y.dtype == np.uint16
    wide, _ = ops.widen(y)
    expected, _ = READABLE["conv2d"](to_numpy(x), to_numpy(w), to_numpy(b))
    assert wide.dtype == np.float32 and np.abs(to_numpy(wide) - expected).max() < 2e-2 * np.abs(expected).max()
    values *= 2
    np.testing.assert_allclose(to_numpy(ops.widen(ops.conv2d(h, w, b)[0])[0]), 2 * to_numpy(wide), rtol=1e-6)
    assert ops.narrow_backward(y, None).dtype == np.float32 and ops.widen_backward(wide, None).dtype == np.uint16


@pytest.mark.parametrize("precision, hopper", [("fp32", False), ("tf32", False), ("bf16", False), ("bf16", True)])
def test_large_tiles(gpu, monkeypatch, precision, hopper):
    """128 pixels by 128 channels; with hopper, by that chip's products and the descriptors of their operands."""
    tinyddpm.use("cupy")
    from tinyddpm.kernels.gpu import conv
    monkeypatch.setattr(conv, "ENOUGH", 1)
    if hopper:
        if gpu is None:
            pytest.skip("a GPU runs the branch that suits it")
        compiled = cupy_on_cpu.compiled
        monkeypatch.setattr(cupy_on_cpu, "compiled", lambda code, options: compiled(code, (*options, "-DWGMMA=1")))
    for x, K, kernel in (((2, 9, 10, 72), 136, (3, 3)), ((1, 3, 77, 136), 72, (1, 1))):
        compare_narrow(precision, "conv2d", [x, (*kernel, x[3], K), (K,)], ())


def test_what_a_gpu_refuses(gpu, monkeypatch):
    """Narrow products on an old one, and more channels in a group than a block has threads for."""
    tinyddpm.use("cupy")
    x, one, zero = (from_numpy(z) for z in (np.zeros((1, 1, 1, 1028), np.float32), np.ones(1028, np.float32),
                                            np.zeros(1028, np.float32)))
    with pytest.raises(ValueError, match="up to 1024 channels"):
        ops.group_norm(x, one, zero, 1, 1e-6)
    if gpu is None:
        pytest.skip("there is a real GPU")
    monkeypatch.setattr(cupy_on_cpu.DEVICE, "compute_capability", "75")
    tinyddpm.use("cupy", precision="bf16")
    with pytest.raises(ValueError, match="needs a GPU of compute capability 8.0; this one has 7.5"):
        ops.narrow(x, one)


def test_only_a_gpu_has_precisions():
    for backend in ("numpy", "numba"):
        with pytest.raises(ValueError, match="bf16 needs a GPU"):
            tinyddpm.use(backend, precision="bf16")
    with pytest.raises(ValueError, match="fp32, tf32, bf16, fp16"):
        tinyddpm.use("numpy", precision="fp8")


# ---- the readable operations, on the device's arrays ----

def index(*numbers):
    return np.array(numbers)


ON_DEVICE = [*SMALL[::4], ("group_norm", [(2, 5, 4, 6), (6,), (6,)], (3, 1e-6)), ("silu", [(3, 4)], ()),
             ("softmax", [(3, 5)], ()),
             ("patchify", [(2, 4, 6, 3)], (2,)),
             ("unpatchify", [(2, 4, 6, 12)], (2,)), ("mean_pool", [(2, 4, 6, 3)], ()),
            ("embedding", [(5, 3)], (index(1, 4, 1),)), ("mean_squared_error", [(3, 4), (3, 4)], ()),
             ("cross_entropy", [(3, 4)], (index(0, 3, 2),)),
            ("upsample", [(1, 2, 3, 4)], ()), ("concatenate", [(2, 3), (2, 4)], ()),
             ("conv2d_add", [(2, 5, 6, 3), (3, 3, 3, 4), (4,), (2, 1, 1, 4)], ())]


@pytest.mark.parametrize("name, shapes, settings", ON_DEVICE, ids=[f"{n}-{s[0]}" for n, s, _ in ON_DEVICE])
def test_the_readable_code_runs_on_the_device(gpu, name, shapes, settings):
    """Unchanged, it gives the same numbers as on the host, and never waits."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    found = []
    for backend in ("numpy", "cupy"):
        tinyddpm.use(backend)
        vars(ops).update(READABLE)                            # on the GPU too, the readable code alone
        there = [from_numpy(a) if isinstance(a, np.ndarray) else a for a in (*arrays, *settings)]
        if gpu is not None:
            gpu.clear()
        y, cache = READABLE[name](*there)
        gradients = READABLE[name + "_backward"](y * 0.5 if y.ndim else 0.5, cache)
        assert not gpu
        found.append([to_numpy(a) for a in (y, *(gradients if isinstance(gradients, tuple) else (gradients,)))])
    for expected, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def test_every_readable_operation_is_among_them():
    backwards = {name.removesuffix("_backward") for name in READABLE if name.endswith("_backward")}
    assert backwards - {name for name, _, _ in ON_DEVICE} == {"dropout", "narrow", "widen"}      # tested below


# ---- a network, and its training ----

TINY = UNetConfig(image_size=4, image_channels=1, base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1,
                  attention_resolutions=(2,), groups=4, dropout=0.2, num_classes=3)
PRESET = presets.get("mnist").override(batch_size=4, warmup=3, lr=1e-3, flip=True, save_every=50, sample_every=0, T=20,
                                       steps=12,
                                       schedule="linear", prediction="eps")
PRESET = presets.Preset("tiny", "digits", TINY, PRESET.diffusion, PRESET.training)
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (18, 4, 4, 1)).astype(np.uint8), RNG.integers(0, 3, 18)


def dataset():
    return data.Dataset(IMAGES.copy(), LABELS)


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-4), ("bf16", 5e-2)])
def test_a_network_equals_the_readable_one(gpu, precision, tolerance):
    x = np.random.default_rng(0).standard_normal((3, 4, 4, 1)).astype(np.float32)
    found = []
    for backend, p in (("numpy", "fp32"), ("cupy", precision)):
        tinyddpm.use(backend, precision=p)
        model = UNet(UNetConfig(**{**vars(TINY), "dropout": 0.0}))
        values = np.random.default_rng(1).standard_normal(model.flat_values.size) * 0.1
        model.flat_values[...] = from_numpy(values.astype(np.float32))
        y = model.forward(from_numpy(x), np.array([1, 50, 1000]), np.array([0, 1, 3]))
        found.append([to_numpy(a) for a in (y, model.backward(y * 0 + 1), model.flat_grads)])
    for expected, got in zip(*found):
        assert np.abs(expected - got).max() <= tolerance * np.abs(expected).max()


def test_a_step_waits_for_nothing(gpu):
    """Data, labels, flips, noise, dropout, clipping and update: no result goes to the host until it is asked for."""
    if gpu is None:
        pytest.skip("only the stand-in counts waits")
    for precision in ("bf16", "fp16"):
        tinyddpm.use("cupy", precision=precision)
        trainer, images = Trainer(PRESET), dataset()
        images.to_device()
        batches = images.batches(0, 4, seed=0)
        gpu.clear()
        for _ in range(3):
            trainer.begin(*next(batches))
        assert gpu == []
        results = trainer.results()
        assert len(results) == 3 and len(gpu) >= 6


def losses(precision, steps, **changes):
    tinyddpm.use("cupy", precision=precision)
    trainer, images = Trainer(PRESET.override(**changes)), dataset()
    return trainer, [trainer.step(*images.batch(k, 4, 0)) for k in range(steps)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_recorded_network_gives_the_same_bits(gpu, precision, monkeypatch):
    """Of the losses, with dropout and labels, the weights, and what the network makes of batches of two sizes."""
    found = []
    for recorded in (True, False):
        tinyddpm.use("cupy", precision=precision)
        if not recorded:
            monkeypatch.setattr(state, "run", call)
        trainer, images = Trainer(PRESET), dataset()
        found.append([trainer.step(*images.batch(k, 4, 0)) for k in range(5)])
        with trainer.averaged() as model:
            for k in range(8):
                x = generator(k).standard_normal((3 + k % 2, 4, 4, 1), dtype=np.float32)
                y = model.forward(x, np.arange(1, 4 + k % 2) + k, np.full(len(x), k % 3))
                found[-1].append(to_numpy(y))
        found[-1] += [trainer.step(*images.batch(k, 4, 0)) for k in range(5, 8)]
        found[-1].append(to_numpy(trainer.model.flat_values))
    for mine, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_what_a_recording_can_be_asked_for(gpu):
    """Forwards without a backward, a backward without a forward, gradients in evaluation mode, more kinds than MOST."""
    tinyddpm.use("cupy")
    model, run = UNet(TINY).eval(gradients=True), state.run
    from tinyddpm.kernels.gpu import graph
    x, t = from_numpy(np.random.default_rng(0).standard_normal((3, 4, 4, 1)).astype(np.float32)), np.array([1, 5, 9])
    with pytest.raises(RuntimeError, match="without a forward"):
        model.backward(x)
    y, dx = (to_numpy(z) for z in (model.forward(x, t), model.backward(x)))
    assert not [recording for recording in graph.networks[model].values() if recording.graphs]
    for forwards in (1, 2, 1, 3):
        for _ in range(forwards):
            np.testing.assert_array_equal(to_numpy(model.forward(x, t)), y)
        np.testing.assert_array_equal(to_numpy(model.backward(x)), dx)
        with pytest.raises(RuntimeError, match="without a forward"):
            model.backward(x)
    (recording,) = graph.networks[model].values()
    assert set(recording.graphs) == {"_forward", "_backward"}
    model.forward(x, t)
    with pytest.raises(ValueError, match=r"found \(4, 1\) of float32; expected \(3, 4, 4, 1\)"):
        model.backward(x[0, 0])
    model.eval()
    for n in range(1, 7):
        for recorded in ([], ["_forward"]):
            found = model.forward(from_numpy(np.ones((n, 4, 4, 1), np.float32)), np.arange(1, n + 1))
            assert len(found) == n and len(graph.networks[model]) <= graph.MOST
            assert list(list(graph.networks[model].values())[-1].graphs) == recorded
    assert run is state.run is graph.run


def test_precisions_train_alike(gpu):
    _, exact = losses("fp32", 6)
    for precision in ("bf16", "fp16"):
        _, coarse = losses(precision, 6)
        assert coarse != exact
        np.testing.assert_allclose(np.mean(coarse), np.mean(exact), rtol=0.02)


def test_the_loss_scale_halves_and_doubles():
    scale = LossScale(np)
    for norm, expected in ((np.inf, 2**15), (np.nan, 2**14), (1.0, 2**14)):
        scale.update(np.float64(norm))
        assert scale.scale == expected
    for _ in range(GROW_AFTER - 2):
        scale.update(np.float64(1))
    assert scale.scale == 2**14
    scale.update(np.float64(1))
    assert scale.scale == 2**15 and scale.good == 0


def test_an_overflow_in_fp16_is_left_out_counted_and_survived(gpu, tmp_path):
    tinyddpm.use("cupy", precision="fp16")
    trainer, images = Trainer(PRESET), dataset()
    trainer.loss_scale.scale = from_numpy(np.float32(2.0**26))
    before = to_numpy(trainer.model.flat_values).copy()
    trainer.step(*images.batch(0, 4, 0))
    assert trainer.skipped == 1 and trainer.steps_done == 1
    np.testing.assert_array_equal(to_numpy(trainer.model.flat_values), before)
    while trainer.skipped == trainer.steps_done:
        trainer.step(*images.batch(trainer.steps_done, 4, 0))
    assert float(trainer.loss_scale.scale) == 2.0**(26 - trainer.skipped) < 2**26
    assert not np.array_equal(to_numpy(trainer.model.flat_values), before)
    save_checkpoint(tmp_path / "c", trainer)
    resumed = load_checkpoint(tmp_path / "c")
    assert float(resumed.loss_scale.scale) == float(trainer.loss_scale.scale) and resumed.skipped == trainer.skipped > 0


def test_a_scale_that_cannot_help_ends_the_run(gpu):
    tinyddpm.use("cupy", precision="fp16")
    trainer, images = Trainer(PRESET), dataset()
    trainer.loss_scale.scale = from_numpy(np.float32(2.0**-6))
    trainer.model.flat_values[5] = np.nan
    with pytest.raises(ValueError, match="choose --precision bf16"):
        for k in range(6):
            trainer.step(*images.batch(k, 4, 0))


def test_a_loss_that_is_not_finite_is_found_later_and_spoils_nothing(gpu, tmp_path, monkeypatch):
    """Twenty steps are begun before the host reads the losses: the one that failed is named, and changed nothing."""
    tinyddpm.use("cupy", precision="bf16")
    trainer = Trainer(PRESET)
    backward = trainer.model.backward

    def poisoned(dy):
        return backward(dy * np.float32(np.inf if trainer.steps_done == 9 else 1))
    monkeypatch.setattr(trainer.model, "backward", poisoned)
    with pytest.raises(ValueError, match="the gradient is not finite.*step 10; the last checkpoint"):
        fit(trainer, dataset(), tmp_path)
    assert np.isfinite(to_numpy(trainer.model.flat_values)).all()


def test_a_run_stops_and_goes_on(gpu, tmp_path):
    tinyddpm.use("cupy")
    whole = Trainer(PRESET)
    assert fit(whole, dataset(), tmp_path)
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics["step"].tolist() == list(range(1, 13)) and np.all(np.diff(metrics["seconds"]) >= 0)
    part = Trainer(PRESET)
    for k in range(7):
        part.step(*dataset().batch(k, 4, 0))
    save_checkpoint(tmp_path / "c", part)
    part = load_checkpoint(tmp_path / "c")
    fit(part, dataset(), tmp_path)
    np.testing.assert_array_equal(to_numpy(part.model.flat_values), to_numpy(whole.model.flat_values))


def test_the_programs_run_on_it(gpu, tmp_path, monkeypatch, capsys):
    """Training, resuming, sampling and bits/dim, as typed in a shell."""
    monkeypatch.chdir(tmp_path)
    flags = ["--backend", "cupy", "--precision", "bf16"]
    checkpoint = "run/checkpoint.safetensors"
    for program, *arguments in (["train_mnist.py", "--quick", "--steps", "2", "--batch-size", "4", "--out", "run",
                                 "--base-channels", "8", "--groups", "4", "--patch-size", "7", "--T", "3", *flags,
                                 "--verbose"],
                                ["train_mnist.py", "--resume", "--steps", "3", "--out", "run", *flags],
                                ["sample.py", checkpoint, "--count", "1", *flags],
                                ["evaluate.py", checkpoint, "nll", "--split", "train", "--count", "2", "--times", "2",
                                 *flags]):
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "examples" / program), run_name="__main__")
        assert stopped.value.code == 0, capsys.readouterr().err
    assert "precision bf16" in capsys.readouterr().err
    assert state.precision == "bf16" and load_checkpoint(checkpoint).steps_done == 3


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_values_on_the_device(gpu, kind):
    """A step, the bits and samples of a discrete diffusion."""
    process = DiscreteConfig(3, kind, T=20, alphabet="abc")
    model = TransformerConfig(6, process.make_schedule().states, 16, 1, 2, 2)
    trainer = DiscreteTrainer(presets.Preset("text", "none", model, process, presets.TrainingConfig(batch_size=4)))
    codes = np.arange(24).reshape(4, 6).astype(np.uint8) % 3
    assert trainer.step(codes) > 0
    d, p = trainer.schedule, discrete.reverse_process(trainer.model.eval(), trainer.schedule)
    assert to_numpy(discrete.bits(p, d, from_numpy(codes.astype(np.int64)), generator(0, "bits"), 2)).shape == (4,)
    assert set(generate(trainer.model, d, 5, (6,), steps=3).ravel()) <= {0, 1, 2}


def test_pairs_for_reflow_on_the_device(gpu, monkeypatch):
    for name, number in (("PAIRS", 8), ("SOLVER_STEPS", 2), ("BATCH", 4)):
        monkeypatch.setattr(distill, name, number)
    preset = presets.get("mnist").override(image_size=8, base_channels=8, groups=4, patch_size=1, batch_size=4)
    student = Trainer(distill.student_preset(preset, 1, "reflow"))
    student.lesson = distill.Reflow(Trainer(preset).model.eval(), preset, student, 1)
    assert student.step(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)) > 0


def test_the_stand_in_refuses_what_a_gpu_would_spoil():
    """Host arrays among device arrays, arrays of another type or not contiguous, a missing argument."""
    if cupy_is_real() or not cupy_on_cpu.COMPILER:
        pytest.skip("there is a real GPU, or no C++ compiler")
    with cupy_on_cpu.installed():
        tinyddpm.use("cupy")
        from tinyddpm.kernels.gpu.launch import launch
        on_device = from_numpy(np.ones((4, 4), np.float32))
        with pytest.raises(TypeError, match="numpy.ndarray"):
            on_device + np.ones((4, 4), np.float32)
        real = np.dtype(np.float32)
        for wrong in (np.ones(8, np.float32), on_device.astype(np.float64), on_device[:, ::2]):
            with pytest.raises(AssertionError):
                launch("squared_error", real, (1,), (256,), wrong, on_device, on_device, on_device, 8)
        with pytest.raises(ValueError, match="argument 2 is shorter"):
            launch("squared_error", real, (1,), (256,), on_device, on_device)
        with pytest.raises(TypeError, match="bfloat16"):
            on_device.astype(np.uint16) + on_device.astype(np.uint16)
