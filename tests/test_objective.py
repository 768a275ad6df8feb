"""Every prediction, loss and variance: values computed independently, gradients by differences, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from tinyddpm.diffusion import likelihood, objective, process, schedule
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.diffusion.prediction import PREDICTIONS, reverse_process, split
from tinyddpm.gradcheck import check
from tinyddpm.nn import MLP
from tinyddpm.presets import Preset

S = schedule.linear()
RNG = np.random.default_rng(0)
TIMES = np.array([1, 2, 10, 500, 999, 1000])
X0 = RNG.integers(0, 256, (6, 3, 2)) / 127.5 - 1
X0[0, 0] = -1, 1                                            # both open bins of the decoder, at t = 1
EPS = RNG.standard_normal(X0.shape)
XT = process.q_sample(S, X0, TIMES, EPS)
A = np.sqrt(S.alpha_bar[TIMES])[:, None, None]
TARGETS = {"eps": EPS, "x0": X0, "mu": process.q_posterior(S, X0, XT, TIMES)[0], "v": A * EPS - np.sqrt(1 - A**2) * X0,
           "u": EPS - X0}


def scale(prediction):
    """How far a prediction must move to move the mean of the reverse step by sigma_t, (6, 1, 1).

    In this unit differences are accurate: at t = 1 sigma is 0.0074, and a plain step of 1e-5 would be too large.
    """
    slope = process.posterior_coefficients(S, TIMES)[0] * PREDICTIONS[prediction].x0_slope(S, TIMES)
    return (np.sqrt(S.variance("large")[TIMES]) / np.abs(slope))[:, None, None]


@pytest.mark.parametrize("prediction", TARGETS)
def test_the_targets_and_what_follows_from_them(prediction):
    target, to_x0, x0_slope, x0_direct = PREDICTIONS[prediction]
    np.testing.assert_allclose(target(S, X0, XT, TIMES, EPS), TARGETS[prediction], atol=1e-9)
    np.testing.assert_allclose(to_x0(S, XT, TIMES, TARGETS[prediction]), X0, atol=1e-9)
    slope = to_x0(S, XT, TIMES, np.ones_like(X0)) - to_x0(S, XT, TIMES, np.zeros_like(X0))
    np.testing.assert_allclose(x0_slope(S, TIMES), slope[:, 0, 0], rtol=1e-9)
    moved = (to_x0(S, XT + 1, TIMES, EPS) - to_x0(S, XT, TIMES, EPS))[:, 0, 0]
    np.testing.assert_allclose(x0_direct(S, TIMES), moved, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("prediction", TARGETS)
@pytest.mark.parametrize("s", [S, schedule.cosine(), schedule.linear(4000)])
def test_targets_keep_their_digits_in_float32(prediction, s):
    """Also at T, where alpha_bar is 1e-9 or less."""
    t = np.array([1, s.T // 2, s.T - 1, s.T])
    exact = PREDICTIONS[prediction].target(s, X0[:4], process.q_sample(s, X0[:4], t, EPS[:4]), t, EPS[:4])
    x0, eps = X0[:4].astype(np.float32), EPS[:4].astype(np.float32)
    rounded = PREDICTIONS[prediction].target(s, x0, process.q_sample(s, x0, t, eps), t, eps)
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, exact, atol=2e-6)


@pytest.mark.parametrize("loss, variance", [("simple", "large"), ("capped", "large"), ("L", "large"), ("L", "small"),
                                            ("L", "learned"), ("hybrid", "learned")])
@pytest.mark.parametrize("prediction", TARGETS)
def test_gradients_of_every_loss(prediction, loss, variance):
    """By differences over every element of the output; for the hybrid over v alone: the mean's gradient is stopped."""
    z, v = RNG.standard_normal(X0.shape), RNG.uniform(-1, 1, X0.shape)
    unit = {"simple": 1.0, "capped": scale(prediction), "hybrid": 0.01}.get(loss, scale(prediction))

    def of_output(z, v):
        y = TARGETS[prediction] + unit * z
        y = np.concatenate([y, v], -1) if variance == "learned" else y
        value, dy = objective.LOSSES[loss](S, X0, XT, TIMES, EPS, y, prediction, variance)
        return value, (dy[..., :2] * unit, dy[..., 2:] if variance == "learned" else np.zeros_like(v))

    scaled = lambda d, gradients: tuple(d * g for g in gradients)
    if loss == "hybrid":
        check_hybrid(prediction, TARGETS[prediction] + unit * z, v)
        of_v = lambda v: (of_output(z, v)[0], of_output(z, v)[1][1:])
        assert check(of_v, scaled, v) < 1e-7
    else:
        assert check(of_output, scaled, z, v) < 1e-7
        with pytest.raises(AssertionError):
            check(of_output, lambda d, gradients: scaled(d * (1 + 1e-6), gradients), z, v)


