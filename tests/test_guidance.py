"""Guidance by a classifier: exact on known densities, and with the small classifier of noisy images."""

import argparse

import numpy as np
import pytest

from tinyddpm import cli, nn, ops, presets, sampler_flags
from tinyddpm.diffusion import schedule
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.evaluation.classifier import Classifier, ClassifierConfig, load_classifier, save_classifier
from tinyddpm.gradcheck import check_network
from tinyddpm.sampling.generate import generate
from tinyddpm.sampling.guidance import by_classifier, log_probability_gradient
from tinyddpm.sampling.samplers import SAMPLERS, choose_times
from tinyddpm.sampling.steps import last

S = schedule.cosine(400)
MEANS, DEVIATION, SHARES = np.array([-0.8, 0.6]), 0.3, np.array([0.7, 0.3])
RNG = np.random.default_rng(0)


class Known:
    """Two normals, each a class: the classifier p(class | x_t), and the reverse process of both or of one."""

    def forward(self, x, t):
        a = S.alpha_bar[t][:, None]
        self.slope = -(x - np.sqrt(a) * MEANS) / (a * DEVIATION**2 + 1 - a)
        return np.log(SHARES) + self.slope * (x - np.sqrt(a) * MEANS) / 2          # both have the same variance

    def backward(self, dy):
        return (dy * self.slope).sum(axis=1, keepdims=True)

    def process(self, shares):
        def p(x, t):
            a = S.alpha_bar[t][:, None]
            weights = ops.softmax(self.forward(x, t) - np.log(SHARES) + np.log(shares))[0]
            each = MEANS - np.sqrt(a) * DEVIATION**2 * self.slope
            return None, np.zeros((len(x), 1)), (weights * each).sum(axis=1, keepdims=True)
        return p


@pytest.mark.parametrize("label", [0, 1])
def test_bayes(label):
    """The best classifier, once, turns the process of all data into that of its class, at every t."""
    known, x, labels = Known(), 2 * RNG.standard_normal((50, 1)), np.full(50, label)
    everything, one = known.process(SHARES), known.process(np.where(np.arange(2) == label, 1, 1e-300))
    for t in (1, 30, 200, 390):
        times = np.full(50, t)
        guided = by_classifier(everything, S, known, labels, clip=False)
        np.testing.assert_allclose(guided(x, times)[2], one(x, times)[2], rtol=1e-6, atol=1e-8)
        still = by_classifier(everything, S, known, labels, 0.0, clip=False)
        np.testing.assert_allclose(still(x, times)[2], everything(x, times)[2])
        away = by_classifier(everything, S, known, labels, -1.0, clip=False)(x, times)[2]
        np.testing.assert_allclose(away + guided(x, times)[2], 2 * everything(x, times)[2], rtol=1e-9)
        assert abs(by_classifier(everything, S, known, labels, 9.0)(x, times)[2]).max() <= 1


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun"])
def test_samples_are_of_the_class(sampler):
    known, x = Known(), np.random.default_rng(1).standard_normal((2000, 1))
    p = by_classifier(known.process(SHARES), S, known, np.ones(2000, int), clip=False)
    found = last(SAMPLERS[sampler].run(p, S, x, None, choose_times(S, 60, SAMPLERS[sampler].spacing)))
    assert (found.mean(), found.std()) == pytest.approx((MEANS[1], DEVIATION), abs=0.03)


def test_the_gradient_is_that_of_the_log_probability():
    model = Classifier(ClassifierConfig(1, (8, 16), 3, 8), dtype=np.float64)
    x, t = RNG.standard_normal((3, 8, 8, 1)), np.array([1, 20, 300])
    assert check_network(model.train(), x, t) < 1e-6
    labels, direction = np.array([2, 0, 1]), RNG.standard_normal(x.shape)
    log_p = lambda x: np.log(ops.softmax(model.forward(x, t))[0][np.arange(3), labels]).sum()
    slope = (log_p(x + 1e-5 * direction) - log_p(x - 1e-5 * direction)) / 2e-5
    gradient = log_probability_gradient(model.eval(gradients=True), x, t, labels)
    assert (gradient * direction).sum() == pytest.approx(slope, rel=1e-6)
    assert not np.allclose(model.forward(x, t), model.forward(x, t + 50))


