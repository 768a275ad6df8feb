"""The benchmark: what it counts, that it runs, and, if PyTorch is installed, that its twin is the same network."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinyddpm import data, presets
from tinyddpm.data import mnist
from tinyddpm.nn import UNet
from tinyddpm.training import Trainer

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def part(monkeypatch):
    """part(name): the module benchmark_name of the examples."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return lambda name: importlib.import_module(f"benchmark_{name}")


def test_the_papers_model_has_its_operations(part):
    models = part("models")
    assert models.flops(models.MODELS["cifar10"].model) == pytest.approx(2 * 6.22e9, rel=0.001)


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


def test_growth_goes_through_batch_image_and_width(part, monkeypatch):
    compared = []
    monkeypatch.setattr(part("tables"), "compare",
                        lambda model, args, task, **changes: compared.append((model, task, changes)))
    part("tables").growth("small", None)
    assert compared == [("small", "train", {name: value}) for name, values in
                        [("batch_size", (16, 32, 64, 128)), ("image_size", (32, 64)), ("base_channels", (32, 64))]
                        for value in values]


def test_the_twin_is_the_same_network(part):
    """It has as many parameters for every model, and it runs."""
    torch = pytest.importorskip("torch")
    Twin = part("torch").UNet
    for preset in part("models").MODELS.values():
        assert sum(p.numel() for p in Twin(preset.model).parameters()) == UNet(preset.model).flat_values.size
    c = part("models").SMALL
    x, t = torch.randn(2, c.image_channels, c.image_size, c.image_size), torch.tensor([1, 500])
    assert Twin(c)(x, t).shape == x.shape and np.isfinite(Twin(c)(x, t).detach().numpy()).all()


def test_a_gpu_has_its_turns(part, gpu, monkeypatch):
    """In fp32 and bf16: training, sampling, the layers, and the product that sets the ceiling."""
    if gpu is None:
        pytest.skip("on a GPU, run the benchmark itself")
    turn, models = part("turn"), part("models").MODELS
    monkeypatch.setattr(part("measure"), "GEMM_SIZE", 16)
    monkeypatch.setitem(models, "tiny", models["mnist"].override(base_channels=8, groups=4, batch_size=1, patch_size=7,
                                                                 channel_multipliers=(1,)))
    for side in ("cupy-fp32", "cupy-bf16"):
        for task in ("train", "sample"):
            found = turn.turn(task, side, 0.001, "tiny")
            assert found["seconds"] > 0 and found["peak"] in range(2 * 123, 9 * 123, 123)     # of all pools
        assert turn.turn("gemm", side, 0.001)["gflops"] > 0
        assert {"conv2d", "attention"} <= {layer.split()[0] for layer in turn.turn("layers", side, 0.001, "tiny")}


@pytest.mark.parametrize("side", ["numpy", "torch"])
def test_quality_trains_draws_and_judges(part, monkeypatch, side):
    """On few digits; real ones are judged far better. PyTorch begins with the same loss: the same batch and noise."""
    if side == "torch":
        pytest.importorskip("torch")
    quality = part("quality")
    digits, losses = mnist.load_digits(), []
    order = np.random.default_rng(0).permutation(5000)[:400]
    monkeypatch.setattr(quality.data, "load", lambda name, config, split, data_dir: data.Dataset(
        digits[0][order], digits[1][order]))
    preset = presets.get("mnist").override(base_channels=8, groups=4, batch_size=4, T=20, sampling_steps=2)
    monkeypatch.setattr(quality.presets, "get", lambda name: preset)
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, *batch: losses.append(step(self, *batch)) or losses[-1])
    rows = [quality.turn(name, "mnist", 100, 0, None, steps=3) for name in (quality.REAL, side)]
    assert rows[0]["sure"] > 0.9 and rows[0]["right"] > 0.95 and "steps" not in rows[0]
    assert rows[1]["steps"] == 3 and rows[1]["fid"] > 10 * rows[0]["fid"] and rows[1]["right"] < 0.5
    assert 0 < rows[1]["training"] and 0 < rows[1]["drawing"]
    trainer = Trainer(preset.override(seed=0))
    if side == "torch":
        batch = data.Dataset(digits[0][order], digits[1][order]).batch(0, 4, 0)
        assert part("torch_training").TorchTrainer(preset).step(*batch) == pytest.approx(trainer.step(*batch), rel=1e-4)
    else:
        assert len(losses) == 4                                             # one to compile


def test_quality_prints_a_row_for_each_side(part, monkeypatch, capsys):
    found = {"steps": 1300, "training": 151.0, "drawing": 12.0, "fid": 1.5, "sure": 0.95, "right": 0.98,
             "measure": "FID"}
    asked = []
    monkeypatch.setattr(part("tables"), "run", lambda args, **what: asked.append(what) or found)
    args = SimpleNamespace(steps=None, minutes=2.0, count=200, seed=1, data_dir=None, sides=["numba", "torch"])
    part("tables").quality("mnist", args)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-4:-1]] == ["training", "numba", "torch"]
    assert lines[-2].split()[1:] == ["1,300", "151", "s", "12", "s", "1.500", "95.0%", "98.0%"]
    assert all(what["changes"] == {"steps": None, "minutes": 2.0, "count": 200, "seed": 1, "data_dir": None}
               for what in asked)