@pytest.mark.parametrize("prediction", TARGETS)
def test_the_capped_loss_weighs_the_error_of_x0(prediction):
    """By 1 + SNR, as the error of v does, or by 5 where that is less; whatever the network predicts."""
    to_x0 = PREDICTIONS[prediction].to_x0
    y = TARGETS[prediction] + scale(prediction) * RNG.standard_normal(X0.shape)
    weight = np.minimum(1 / (1 - S.alpha_bar[TIMES]), 5)[:, None, None]
    expected = np.mean(weight * (to_x0(S, XT, TIMES, y) - X0)**2)
    assert objective.l_capped(S, X0, XT, TIMES, EPS, y, prediction)[0] == pytest.approx(expected, rel=1e-9)
    assert weight.min() < 1.1 and weight.max() == 5


def check_hybrid(prediction, y, v):
    """Its value is the sum of both losses; its gradient with respect to the mean is that of L_simple alone."""
    both = np.concatenate([y, v], -1)
    value, dy = objective.l_hybrid(S, X0, XT, TIMES, EPS, both, prediction)
    simple, dsimple = objective.l_simple(S, X0, XT, TIMES, EPS, y, prediction)
    terms = np.array([objective.l_bound(S, X0[i:i + 1], XT[i:i + 1], TIMES[i:i + 1], None, both[i:i + 1], prediction,
                                        "learned")[0]
                      for i in range(6)]) * S.T * objective.time_probabilities(S)[TIMES - 1]
    assert value == pytest.approx(simple + terms.mean())
    np.testing.assert_allclose(dy[..., :2], dsimple, rtol=1e-12)


def test_the_bound_is_the_weighted_noise_error():
    """Eq. 12: with a fixed variance, a term is beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) |eps - eps_theta|^2 + C."""
    t = np.array([2, 10, 500, 1000])
    x0, xt, eps = X0[:4], process.q_sample(S, X0[:4], t, EPS[:4]), EPS[:4]
    other = eps + 0.1 * RNG.standard_normal(eps.shape)
    value = lambda y: objective.l_bound(S, x0, xt, t, eps, y)[0]
    weight = S.beta[t]**2 / (2 * S.beta[t] * S.alpha[t] * (1 - S.alpha_bar[t]))
    probability = objective.time_probabilities(S)[t - 1]
    each = weight * np.mean((eps - other)**2, axis=(1, 2)) / np.log(2)                        # Eq. 12
    assert value(other) - value(eps) == pytest.approx(np.mean(each / (1000 * probability)), rel=1e-6)


@pytest.mark.parametrize("T", [50, 4000])
def test_the_hybrid_weighs_the_bound_by_the_number_of_steps(T):
    """L_simple + 0.001 L: the mean of the terms is L / T. Value and gradient, for other T than the usual one."""
    s, t, y = schedule.cosine(T), np.array([2, 7, 20, 31, 44, 50]), RNG.standard_normal((6, 3, 4))
    xt = process.q_sample(s, X0, t, EPS)
    value, dy = objective.l_hybrid(s, X0, xt, t, EPS, y)
    simple, _ = objective.l_simple(s, X0, xt, t, EPS, y, variance="learned")
    mean, sigma2, _ = process.p_mean_variance(s, process.x0_from_eps(s, xt, t, y[..., :2]), xt, t, False, "learned",
                                              y[..., 2:])
    terms, cache = likelihood.bound_terms(s, X0, xt, t, mean, np.log(sigma2))
    assert value == pytest.approx(simple + T * terms.mean() / 1000, rel=1e-9)
    dlog_variance = likelihood.bound_terms_backward(np.full(6, T / 6000), cache)[1]
    np.testing.assert_allclose(dy[..., 2:], dlog_variance * process.log_variance_slope(s, t)[:, None, None], rtol=1e-9)


