"""Distillation: what a student is asked for, against the teacher's own steps; that it learns it; and the program."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tinyddpm import presets
from tinyddpm.backend import generator
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.diffusion.process import q_sample
from tinyddpm.nn import MLP
from tinyddpm.sampling import ode
from tinyddpm.sampling.generate import generate
from tinyddpm.sampling.samplers import choose_times
from tinyddpm.sampling.solvers import dpmpp_2m
from tinyddpm.sampling.steps import consistency, ddim, last
from tinyddpm.training import Trainer, load_model, save_checkpoint
from tinyddpm.training import distill
from tinyddpm.training.distill import METHODS, Progressive, student_preset
from tinyddpm.training.optimizer import Adam

BASE = presets.get("mnist").override(image_size=8, base_channels=8, groups=4, channel_multipliers=(1, 2), patch_size=1,
                                     blocks_per_level=1, batch_size=6, lr=2e-3, warmup=1, ema_decay=0.5)
STEPS, LABELS = 4, np.array([3, 0, 9, 10, 1, 3])
RNG = np.random.default_rng(0)
X0, EPS = RNG.uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32), RNG.standard_normal((6, 8, 8, 1), dtype=np.float32)


def teacher():
    model = Trainer(BASE).model
    model.flat_values += 0.1 * np.random.default_rng(1).standard_normal(model.flat_values.shape, dtype=np.float32)
    return model.eval()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, number in (("GRID", STEPS), ("PAIRS", 70), ("SOLVER_STEPS", 3), ("BATCH", 20)):
        monkeypatch.setattr(distill, name, number)


def lesson(method):
    student = Trainer(student_preset(BASE, STEPS, method))
    student.model.flat_values += 0.05
    return METHODS[method](teacher(), BASE, student, STEPS)


@pytest.mark.parametrize("method", ["progressive", "consistency", "consistency-training"])
def test_noise_and_x0_belong_to_x_t(method):
    """So that the student sees the x_t that the image and its noise lead to."""
    its = lesson(method)
    x0, t, eps = its(np.random.default_rng(2), X0, EPS, {"labels": LABELS})
    assert set(t) <= {250, 500, 750, 1000} and len(set(t)) > 1
    np.testing.assert_allclose(q_sample(its.s, x0, t, eps), q_sample(its.s, X0, t, EPS), atol=1e-4)
    assert np.abs(x0 - X0).max() > 0.1 or method == "consistency-training"


def test_one_step_of_a_progressive_student_is_two_of_its_teacher():
    """With the teacher's guidance, and in the last step to the data."""
    its = lesson("progressive")
    x0, t, eps = its(np.random.default_rng(2), X0, EPS, {"labels": LABELS})
    for i, now in enumerate(t):
        p = reverse_process(its.teacher, BASE.diffusion, LABELS[i:i + 1], guidance=1.4)
        xt = q_sample(its.s, X0[i:i + 1], int(now), EPS[i:i + 1])
        *_, mid = (step.x for step in zip_first(ddim(p, its.s, xt, None, [now, now - 125, now - 250]), 2))
        arrived = q_sample(its.s, x0[i:i + 1], int(now - 250), eps[i:i + 1]) if now > 250 else x0[i:i + 1]
        np.testing.assert_allclose(arrived, mid if now > 250 else last(ddim(p, its.s, xt, None, [now, now - 125])),
                                   atol=1e-3)


def zip_first(steps, count):
    return [step for _, step in zip(range(count), steps)]


@pytest.mark.parametrize("method", ["consistency", "consistency-training"])
def test_a_consistent_student_is_asked_for_what_it_finds_further_on(method):
    its = lesson(method)
    x0, t, _ = its(np.random.default_rng(2), X0, EPS, {"labels": LABELS})
    itself = Trainer(BASE).model.eval()
    itself.flat_values[...] = its.student.model.flat_values
    for i, now in enumerate(t):
        label, after = LABELS[i:i + 1], int(now - 250)
        p = reverse_process(its.teacher, BASE.diffusion, label, guidance=1.4)
        xt = q_sample(its.s, X0[i:i + 1], int(now), EPS[i:i + 1])
        x = (zip_first(ddim(p, its.s, xt, None, [now, after or 1]), 1)[0].x if method == "consistency"
             else q_sample(its.s, X0[i:i + 1], after, EPS[i:i + 1]))
        if after == 0:
            expected = p(xt, np.array([now]))[2] if method == "consistency" else X0[i:i + 1]
        else:
            expected = reverse_process(itself, BASE.diffusion, label)(x, np.array([after]))[2]
        np.testing.assert_allclose(x0[i:i + 1], expected, atol=1e-3)