PRESET = presets.get("mnist").override(base_channels=8, groups=4, image_size=8, T=12, num_classes=3)


def classifier(path, classes=3, channels=1, time_width=8, **diffusion):
    model = Classifier(ClassifierConfig(channels, (8,), classes, time_width))
    model.diffusion = DiffusionConfig(**{"T": 12, "schedule": "cosine"} | diffusion) if time_width else None
    save_classifier(model, path)
    return model


def test_generate_guides_models_with_and_without_classes(tmp_path):
    guide = classifier(tmp_path / "c").eval(gradients=True)
    labels, seen = np.array([0, 1]), set()
    for classes in (3, None):
        preset = PRESET.override(num_classes=classes, guidance=1.0)
        model = nn.build(preset.model, seed=1).eval()
        model.flat_values[...] = 0.2 * np.random.default_rng(2).standard_normal(model.flat_values.size)
        for options in ({"labels": labels if classes else None}, {"classifier": guide, "labels": labels},
                        {"classifier": guide, "labels": labels, "scale": 40.0},
                        {"classifier": guide, "labels": labels[::-1], "scale": 40.0}):
            images = generate(model, preset.diffusion, 2, sampler="ddim", steps=4, **options)
            assert abs(images).max() <= 1
            seen.add(images.tobytes())
    assert len(seen) == 8


def flags(*given):
    parser = cli.Parser()
    sampler_flags.add(parser)
    return parser.parse_args(list(map(str, given)))


def test_what_the_flags_choose(tmp_path):
    classifier(tmp_path / "c")
    args = flags("--classifier", tmp_path / "c", "--classifier-scale", 2.5)
    assert sampler_flags.drawn_classes(args, PRESET) == [0, 1, 2]
    assert sampler_flags.drawn_classes(args, PRESET.override(num_classes=None, guidance=1.0)) == [0, 1, 2]
    found, title = sampler_flags.sampler(args, PRESET, np.zeros(4, int))
    assert found["scale"] == 2.5 and found["classifier"].stores and not found["classifier"].training
    assert found["classifier"].diffusion == load_classifier(tmp_path / "c").diffusion
    assert title.endswith("and a classifier's guidance 2.5")


@pytest.mark.parametrize("made, given, expected", [
    ({"classes": 4}, [], "it knows 4 classes; the model has 3"), ({"time_width": 0}, [], "trained on clean images"),
    ({"channels": 3}, [], "made for 3 channels"), ({"T": 13}, [], "other noise"),
    ({"schedule": "linear"}, [], "other noise"), ({}, ["--label", "none"], "have no label")])
def test_a_classifier_that_does_not_fit(tmp_path, made, given, expected):
    classifier(tmp_path / "c", **made)
    args = flags("--classifier", tmp_path / "c", *given)
    with pytest.raises(ValueError, match=expected):
        chosen = sampler_flags.drawn_classes(args, PRESET)
        sampler_flags.sampler(args, PRESET, chosen and np.array(chosen))


def test_flags_that_would_change_nothing():
    for given, expected in ((["--classifier-scale", 2], "needs a --classifier"),
                            (["--interval", "3,9", "--guidance", 1], "there is no guidance")):
        with pytest.raises(ValueError, match=expected):
            sampler_flags.sampler(flags(*given), PRESET, np.zeros(2, int))
    found, title = sampler_flags.sampler(flags("--interval", "3,9", "--sampler", "heun"), PRESET, np.zeros(2, int))
    assert found["interval"] == (3, 9) and title.startswith("Heun with 10 steps, 19 evaluations")
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        flags("--interval", "3")