def test_the_weights_are_the_divergence_of_the_means():
    """Eq. 12's factor by way of Eq. 8 and 11: two means whose noise differs by 1, and the variance between them."""
    for t in (2, 10, 500, 1000):
        means = [process.mu_from_eps(S, np.zeros((1, 1)), np.array([t]), np.full((1, 1), eps)) for eps in (0.0, 1.0)]
        divergence = (means[0] - means[1])**2 / (2 * S.variance("large")[t])
        assert objective.bound_weights(S, t) == pytest.approx(divergence.item(), rel=1e-10)


def test_the_times_of_training():
    """L_simple draws t uniformly; L draws it by Eq. 12's weights, and divides by them: its mean is that over all t."""
    rng = np.random.default_rng(0)
    uniform, weighted, tilted = (objective.draw_times(S, loss, 200_000, rng) for loss in ("simple", "L", "tilted"))
    for t, p in ((uniform, np.full(1000, 1e-3)), (weighted, objective.time_probabilities(S)),
                 (tilted, np.arange(1, 1001) / 500_500)):
        counts = np.bincount(t, minlength=1001)
        assert counts[0] == 0 and len(counts) == 1001
        np.testing.assert_allclose(counts[1:], 200_000 * p, atol=5 * np.sqrt(200_000 * p.max()))
    middle = objective.draw_times(S, "logit-normal", 200_000, rng)
    log_sigma = np.log(1 / S.alpha_bar[middle] - 1) / 2
    assert (log_sigma.mean(), log_sigma.std()) == pytest.approx((0, 1), abs=0.01)
    for s in (S, schedule.cosine(), schedule.quadratic(), schedule.constant(), schedule.cosine(50),
              schedule.linear(4000)):
        assert objective.time_probabilities(s).max() < 0.35         # no time alone takes most of a batch
    assert objective.time_probabilities(S)[:100].sum() == pytest.approx(0.4, abs=0.01)        # 10% of the times
    one = lambda t: objective.l_bound(S, X0[:1], process.q_sample(S, X0[:1], t, EPS[:1]), t, None, EPS[:1] + 0.1)[0]
    over_all_t = sum(one(np.array([t])) * objective.time_probabilities(S)[t - 1] for t in range(1, 1001))
    terms = [likelihood.bound_terms(S, X0[:1], xt, t, process.mu_from_eps(S, xt, t, EPS[:1] + 0.1),
                                    np.log(S.variance("large")[t])[:, None, None])[0]
             for t in np.arange(1, 1001)[:, None] for xt in [process.q_sample(S, X0[:1], t, EPS[:1])]]
    assert over_all_t == pytest.approx(np.mean(terms), rel=1e-9)


def test_l_simple_of_a_network():
    """Algorithm 1 as a whole: Eq. 14 computed independently, and every parameter's gradient against differences."""
    model = MLP((3, 2), hidden=4, dtype=np.float64)

    def forward(values):
        model.flat_values[...] = values
        y = model.forward(XT, TIMES)
        model.flat_grads[...] = 0
        loss = objective.loss_and_gradient(model, S, X0, TIMES, EPS)
        assert loss == pytest.approx(np.mean((EPS - y) ** 2), rel=1e-9)
        return loss, model.flat_grads.copy()

    assert check(forward, lambda dloss, gradient: dloss * gradient, model.flat_values.copy()) < 1e-7


class Oracle:
    """Knows the data: predicts the target itself, and v for the variance."""

    training = False

    def __init__(self, prediction, v=None):
        self.y = TARGETS[prediction] if v is None else np.concatenate([TARGETS[prediction], v], -1)

    def forward(self, x, t):
        return self.y