def test_pairs_for_reflow():
    """An image is where the teacher's flow leads from its noise, as asked for; the times are those of training."""
    its, inputs = lesson("reflow"), {"labels": LABELS}
    x0, t, eps = its(np.random.default_rng(2), X0, EPS, inputs)
    assert set(inputs["labels"]) <= set(range(10)) and len(set(t)) == 6
    p = reverse_process(its.teacher, BASE.diffusion, inputs["labels"], guidance=1.4)
    np.testing.assert_allclose(x0, last(dpmpp_2m(p, its.s, eps, None, choose_times(its.s, 3, "logsnr"))), atol=1e-5)
    _, again, _ = its(np.random.default_rng(3), X0, EPS, inputs)
    assert (t != again).any()
    found, labels = its.straightness(), np.arange(20) % 10
    x = generator(0, "straight").standard_normal((20, 8, 8, 1), dtype=np.float32)
    times = choose_times(its.s, 50, "strides")
    with its.student.averaged() as averaged:
        for one, model, guidance in ((found[0], its.teacher, 1.4), (found[1], averaged, 1.0)):
            p = reverse_process(model, BASE.diffusion, labels, guidance)
            assert one == pytest.approx(ode.straightness(p, its.s, x, times), rel=1e-5)


def test_consistency_takes_a_finer_grid_than_its_student(monkeypatch):
    monkeypatch.setattr(distill, "GRID", 16)
    assert len(lesson("consistency").times) == 1 + 16 and len(lesson("progressive").times) == 1 + STEPS


def test_a_method_must_exist():
    with pytest.raises(ValueError, match="progressive, consistency"):
        lesson("regression")


def test_the_sampler_of_consistent_models():
    """Each step keeps nothing of x but its x_0; with a perfect x_0, any number of steps ends at it."""
    s, x = BASE.diffusion.make_schedule(), np.zeros((3000, 1))
    p = lambda x, t: (None, None, np.full_like(x, 0.3))
    found = list(consistency(p, s, x, np.random.default_rng(0), choose_times(s, 4, "strides")))
    assert [step.t for step in found] == [1000, 750, 500, 250] and (found[-1].x == 0.3).all()
    a = s.alpha_bar[500]
    assert (found[1].x.mean(), found[1].x.var()) == pytest.approx((0.3 * a**0.5, 1 - a), abs=0.03)


def test_a_student_learns():
    """One step of a student, which begins as a copy of its teacher, comes nearer to where the teacher's two lead."""
    preset = BASE.override(batch_size=64, num_classes=None, guidance=1.0, clip=False, lr=1e-2, loss="simple")
    model, student = MLP((8, 8, 1), hidden=32, seed=3).eval(), Trainer(student_preset(preset, 1, "progressive"))
    student.model = MLP((8, 8, 1), hidden=32, seed=3).train()
    for one in (model, student.model):
        one.flat_values *= 2
        one.config = preset.model
    student.optimizer = Adam(student.model, preset.training)
    student.lesson = Progressive(model, preset, student, 1)

    def drawn(model, steps):
        return generate(model, preset.diffusion, 32, sampler="ddim", steps=steps, spacing="strides", clip=False)

    two, before = drawn(model, 2), drawn(model, 1)
    for _ in range(150):
        student.step(RNG.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8))
    after = drawn(student.model.eval(), 1)
    assert ((after - two)**2).mean() < ((before - two)**2).mean() / 3


def test_the_program(tmp_path, monkeypatch, capsys):
    """Two students, the second taught by the first; what is there is not overwritten, and resuming finds it done."""
    path = Path(__file__).parent.parent / "examples" / "distill.py"
    spec = importlib.util.spec_from_file_location("distill", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.chdir(tmp_path)
    preset = presets.get("mnist").override(base_channels=8, groups=4, T=16, batch_size=4)
    save_checkpoint("c.safetensors", Trainer(preset))
    flags = ["c.safetensors", "--to", "4", "--train-steps", "2", "--out", "d", "--backend", "numpy"]
    assert program.main(flags) == 0 and "a student of 4 steps" in capsys.readouterr().out
    for steps in (8, 4):
        folder = tmp_path / "d" / f"progressive-{steps}"
        _, its = load_model(folder / "checkpoint.safetensors")
        assert (its.sampling.steps, its.sampling.guidance, its.sampling.spacing) == (steps, 1.0, "strides")
        assert (folder / "samples.png").exists() and (folder / "metrics.csv").read_text().count("\n") == 3
    with pytest.raises(ValueError, match="already holds a run"):
        program.main(flags)
    assert program.main([*flags, "--resume"]) == 0 and "a student" not in capsys.readouterr().out
    assert program.main([*flags[:1], *flags[3:5], "--method", "reflow", "--out", "r", "--backend", "numpy"]) == 0
    assert "from straight" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--to 3"):
        program.main(["c.safetensors", "--to", "3", "--out", "e", "--backend", "numpy"])
