"""The training step, the optimizer, checkpoints, and runs that stop and resume."""

import csv
import gc
import json
import math
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyddpm
from tinyddpm import cli, data, nn, plots, presets, safetensors
from tinyddpm.diffusion import objective, process
from tinyddpm.nn import Module, Parameter, UNetConfig
from tinyddpm.presets import Preset
from tinyddpm.sampling.config import SamplingConfig
from tinyddpm.sampling.generate import generate
from tinyddpm.training import Trainer, load_checkpoint, load_model, save_checkpoint
from tinyddpm.training import fit as fit_module
from tinyddpm.training.fit import fit, open_metrics, read_metrics
from tinyddpm.training import run as run_module
from tinyddpm.training.checkpoint import PRETRAINED, save_model
from tinyddpm.training.rendezvous import Ranks
from tinyddpm.training.run import claim, run_folder

TINY = replace(presets.get("mnist"), model=UNetConfig(
    image_size=8, image_channels=1, base_channels=16, channel_multipliers=(1, 2), blocks_per_level=1,
    attention_resolutions=(4,), groups=4, dropout=0.2, num_classes=3)).override(
    steps=12, batch_size=4, warmup=3, lr=1e-2, lr_final=1e-3, flip=True, save_every=5, sample_every=0, T=20,
    schedule="linear", prediction="eps", loss="simple", seed=3)
RNG = np.random.default_rng(0)
DATA = data.Dataset(RNG.integers(0, 256, (18, 8, 8, 1)).astype(np.uint8), RNG.integers(0, 3, 18))


def state(trainer):
    """Everything that the future of a run depends on."""
    o = trainer.optimizer
    return [trainer.steps_done, *(a.tobytes() for a in (trainer.model.flat_values, o.ema, o.m, o.v))]


def run(trainer, steps):
    return [trainer.step(*DATA.batch(trainer.steps_done, 4, 3)) for _ in range(steps)]


# ---- the step ----

def test_a_step_is_algorithm_1():
    """Loss and gradient of the first step, recomputed from their parts: scaling, flips, labels, t, eps, dropout.

    The parameters are random, since a new network's output is 0 whatever it is given.
    """
    trainer, reference = Trainer(TINY), Trainer(TINY)
    for model in (trainer.model, reference.model):
        model.flat_values[...] = 0.1 * np.random.default_rng(1).standard_normal(model.flat_values.size)
    trainer.model.flat_grads.fill(7)                            # of an earlier step
    images, labels = DATA.batch(0, 8, 3)
    loss = trainer.step(images, labels)
    assert trainer.seconds == 0 and Trainer(TINY.override(minutes=2)).progress == 0

    choices, rng = np.random.default_rng([3, 1]), tinyddpm.backend.generator(3, "step", 1)
    x0 = images.astype(np.float32) / 127.5 - 1
    mirrored = choices.random(8) < 0.5
    x0 = np.where(mirrored[:, None, None, None], x0[:, :, ::-1], x0)
    labels = np.where(choices.random(8) < 0.1, 3, labels)
    t = choices.integers(1, 21, 8)
    eps = rng.standard_normal(x0.shape, dtype=np.float32)
    xt = process.q_sample(reference.schedule, x0, t, eps)
    y = reference.model.forward(xt, t, labels, rng)
    assert loss == pytest.approx(float(np.mean((eps - y)**2)), rel=1e-6)
    reference.model.backward(2 / y.size * (y - eps))
    np.testing.assert_allclose(trainer.model.flat_grads, reference.model.flat_grads, rtol=1e-4, atol=1e-6)
    assert 0 < mirrored.sum() < 8 and abs(y).mean() > 0.01


def test_the_progress_of_a_run_by_steps_and_by_minutes():
    trainer = Trainer(TINY.override(minutes=2))
    trainer.seconds = 30.0
    assert trainer.progress == 0.25 and not trainer.agree(False, 30.0) and trainer.progress == 0.5
    trainer.preset, trainer.steps_done = TINY, 3
    assert trainer.progress == 0.25 and trainer.agree(True, 1.0)


