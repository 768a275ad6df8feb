"""Editing: the conditional of a normal in the plane, what must come back unchanged, and the program."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_ode import S, Mixture

from tinyddpm import nn, presets
from tinyddpm.diffusion.process import mu_from_x0, q_sample
from tinyddpm.sampling import editing
from tinyddpm.sampling.samplers import SAMPLERS, choose_times
from tinyddpm.sampling.steps import Step, ddim, last

RNG = np.random.default_rng(0)
COVARIANCE, KNOWN = np.array([[0.5, 0.35], [0.35, 0.4]]), 0.6
TRUTH = (COVARIANCE[1, 0] / COVARIANCE[0, 0] * KNOWN,                       # of the second number, given the first
         np.sqrt(COVARIANCE[1, 1] - COVARIANCE[1, 0]**2 / COVARIANCE[0, 0]))
N = 3000


class Normal(Mixture):
    """The exact reverse process of a normal in the plane, with the small variance."""

    def __init__(self, covariance):
        super().__init__([[0, 0]], [covariance], [1.0])

    def __call__(self, x, t):
        x0 = super().__call__(x, t)[2]
        return mu_from_x0(S, x0, x, t), np.full((len(x), 1), S.variance("small")[t[0]]), x0


def answers(covariance, wrap, run=ddim, steps=100, **options):
    """Mean and deviation of the second number in samples whose first number is known."""
    y = np.full((N, 2), [KNOWN, 0.0])
    p = wrap(Normal(covariance), S, editing.masked(np.array([[1.0, 0.0]])), y)
    rng = np.random.default_rng(1)
    x = last(run(p, S, rng.standard_normal((N, 2)), rng, choose_times(S, steps), **options))
    np.testing.assert_allclose(x[:, 0], KNOWN, atol=1e-5)
    return x[:, 1].mean(), x[:, 1].std()


def test_where_the_parts_are_independent_replacement_is_exact():
    for wrap in (editing.replaced, lambda *a: editing.reconstructed(*a, clip=False)):
        assert answers(np.diag([1.0, 0.4]), wrap) == pytest.approx((0, 0.4**0.5), abs=0.03)


def test_replacement_leaves_a_gap_that_resampling_closes():
    """Of the shift of the conditional mean, replacement finds less than two thirds, reconstruction more."""
    mean, _ = answers(COVARIANCE, editing.replaced)
    assert 0 < mean < 0.65 * TRUTH[0]
    better, _ = answers(COVARIANCE, lambda *a: editing.reconstructed(*a, clip=False))
    assert mean + 0.08 < better < TRUTH[0]
    closed = answers(COVARIANCE, editing.replaced, editing.resampled(ddim, 5, 12), 200, eta=1.0)
    assert closed == pytest.approx(TRUTH, abs=0.035)


def test_resampling_goes_back_and_on():
    """Each jump is walked `repeats` times, with fresh noise in between, and the last step leads to the data."""
    seen = []

    def run(p, s, x, rng, times):
        for t in times:
            seen.append(t)
            yield Step(t, x, x)

    found = last(editing.resampled(run, 2, 3)(None, S, np.zeros((4000, 1)), np.random.default_rng(0), [900, 600, 300]))
    assert seen == [900, 600] * 3 + [300] * 3
    kept, data = S.alpha_bar[900] / S.alpha_bar[300], S.alpha_bar[300]      # in a return to 900, and to 300
    assert found.var() == pytest.approx(data**2 * (1 - kept**2) + 1 - data**2, rel=0.1)     # two returns each


def test_noise_from_one_time_to_a_later_one():
    """As if it had been added at once: the variances of q at the later time."""
    x0 = np.full((20000, 1), 0.8)
    x = editing.noised(S, q_sample(S, x0, 200, RNG.standard_normal(x0.shape)), 200, 500, RNG)
    assert (x.mean(), x.var()) == pytest.approx((0.8 * S.alpha_bar[500]**0.5, 1 - S.alpha_bar[500]), abs=0.02)


def test_variation_starts_on_the_way():
    x0, times = np.full((3000, 1), 0.8), choose_times(S, 10)
    for strength, left in ((1, times), (0.5, times[5:]), (0.01, times[-1:])):
        x, found = editing.varied(S, x0, times, strength, RNG)
        assert found == left
        assert x.mean() == pytest.approx(0.8 * S.alpha_bar[left[0]]**0.5, abs=0.06)
        assert x.std() == pytest.approx((1 - S.alpha_bar[left[0]])**0.5, rel=0.05)
    for strength in (0, 1.1, np.nan):
        with pytest.raises(ValueError, match="expected more than 0, and at most 1"):
            editing.varied(S, x0, times, strength, RNG)


MASK = (RNG.random((1, 8, 8, 1)) < 0.5).astype(float)
MEASUREMENTS = {"masked": editing.masked(MASK), "smaller": editing.smaller(2), "grey": editing.grey()}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_way_back_is_the_pseudo_inverse(name):
    """A back A = A, and back A is a projection at right angles: symmetric, the smallest solution."""
    measurement, (a, b) = MEASUREMENTS[name], RNG.standard_normal((2, 2, 8, 8, 3))
    y = measurement.of(a)
    np.testing.assert_allclose(measurement.of(measurement.back(y)), y, atol=1e-12)
    project = lambda x: measurement.back(measurement.of(x))
    assert (project(a) * b).sum() == pytest.approx((a * project(b)).sum())
    assert y.size < a.size or name == "masked"


PRESET = presets.get("mnist").override(base_channels=8, groups=4, image_size=8, image_channels=3, T=12,
                                       num_classes=None, guidance=1.0)
MODEL = nn.build(PRESET.model, seed=1)
MODEL.flat_values[...] = 0.2 * np.random.default_rng(2).standard_normal(MODEL.flat_values.size)


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("method", editing.METHODS)
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in ("ddpm", "rk45")])
def test_what_is_known_comes_back(name, method, sampler):
    """With every method and every sampler, to a fraction of a byte; what is not known differs between answers."""
    x0 = np.repeat(RNG.uniform(-1, 1, (1, 8, 8, 3)), 2, axis=0).astype(np.float32)
    seen = []
    found = editing.edit(MODEL, PRESET.diffusion, x0, MEASUREMENTS[name], method, watch=seen.append, sampler=sampler,
                         steps=4)
    of = MEASUREMENTS[name].of
    np.testing.assert_allclose(of(found), of(x0), atol=5e-4)
    assert abs(found[0] - found[1]).max() > 0.01 and seen == list(range(1, len(seen) + 1))
    assert len(seen) == (20 if method == "resampling" else 4)


def test_edit_varies_and_refuses():
    x0 = RNG.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    diffusion = PRESET.override(prediction="eps", schedule="linear").diffusion
    near, far = (editing.edit(MODEL, diffusion, x0, strength=strength, steps=6) for strength in (0.1, 1.0))
    assert abs(near - x0).mean() < 0.5 * abs(far - x0).mean()
    many = editing.edit(MODEL, diffusion, x0[:1].repeat(70, axis=0), editing.masked(MASK.astype(np.float32)), steps=1)
    assert many.shape == (70, 8, 8, 3) and not np.array_equal(many[0], many[64])        # two batches, other noise
    with pytest.raises(ValueError, match="cannot guide together"):
        editing.edit(MODEL, PRESET.diffusion, x0, editing.grey(), classifier=MODEL)


ROOT = Path(__file__).parent.parent


def program(folder, *flags):
    steps = [] if "rk45" in flags else ["--steps", "2"]
    return subprocess.run([sys.executable, ROOT / "examples" / "edit.py", "mnist", *map(str, flags), *steps,
                           "--backend", "numpy"], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(RNG.integers(0, 256, (28, 28)).astype(np.uint8)).save(tmp_path / "images" / f"{i}.png")
    mask = np.zeros((28, 28), np.uint8)
    mask[:, 20:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[:14]).save(tmp_path / "small.png")
    return tmp_path


def test_the_program_keeps_what_the_mask_leaves(folder):
    done = program(folder, "images", "--mask", "mask.png", "--answers", 2, "--count", 2, "--out", "a.npy")
    assert done.returncode == 0, done.stderr
    found = np.load(folder / "a.npy")
    assert found.shape == (2, 2, 28, 28, 1) and found.dtype == np.uint8
    for i in range(2):
        original = np.asarray(Image.open(folder / "images" / f"{i}.png"))
        assert abs(found[i, :, :, :20, 0].astype(int) - original[:, :20]).max() <= 1
        assert abs(found[i, :, :, 20:, 0].astype(int) - original[:, 20:]).mean() > 20


@pytest.mark.parametrize("flags, columns", [(["--task", "upscale"], 4), (["--task", "edit", "--label", 3], 3)])
def test_the_program_draws_a_page(folder, flags, columns):
    done = program(folder, "images/0.png", *flags, "--answers", 2)
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "edited.png") as picture:
        assert picture.size[0] / picture.size[1] == pytest.approx((29 * columns + 1) / 30, rel=0.01)


@pytest.mark.parametrize("flags, expected", [
    (["--mask", "small.png"], "it has 28 x 14 pixels; the model's images have 28 x 28"),
    (["--mask", "middle"], "No such file"), (["--task", "colorize"], "the model's images are grey"),
    (["--task", "upscale", "--factor", 3], "expected a divisor of 28"), (["--label", "1,2"], "expected one class"),
    (["--task", "edit", "--strength", 0], "expected more than 0"), (["--out", "images/0.png"], "is an input"),
    (["--sampler", "rk45", "--tolerance", 0], "expected more than 0")])
def test_what_is_wrong_is_one_line(folder, flags, expected):
    done = program(folder, "images", *flags)
    assert done.returncode == 2 and expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
