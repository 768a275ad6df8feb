"""The benchmark: what it counts, that it runs, and that its PyTorch twin is the same network (where PyTorch is installed)."""

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
    command = [sys.executable, EXAMPLES / "benchmark.py", "--sides", "numpy", "--tasks", "sample", "--rounds", "1", "--seconds", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sgemm" in done.stdout and "mnist, sample, batch 64, 0.09 GFLOP an image" in done.stdout
    assert done.stdout.splitlines()[-1].split()[0] == "numpy"


def test_the_twin_is_the_same_network(benchmark):
    """As many parameters for every model, and it runs."""
    torch = pytest.importorskip("torch")
    from benchmark_torch import UNet as Twin
    for preset in benchmark.MODELS.values():
        assert sum(p.numel() for p in Twin(preset.model).parameters()) == UNet(preset.model).flat_values.size
    c = benchmark.SMALL
    x, t = torch.randn(2, c.image_channels, c.image_size, c.image_size), torch.tensor([1, 500])
    assert Twin(c)(x, t).shape == x.shape and np.isfinite(Twin(c)(x, t).detach().numpy()).all()