def test_training_learns():
    """Two uniform images: after some steps the loss is far below 1, its value without any knowledge."""
    preset = TINY.override(steps=100, dropout=0.0, num_classes=None, batch_size=8, T=100, beta_T=0.15)
    images = np.repeat(np.array([40, 210], np.uint8), 4)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    trainer = Trainer(preset)
    losses = [trainer.step(images) for _ in range(100)]
    assert np.mean(losses[:3]) > 0.8 and np.mean(losses[-20:]) < 0.3


def test_learning_rate_warms_up_and_falls():
    optimizer = Trainer(TINY).optimizer
    assert [optimizer.learning_rate(step, 0)
            for step in (1, 2, 3, 4)] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2])
    assert optimizer.learning_rate(9, 0.5) == pytest.approx((1e-2 + 1e-3) / 2)
    assert optimizer.learning_rate(9, 1) == optimizer.learning_rate(9, 1.2) == pytest.approx(1e-3)


def test_clipping_limits_the_norm():
    for scale, expected in ((1.0, 1.0), (1e-3, None)):
        trainer = Trainer(TINY)
        gradient = trainer.model.flat_grads
        gradient[...] = scale * np.random.default_rng(1).standard_normal(gradient.size)
        norm = float(np.linalg.norm(gradient.astype(np.float64)))
        assert trainer.optimizer.update(1, 1e-3) == pytest.approx(norm, rel=1e-5)
        first_moment = np.linalg.norm(trainer.optimizer.m) / (1 - TINY.training.adam_beta1)
        assert first_moment == pytest.approx(expected or norm, rel=1e-4)


def test_a_loss_scale_changes_nothing_but_the_gradients_size():
    found = []
    for loss_scale in (1.0, 8.0):
        trainer = Trainer(TINY)
        gradient = np.random.default_rng(1).standard_normal(trainer.model.flat_grads.size)
        trainer.model.flat_grads[...] = 1e-3 * loss_scale * gradient
        norm = trainer.optimizer.update(1, 1e-2, loss_scale=loss_scale)
        found.append((float(norm), trainer.optimizer.m.copy(), trainer.model.flat_values.copy()))
    for scaled, plain in zip(*found):
        np.testing.assert_allclose(scaled, plain, rtol=1e-5, atol=1e-9)


def test_ema_ramps_up():
    trainer = Trainer(TINY.override(ema_decay=0.5))
    values, ema = trainer.model.flat_values, trainer.optimizer.ema
    for step, decay in ((1, 0.1), (2, 2 / 11), (20, 0.5)):
        before = ema.copy()
        trainer.model.flat_grads[...] = 1
        trainer.optimizer.update(step, 1e-3)
        np.testing.assert_allclose(ema, decay * before + (1 - decay) * values, rtol=1e-5, atol=1e-7)


def test_averaged_parameters_are_lent_and_given_back():
    trainer = Trainer(TINY)
    run(trainer, 3)
    before = state(trainer)
    with trainer.averaged() as model:
        assert not model.training
        np.testing.assert_array_equal(model.flat_values, trainer.optimizer.ema)
    assert state(trainer) == before and trainer.model.training


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_what_is_not_finite_stops_and_spoils_nothing(poison, monkeypatch):
    trainer = Trainer(TINY)
    run(trainer, 2)
    if poison == "loss":                                        # but not the gradient
        right = objective.loss_and_gradient
        monkeypatch.setattr(objective, "loss_and_gradient", lambda *args, **kwargs: right(*args, **kwargs) * np.nan)
    else:
        backward = trainer.model.backward

        def poisoned(dy):
            backward(dy)
            trainer.model.flat_grads[7] = np.inf
        monkeypatch.setattr(trainer.model, "backward", poisoned)
    before = state(trainer)
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=f"{poison} is not finite.*step 3"):
        run(trainer, 1)
    assert state(trainer) == before