@pytest.mark.parametrize("prediction", TARGETS)
def test_a_perfect_prediction_of_any_kind_gives_the_true_posterior(prediction):
    mean, _, x0 = reverse_process(Oracle(prediction), DiffusionConfig(prediction=prediction))(XT, TIMES)
    np.testing.assert_allclose(x0, X0, atol=1e-9)
    np.testing.assert_allclose(mean, TARGETS["mu"], atol=1e-9)
    learned = DiffusionConfig(prediction=prediction, variance="learned", loss="hybrid")
    _, variance, _ = reverse_process(Oracle(prediction, np.full_like(X0, -1)), learned)(XT, TIMES)
    np.testing.assert_allclose(variance[:, 0, 0], S.variance("small")[TIMES])


def test_the_reverse_process_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="model.eval"):
        reverse_process(MLP((2,)).train(), DiffusionConfig())


class OfClasses:
    """A different prediction for each class, and v like it; 5 stands for no label. It counts its evaluations."""

    training, config, calls = False, SimpleNamespace(num_classes=5), 0

    def __init__(self, prediction, learned=False):
        self.y, self.learned = TARGETS[prediction], learned

    def forward(self, x, t, labels=None):
        self.calls += 1
        labels = np.full(len(x), 5) if labels is None else labels
        y = 0.1 * (1 + labels[:, None, None]) * np.resize(self.y, x.shape) + 0.01 * x
        return np.concatenate([y, np.tanh(y)], -1) if self.learned else y


@pytest.mark.parametrize("prediction", TARGETS)
@pytest.mark.parametrize("learned", [False, True])
def test_guidance_leads_away_from_the_other_prediction(prediction, learned):
    """x_0 is b + w (a - b), limited only then, in one evaluation; b has no label, or the one to avoid."""
    config = DiffusionConfig(prediction=prediction, **{"variance": "learned", "loss": "hybrid"} if learned else {})
    model, labels = OfClasses(prediction, learned), np.array([0, 1, 2, 3, 4, 0])
    outputs = lambda labels: split(model.forward(XT, TIMES, labels), config.variance)
    to_x0 = lambda labels: PREDICTIONS[prediction].to_x0(S, XT, TIMES, outputs(labels)[0])
    a, b, c = to_x0(labels), to_x0(None), to_x0(np.full(6, 2))
    for clip in (True, False):
        limited = lambda x: np.clip(x, -1, 1) if clip else x
        for w in (-1.0, 0.0, 0.5, 1.0, 5.0):
            for given, avoid, expected in ((labels, None, b + w * (a - b)), (labels, 2, c + w * (a - c)),
                                           (None, 2, c + w * (b - c))):
                before, p = model.calls, reverse_process(model, config, given, w, avoid, clip)
                mean, variance, x0 = p(XT, TIMES)
                assert model.calls == before + 1
                np.testing.assert_allclose(x0, limited(expected), atol=1e-8)
                np.testing.assert_allclose(mean, process.mu_from_x0(S, x0, XT, TIMES), atol=1e-9)
                if learned and w != 0:
                    np.testing.assert_allclose(np.log(variance),
                                               process.learned_log_variance(S, TIMES, outputs(given)[1]))
    assert abs(a - b).max() > 0.05 and abs(b + 5 * (a - b)).max() > 1               # so that all of this is seen
    with pytest.raises(ValueError, match="needs labels"):
        reverse_process(model, config, guidance=2.0)


@pytest.mark.parametrize("bad",
                         [dict(prediction="noise"), dict(loss="vlb"), dict(variance="medium"), dict(variance="learned"),
                          dict(loss="hybrid"), dict(T=1), dict(schedule="sine")])
def test_configurations_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError):
        DiffusionConfig(**bad)


def test_the_model_has_outputs_for_a_learned_variance():
    preset = Preset("a", "digits").override(variance="learned", loss="L")
    assert preset.model.learned_variance
    assert not preset.override(variance="large").model.learned_variance
    with pytest.raises(ValueError, match="learned_variance"):
        Preset("a", "digits", diffusion=preset.diffusion)
