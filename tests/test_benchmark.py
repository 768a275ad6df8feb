"""The benchmark: what it counts, that it runs, and, if PyTorch is installed, that its twin is the same network."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyddpm.nn import UNet

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("benchmark")


def test_the_papers_model_has_its_operations(benchmark):
    assert benchmark.flops(benchmark.MODELS["cifar10"].model) == pytest.approx(2 * 6.22e9, rel=0.001)


def test_it_prints_a_table():
    command = [sys.executable, EXAMPLES / "benchmark.py", "--sides", "numpy", "--tasks", "sample", "--rounds", "1",
               "--seconds", "0.01", "--batch-sizes", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "numpy: " in done.stdout and "mnist, sample, batch 2, 0.09 GFLOP an image" in done.stdout
    assert done.stdout.splitlines()[-1].split()[0] == "numpy"


def test_it_measures_every_layer():
    command = [sys.executable, EXAMPLES / "benchmark.py", "--sides", "numba", "--tasks", "layers", "--rounds", "1",
               "--seconds", "0.01", "--batch-sizes", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("  ") and "%" in line]
    sums = [row for row in rows if row[0] == "all"]
    rows = rows[:-len(sums)]
    assert {row[1] for row in sums} == {row[0] for row in rows}
    assert sum(float(row[3][:-1]) for row in sums) == pytest.approx(100, abs=0.05 * len(sums))
    assert {row[0] for row in rows} == {"conv2d", "conv2d_add", "group_norm", "group_norm_silu", "linear", "attention",
                                        "concatenate", "upsample"}
    shares = [float(word[:-1]) for row in rows for word in row if word.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares)) and shares == sorted(shares, reverse=True)


def test_growth_goes_through_batch_image_and_width(benchmark, monkeypatch):
    compared = []
    monkeypatch.setattr(benchmark, "compare",
                        lambda model, args, task, **changes: compared.append((model, task, changes)))
    benchmark.growth("small", None)
    assert compared == [("small", "train", {name: value}) for name, values in
                        [("batch_size", (16, 32, 64, 128)), ("image_size", (32, 64)), ("base_channels", (32, 64))]
                        for value in values]


def test_the_twin_is_the_same_network(benchmark):
    """It has as many parameters for every model, and it runs."""
    torch = pytest.importorskip("torch")
    from benchmark_torch import UNet as Twin
    for preset in benchmark.MODELS.values():
        assert sum(p.numel() for p in Twin(preset.model).parameters()) == UNet(preset.model).flat_values.size
    c = benchmark.SMALL
    x, t = torch.randn(2, c.image_channels, c.image_size, c.image_size), torch.tensor([1, 500])
    assert Twin(c)(x, t).shape == x.shape and np.isfinite(Twin(c)(x, t).detach().numpy()).all()


def test_a_gpu_has_its_turns(benchmark, gpu, monkeypatch):
    """In fp32 and bf16: training, sampling, the layers, and the product that sets the ceiling."""
    if gpu is None:
        pytest.skip("on a GPU, run the benchmark itself")
    monkeypatch.setattr(benchmark, "GEMM_SIZE", 16)
    monkeypatch.setitem(benchmark.MODELS, "tiny",
                        benchmark.MODELS["mnist"].override(base_channels=8, groups=4, batch_size=1, patch_size=7,
                                                           channel_multipliers=(1,)))
    for side in ("cupy-fp32", "cupy-bf16"):
        for task in ("train", "sample"):
            found = benchmark.turn(task, side, 0.001, "tiny")
            assert found["seconds"] > 0 and found["peak"] == 123
        assert benchmark.turn("gemm", side, 0.001)["gflops"] > 0
        assert {"conv2d", "attention"} <= {layer.split()[0] for layer in benchmark.turn("layers", side, 0.001, "tiny")}