def test_bad_batches_are_refused():
    trainer = Trainer(TINY)
    with pytest.raises(ValueError, match="uint8"):
        trainer.step(np.zeros((4, 8, 8, 1)), np.zeros(4, int))
    with pytest.raises(ValueError, match="Trainer.step: the model has classes; expected labels"):
        trainer.step(np.zeros((4, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="expected"):
        trainer.step(np.zeros((4, 8, 9, 1), np.uint8), np.zeros(4, int))


# ---- checkpoints ----

@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_resuming_gives_the_same_bits(backend, stop, tmp_path):
    tinyddpm.use(backend)
    whole = Trainer(TINY)
    losses = run(whole, 10)
    part = Trainer(TINY)
    first = run(part, stop)
    save_checkpoint(tmp_path / "c", part)
    resumed = load_checkpoint(tmp_path / "c")
    assert state(resumed) == state(part)
    assert first + run(resumed, 10 - stop) == losses
    assert state(resumed) == state(whole)


SMALL_MNIST = presets.get("mnist").override(batch_size=8, warmup=1)


def test_numba_and_numpy_train_alike():
    """One seed, 20 steps of the mnist preset at batch 8: the losses agree within a relative 1e-3."""
    losses, digits = {}, data.load("digits", SMALL_MNIST.model)
    for backend in ("numpy", "numba"):
        tinyddpm.use(backend)
        trainer = Trainer(SMALL_MNIST)
        losses[backend] = [trainer.step(*digits.batch(k, 8, seed=0)) for k in range(20)]
    np.testing.assert_allclose(losses["numba"], losses["numpy"], rtol=1e-3)
    assert losses["numba"] != losses["numpy"]                      # so there were two backends
    assert np.mean(losses["numpy"][-10:]) < 0.7 * losses["numpy"][0]


def test_the_same_run_twice_gives_the_same_bits_on_numba():
    tinyddpm.use("numba")
    runs, digits = [], data.load("digits", SMALL_MNIST.model)
    for _ in range(2):
        trainer = Trainer(SMALL_MNIST)
        losses = [trainer.step(*digits.batch(k, 8, seed=0)) for k in range(10)]
        runs.append((losses, trainer.model.flat_values.tobytes()))
    assert runs[0] == runs[1]


def test_a_checkpoint_holds_the_model_and_its_configuration(tmp_path):
    trainer = Trainer(TINY)
    run(trainer, 3)
    save_checkpoint(tmp_path / "c", trainer)
    model, preset = load_model(tmp_path / "c")
    assert preset == TINY and not model.training
    np.testing.assert_array_equal(model.flat_values, trainer.optimizer.ema)
    tensors, _ = safetensors.read(tmp_path / "c")
    assert len(tensors) == 4 * len(model.parameters())


def change(path, tensors=None, metadata=None):
    """Rewrite a checkpoint with some entries replaced and a valid checksum."""
    old_tensors, old_metadata = safetensors.read(path)
    safetensors.write(path, {k: v for k, v in (old_tensors | (tensors or {})).items() if v is not None},
                      old_metadata | (metadata or {}))


@pytest.mark.parametrize("tensors, metadata, message", [
    ({"ema/conv_in.bias": None}, {}, "ema/conv_in.bias is missing"),
    ({"ema/conv_in.bias": np.zeros(3, np.float32)}, {}, r"\(16,\)"),
    ({"ema/conv_in.bias": np.zeros(16)}, {}, "float64"),
    ({}, {"format": "something else"}, "not a checkpoint"),
    ({}, {"preset": "{}"}, "not a configuration"),
    ({}, {"preset": "["}, "Expecting value|not a configuration"),
    ({}, {"preset": TINY.override(base_channels=20).to_json()}, "its configuration says"),
    ({}, {"preset": TINY.override(base_channels=640).to_json()}, "expected more than"),
])
def test_inconsistent_checkpoints_are_refused(tmp_path, tensors, metadata, message):
    path = tmp_path / "c"
    save_checkpoint(path, Trainer(TINY))
    change(path, tensors, metadata)
    for load in (load_model, load_checkpoint):
        with pytest.raises(ValueError, match=message):
            load(path)


def test_a_missing_checkpoint_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="with the package come"):
        load_model(tmp_path / "none")


def test_a_model_alone_takes_16_bits_a_number(tmp_path):
    trainer = Trainer(TINY)
    run(trainer, 3)
    save_model(tmp_path / "m", trainer)
    model, preset = load_model(tmp_path / "m")
    assert preset == TINY and model.flat_values.dtype == np.float32
    np.testing.assert_allclose(model.flat_values, trainer.optimizer.ema, rtol=2**-11, atol=2**-25)
    save_checkpoint(tmp_path / "c", trainer)
    assert 7 < (tmp_path / "c").stat().st_size / (tmp_path / "m").stat().st_size < 8.1
    with pytest.raises(ValueError, match="start a new run from it, with --from"):
        load_checkpoint(tmp_path / "m")
    change(tmp_path / "c", {"model/conv_in.bias": np.zeros(16, np.float16)})
    with pytest.raises(ValueError, match="model/conv_in.bias is .*float16"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("known", [("a", "b", "c"), None])
def test_a_run_from_a_trained_model(known):
    """Everything is copied, and what is new draws as "no label" did; a different network is refused."""
    base = TINY.override(classes=known) if known else TINY.override(num_classes=None)
    model = nn.build(base.model, seed=5)
    model.flat_values[...] = RNG.standard_normal(model.flat_values.size)
    new = TINY.override(num_classes=4, classes=("c", "x", "a", "y"))
    trainer = Trainer(new)
    run_module.start_from(trainer, model, base)
    for name, p in trainer.model.parameters().items():
        if name != "labels.table":
            np.testing.assert_array_equal(p.value, model.parameters()[name].value)
        elif known:
            np.testing.assert_array_equal(p.value, model.labels.table.value[[2, 3, 0, 3, 3]])
        else:
            assert not p.value.any()
    np.testing.assert_array_equal(trainer.optimizer.ema, trainer.model.flat_values)
    assert trainer.steps_done == 0
    x, t = RNG.standard_normal((2, 8, 8, 1)).astype(np.float32), np.array([3, 9])
    y = [network.eval().forward(x, t, *labels) for network, labels in
         ((model, ()), (trainer.model, ()), (trainer.model, (np.array([1, 3]),)))]
    np.testing.assert_array_equal(y[0], y[1])
    np.testing.assert_array_equal(y[0], y[2])
    with pytest.raises(ValueError, match="conv_in.weight does not fit"):
        run_module.start_from(Trainer(TINY.override(patch_size=2)), model, base)


@pytest.mark.parametrize("name", PRETRAINED.keys() - {"masks"})
def test_the_models_of_the_package(name):
    """Each is found by its name, has the preset that it claims, and a card beside it."""
    model, preset = load_model(name)
    assert preset.name == name.removesuffix("-eps") and np.isfinite(model.flat_values).all()
    assert preset.model.num_classes == 10 == len(preset.classes)
    card = PRETRAINED[name].with_suffix(".md").read_text()
    assert all(word in card for word in ("steps", "hours", "bits/dim", "FID", "licence", "seed"))


# ---- presets ----

def test_presets_survive_json_and_overrides_reach_their_place():
    for preset in (*presets.PRESETS.values(), TINY):
        assert Preset.from_json(preset.to_json()) == preset
    drawn = TINY.override(sampler="ddpm", sampling_steps=None, steps=7, guidance=3.0, clip=False,
                          classes=("a", "b", "c"))
    assert drawn.sampling == SamplingConfig("ddpm", None, None, 3.0, False) and drawn.training.steps == 7
    assert Preset.from_json(drawn.to_json()) == drawn
    without = drawn.override(num_classes=None)
    assert (without.sampling.guidance, without.classes, without.labels, drawn.labels) == (1, (), None, [0, 1, 2])
    old = json.loads(drawn.to_json())
    del old["sampling"], old["classes"]                         # as in checkpoints of earlier versions
    assert Preset.from_json(json.dumps(old)).sampling == SamplingConfig()
    changed = presets.get("cifar10").override(lr=1e-3, base_channels=64, T=10, dataset="x")
    assert (changed.training.lr_final, changed.training.lr, changed.model.base_channels, changed.diffusion.T,
            changed.dataset) == (
        2e-4, 1e-3, 64, 10, "x")
    with pytest.raises(ValueError, match="no configuration has a field colour"):
        TINY.override(colour=3)
    with pytest.raises(ValueError, match="there are mnist, cifar10"):
        presets.get("imagenet")


def test_the_cifar10_preset_is_the_papers():
    p = presets.get("cifar10")
    assert p.model == UNetConfig() and (p.diffusion.T, p.diffusion.schedule, p.diffusion.beta_1,
                                        p.diffusion.beta_T) == (1000, "linear", 1e-4, 0.02)
    t = p.training
    assert (t.batch_size, t.lr, t.lr_final, t.warmup, t.adam_beta1, t.adam_beta2, t.adam_eps, t.clip_norm, t.ema_decay,
            t.flip, t.steps) == (
        128, 2e-4, 2e-4, 5000, 0.9, 0.999, 1e-8, 1.0, 0.9999, True, 800_000)
    assert p.model.dropout == 0.1


@pytest.mark.parametrize("field, value", [
    ("steps", 0), ("batch_size", 0), ("lr", 0.0), ("lr", math.nan), ("lr_final", 1.0), ("adam_beta2", 1.0),
    ("ema_decay", -0.1), ("minutes", 0.0),
    ("sampler", "euler"), ("spacing", "odd"), ("guidance", math.nan), ("classes", ("a",)), ("label_dropout", 1.0),
    ("T", 0), ("schedule", "step"), ("variance", "huge"), ("prediction", "x1"), ("beta_T", 1.5), ("seed", -1)])
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field.removesuffix("_T") if field != "T" else "T is 0"):
        TINY.override(**{field: value})


def test_how_a_model_is_drawn_from():
    """The arguments of generate: steps within T, no guidance without labels."""
    config = SamplingConfig("ddim", 50, None, 2.0)
    same = {"sampler": "ddim", "spacing": None, "clip": True}
    assert config.arguments(1000, "labels") == same | {"steps": 50, "guidance": 2.0, "labels": "labels"}
    assert config.arguments(20) == same | {"steps": 20, "guidance": 1.0, "labels": None}
    with pytest.raises(ValueError, match="sampling steps is 0"):
        SamplingConfig(steps=0)
    with pytest.raises(ValueError, match="needs a model with classes"):
        presets.get("cifar10").override(guidance=2.0)


# ---- whole runs ----

def test_a_run_writes_its_files(tmp_path):
    trainer = Trainer(TINY.override(sample_every=6))
    assert fit(trainer, DATA, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "metrics.csv", "samples_000006.png",
                                                          "samples_000012.png"]
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics["step"].tolist() == list(range(1, 13))
    assert np.allclose(metrics["loss"], run(Trainer(TINY), 12), rtol=1e-6)     # the grids do not affect the training
    assert load_checkpoint(tmp_path / "checkpoint.safetensors").steps_done == 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_stops_and_the_run_goes_on_with_the_same_bits(tmp_path, number, monkeypatch):
    whole = Trainer(TINY)
    fit(whole, DATA, tmp_path)
    stopped_dir = tmp_path / "stopped"
    stopped_dir.mkdir()
    stopped = Trainer(TINY)
    begin = stopped.begin

    def begin_and_signal(*batch):
        if stopped.steps_done == 6:
            os.kill(os.getpid(), number)
        return begin(*batch)
    monkeypatch.setattr(stopped, "begin", begin_and_signal)
    assert not fit(stopped, DATA, stopped_dir)
    assert stopped.steps_done == 7 and signal.getsignal(number) not in (None, fit_module.Interrupt._request)
    resumed = load_checkpoint(stopped_dir / "checkpoint.safetensors")
    assert fit(resumed, DATA, stopped_dir)
    assert state(resumed) == state(whole)
    without_time = lambda folder: [row[:4] for row in csv.reader(open(folder / "metrics.csv"))]
    assert without_time(stopped_dir) == without_time(tmp_path)


def test_a_signal_that_is_ignored_stays_so():
    """nohup ignores SIGHUP, so that a run outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with fit_module.Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
    assert not interrupt.requested and signal.signal(signal.SIGHUP, before) == signal.SIG_IGN


def test_after_a_crash_the_run_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    """As after kill -9 in step 9: the checkpoint is from step 5, metrics.csv may hold later rows and half a row."""
    whole = Trainer(TINY)
    fit(whole, DATA, tmp_path)
    expected = [row[:4] for row in csv.reader(open(tmp_path / "metrics.csv"))]
    crashed_dir = tmp_path / "crashed"
    crashed_dir.mkdir()
    crashed = Trainer(TINY)
    begin = crashed.begin

    def begin_and_die(*batch):
        if crashed.steps_done == 8:
            raise KeyError("killed")
        return begin(*batch)
    monkeypatch.setattr(crashed, "begin", begin_and_die)
    with pytest.raises(KeyError):
        fit(crashed, DATA, crashed_dir)
    with open(crashed_dir / "metrics.csv", "a") as file:
        file.write("9,0.12")
    resumed = load_checkpoint(crashed_dir / "checkpoint.safetensors")
    assert resumed.steps_done == 5
    fit(resumed, DATA, crashed_dir)
    assert state(resumed) == state(whole)
    assert [row[:4] for row in csv.reader(open(crashed_dir / "metrics.csv"))] == expected


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(tmp_path, monkeypatch):
    trainer = Trainer(TINY)
    monkeypatch.setattr("tinyddpm.training.trainer.objective.loss_and_gradient",
                        lambda *a, **k: np.nan if trainer.steps_done == 7 else 0.5)
    with pytest.raises(ValueError, match="not finite.*step 8; the last checkpoint stays in .*checkpoint.safetensors"):
        fit(trainer, DATA, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.safetensors").steps_done == 5


def test_an_image_that_cannot_be_read_costs_no_step(tmp_path):
    class Broken(data.Dataset):
        def batch(self, number, *rest):
            if number == 7:
                raise ValueError("7.png cannot be read")
            return super().batch(number, *rest)

    with pytest.raises(ValueError, match="7.png"):
        fit(Trainer(TINY), Broken(DATA.images, DATA.labels), tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.safetensors").steps_done == 7


@pytest.mark.parametrize("changes", [dict(loss="L"), dict(loss="L", variance="small", prediction="x0"),
                                     dict(loss="L", variance="learned", prediction="mu"),
                                     dict(loss="hybrid", variance="learned", prediction="v")])
def test_every_row_of_table_2_learns(changes):
    """On images of one grey, whose noise is easy to see, the loss falls within a few steps."""
    trainer = Trainer(TINY.override(lr=1e-2, lr_final=1e-2, T=1000, dropout=0.0, **changes))
    losses = [trainer.step(np.full((8, 8, 8, 1), 200, np.uint8), np.zeros(8, int)) for _ in range(50)]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])


def test_minutes_end_a_run(tmp_path):
    trainer = Trainer(TINY.override(minutes=0.01))
    assert fit(trainer, DATA, tmp_path)
    assert 0.6 <= trainer.seconds and trainer.progress >= 1 and trainer.steps_done > 1


def test_run_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="nothing to resume"):
        run_folder(None, "digits", resume=True)
    for expected in ("runs/digits", "runs/digits-2", "runs/digits-3"):
        folder = run_folder(None, "digits", resume=False)
        assert str(folder) == expected
        folder.mkdir(parents=True)
        (folder / "checkpoint.safetensors").touch()
    assert str(run_folder(None, "digits", resume=True)) == "runs/digits-3"
    assert str(run_folder("runs/digits", "digits", resume=True)) == "runs/digits"
    assert str(run_folder(None, "/some/pictures", resume=False)) == "runs/pictures"
    with pytest.raises(ValueError, match="already holds a run"):
        claim(Path("runs/digits-2"), new=True)


def test_metrics_that_are_gone_start_anew(tmp_path):
    with open_metrics(tmp_path / "m.csv", 3) as file:
        file.write("4,0.5,1,1e-3,2\n5,0.25,nan,1e-3,2.5\n6,0.")
    assert read_metrics(tmp_path / "m.csv", 5)["step"].tolist() == [4, 5]
    with open_metrics(tmp_path / "m.csv", 4) as file:
        file.write("5,0.125,1,1e-3,2\n")
    assert read_metrics(tmp_path / "m.csv")["loss"].tolist() == [0.5, 0.125]


@pytest.mark.parametrize("row", [b"2,text,1,1e-3,1", b"2,0.5,1,1e-3", b"2,0.5,1,1e-3,1,9", b"1,0.5,1,1e-3,1",
                                 b"2.0,0.5,1,1e-3,1", b"\xff,0.5,1,1e-3,1", b"2," + b"5" * 200_000 + b",1,1e-3,1", b""])
def test_damaged_metrics_are_named_before_the_training(tmp_path, row):
    """... and without them the run goes on."""
    trainer = Trainer(TINY.override(steps=4))
    fit(trainer, DATA, tmp_path)
    trainer.preset = TINY.override(steps=5)
    good = (tmp_path / "metrics.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.csv").write_bytes(b"".join(good[:2]) + row + b"\r\n" + b"".join(good[3:]))
    with pytest.raises(ValueError, match="metrics.csv is damaged.*move it away"):
        fit(trainer, DATA, tmp_path)
    assert trainer.steps_done == 4
    (tmp_path / "metrics.csv").unlink()
    assert fit(trainer, DATA, tmp_path) and read_metrics(tmp_path / "metrics.csv")["step"].tolist() == [5]


# ---- a run and its data ----

def pictures(folder, grey=range(6)):
    folder.mkdir()
    for i in grey:
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


def begin(tmp_path, **given):
    """Prepare a new run in tmp_path/run, or resume it, and train for a step."""
    resume = (tmp_path / "run").exists()
    preset = TINY.override(num_classes=None, steps=4)
    trainer, dataset, folder = run_module.prepare(preset, given, Ranks(), "test", tmp_path / "run", resume=resume)
    trainer.step(*dataset.batch(trainer.steps_done, 4, 3))
    save_checkpoint(folder / "checkpoint.safetensors", trainer)
    trainer.lock.close()
    return trainer.steps_done


def test_a_run_goes_on_with_the_data_it_began_with(tmp_path, monkeypatch):
    """Also from another place; not with an image less, another image or another order."""
    here = pictures(tmp_path / "pictures")
    assert begin(tmp_path, dataset=str(here)) == 1 and begin(tmp_path) == 2
    moved = here.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="no data set '.*pictures'.*--dataset"):
        begin(tmp_path)
    assert begin(tmp_path, dataset=str(moved)) == 3 and begin(tmp_path) == 4
    before = (moved / "2.png").read_bytes()
    two, gone, nine = moved / "2.png", tmp_path / "2.png", moved / "9.png"
    for damage, repair in ((lambda: two.rename(gone), lambda: gone.rename(two)),
                           (lambda: two.write_bytes((moved / "3.png").read_bytes()), lambda: two.write_bytes(before)),
                           (lambda: two.rename(nine), lambda: nine.rename(two))):
        damage()
        with pytest.raises(ValueError, match="begun with other images.* 6 images.*checksum"):
            begin(tmp_path)
        gc.collect()
        repair()
    assert begin(tmp_path) == 5
    with pytest.raises(ValueError, match="begun with other images"):
        begin(tmp_path, dataset=str(pictures(tmp_path / "others", range(1, 7))))


def test_a_schedule_that_leaves_too_much_of_the_data_is_noted(tmp_path, capsys):
    here = pictures(tmp_path / "pictures")
    begin(tmp_path, dataset=str(here), T=4)
    assert "choose a larger --beta-T" in capsys.readouterr().err
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run").rmdir()
    begin(tmp_path, dataset=str(here), T=4, schedule="cosine")
    assert capsys.readouterr().err == ""


def test_a_run_of_an_earlier_version_has_no_fingerprint(tmp_path):
    here = pictures(tmp_path / "pictures")
    begin(tmp_path, dataset=str(here))
    tensors, metadata = safetensors.read(tmp_path / "run" / "checkpoint.safetensors")
    del metadata["data"]
    safetensors.write(tmp_path / "run" / "checkpoint.safetensors", tensors, metadata)
    with pytest.raises(ValueError, match="dataset would change it"):
        begin(tmp_path, dataset=str(pictures(tmp_path / "others", range(1, 7))))
    gc.collect()
    assert begin(tmp_path) == 2


def test_fingerprints(monkeypatch):
    """Of labels too; of a large folder, which is read batch by batch, as far as it is read."""
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1)).astype(np.uint8)
    other = images.copy()
    other[7, 0, 0] ^= 1
    texts = [data.Dataset(*parts).fingerprint() for parts in
             ((images,), (images, np.zeros(300, int)), (images, np.ones(300, int)), (other,), (images[:299],),
              (images.reshape(300, 2, 8, 1),))]
    assert len(set(texts)) == 6 and texts[0] == data.Dataset(images.copy()).fingerprint()

    class Lazy:
        shape, read = images.shape, []

        def __len__(self):
            return 300

        def __getitem__(self, indices):
            self.read.extend(indices)
            return images[indices]
    assert data.Dataset(Lazy()).fingerprint() == data.Dataset(Lazy()).fingerprint()
    assert len(Lazy.read) == 200 and {0, 299} < set(Lazy.read)


# ---- old checkpoints, and new networks ----

GOLDEN = Path(__file__).parent / "golden"


def test_a_checkpoint_of_the_first_version_loads_goes_on_and_samples():
    """The first code of 0.1.0 wrote it after step 3, and on numpy the values of step 6 and the samples beside it."""
    trainer, expected = load_checkpoint(GOLDEN / "checkpoint_1.safetensors"), np.load(GOLDEN / "checkpoint_1.npz")
    assert (trainer.steps_done, trainer.seconds, trainer.preset.diffusion.loss) == (3, 1.5, "hybrid")
    before, digits = trainer.model.flat_values.copy(), data.load("digits", trainer.preset.model)
    while trainer.steps_done < 6:
        trainer.step(*digits.batch(trainer.steps_done, 8, 0))
    change = np.abs(trainer.model.flat_values - expected["model"]).max()
    assert change < 1e-2 * np.abs(before - expected["model"]).max()             # BLAS's rounding, amplified by Adam
    with trainer.averaged() as model:
        for name, count, options in (("ddpm", 3, {"labels": np.array([1, 4, 10])}),
                                     ("ddim", 2, {"steps": 5, "eta": 0.5})):
            drawn = generate(model, trainer.preset.diffusion, count, 5, name, **options)
            np.testing.assert_allclose(drawn, expected[name], atol=0.02)


@dataclass(frozen=True)
class GreyConfig:
    """A network of another kind: it predicts one number for all pixels."""

    image_size: int = 8
    image_channels: int = 1
    start: float = 0.5
    num_classes: int | None = None
    learned_variance: bool = False
    least_parameters, shape = 1, (8, 8, 1)


class Grey(Module):
    def __init__(self, config, seed=0, dtype=np.float32):
        self.config, self.level = config, Parameter(np.full(1, config.start))
        self.flatten(dtype)

    def forward(self, x, t, labels=None, rng=None):
        return np.ones_like(x) * self.level.value

    def backward(self, dy):
        self.level.grad += dy.sum()
        return 0 * dy


def test_a_preset_says_which_network(monkeypatch, tmp_path):
    """Another network is one row of NETWORKS: it is trained, saved, loaded and sampled from."""
    monkeypatch.setitem(nn.NETWORKS, "grey", (GreyConfig, Grey))
    preset = Preset("a", "digits", GreyConfig(), TINY.diffusion, TINY.training).override(prediction="x0", start=0.25)
    trainer = Trainer(preset)
    trainer.step(DATA.images[:4])
    save_checkpoint(tmp_path / "c", trainer)
    assert Preset.from_json(preset.to_json()) == preset and state(load_checkpoint(tmp_path / "c")) == state(trainer)
    model, loaded = load_model(tmp_path / "c")
    assert type(model) is Grey and loaded == preset
    np.testing.assert_allclose(generate(model, preset.diffusion, 2), model.level.value[0], rtol=1e-5)
    monkeypatch.setattr(cli, "CONFIGS", (*cli.CONFIGS, GreyConfig))
    parser = cli.Parser()
    cli.add_run_flags(parser, "")
    args = parser.parse_args(["--start", "0.5", "--image-size", "16"])          # a field of its own, and one of both
    assert cli.overrides(args) == {"start": 0.5, "image_size": 16}


@pytest.mark.parametrize("value", ["null", "16", '"16"'])
def test_a_configuration_with_a_wrong_list_is_refused(value):
    text = presets.get("mnist").to_json().replace('"attention_resolutions": []', f'"attention_resolutions": {value}')
    with pytest.raises(ValueError, match="attention_resolutions is .*; expected tuple"):
        Preset.from_json(text)


def test_the_curve_of_a_new_loss_is_drawn(tmp_path):
    plots.loss_curve(tmp_path / "loss.png", np.arange(1, 10), np.arange(1.0, 10.0), "a new loss")
    assert (tmp_path / "loss.png").stat().st_size > 1000
