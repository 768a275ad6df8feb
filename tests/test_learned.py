"""The learned schedule: its gradient, its best shares where they are known, and that the bound stays."""

import numpy as np
import pytest

from tinyddpm import evaluation, presets
from tinyddpm.diffusion import learned, likelihood, schedule
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.nn import MLP

K, RNG = 6, np.random.default_rng(0)
EVENLY = (np.arange(400_000) + 0.5) / 400_000


def error(log_snr):
    """Of some network: largest near log SNR -1.6."""
    return np.exp(-log_snr / 4) / (1 + np.exp(-log_snr / 2)) + 0.01


def softmax(theta):
    return np.exp(theta) / np.exp(theta).sum()


def test_the_gradient_of_the_variance():
    theta = RNG.standard_normal(K)

    def log_of_mean_square(theta):
        return np.log((learned.estimates(softmax(theta), error, EVENLY)[0]**2).mean())

    found = learned.variance_gradient(theta, *learned.estimates(softmax(theta), error, EVENLY))
    h = 0.02
    for k, one in enumerate(np.eye(K)):
        difference = (log_of_mean_square(theta + h * one) - log_of_mean_square(theta - h * one)) / (2 * h)
        assert found[k] == pytest.approx(difference, abs=1e-3) and abs(difference) > 1e-2


def test_learning_finds_the_least_variance_and_leaves_the_mean():
    """By Cauchy and Schwarz the best shares are as the roots of the mean squares of the error in the pieces."""
    _, log_snr = schedule.pieces(np.ones(K))
    best = np.array([np.sqrt((error(np.linspace(a, b, 999))**2).mean()) for a, b in zip(log_snr, log_snr[1:])])
    rng, steps = np.random.default_rng(1), []
    shares = learned.learn_shares(lambda l: error(l) * rng.gamma(4, 1 / 4, len(l)), rng, K,
                                  watch=lambda step, of: steps.append((step, of)))
    np.testing.assert_allclose(shares, best / best.sum(), atol=0.015)
    assert steps == [(step, 200) for step in range(1, 201)]
    even, found = (learned.estimates(each, error, EVENLY)[0] for each in (np.ones(K), shares))
    line = np.linspace(log_snr[-1], log_snr[0], 20_001)
    assert even.mean() == pytest.approx(error(line).mean() * (line[-1] - line[0]) / 2, rel=1e-3)
    assert found.mean() == pytest.approx(even.mean(), rel=1e-3) and found.std() < even.std() / 2


def test_shares_are_those_of_the_steps():
    """Along the schedule, a quarter of the steps lead down the first half of the log SNR, three the second."""
    s = DiffusionConfig(T=401, schedule="learned", shares=(1, 3)).make_schedule()
    assert np.log(s.snr[[1, 101, 401]]) == pytest.approx([np.log(1e4), np.log(1e4 * 4e-5) / 2, np.log(4e-5)])
    np.testing.assert_allclose(schedule.logarithmic(50, (7, 7)).beta, schedule.logarithmic(50).beta, rtol=1e-12)
    for shares in ((), (3, 0)):
        with pytest.raises(ValueError, match="shares is"):
            DiffusionConfig(schedule="learned", shares=shares)


def test_the_schedule_of_a_network():
    """The mean is that of the bound in many steps, along both schedules; the learned one has less spread."""
    preset = presets.get("mnist").override(schedule="linear", prediction="eps")
    model = MLP((4, 4, 1), hidden=8).eval()
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1)).astype(np.uint8)
    shares, own, new = evaluation.learned_shares(model, preset, images, count=8192)
    assert len(shares) == 16 and min(shares) >= 1 and 990 < sum(shares) < 1010
    p = reverse_process(model, preset.override(variance="small").diffusion, clip=False)
    rate = likelihood.evaluate(p, p.s, images, 200).rate.mean()
    assert (own[0], new[0]) == pytest.approx((rate, rate), rel=0.1) and new[1] < 0.8 * own[1]
