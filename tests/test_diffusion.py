"""Schedules, the formulas of the two processes, and samplers on data whose optimal denoiser is known."""

import numpy as np
import pytest

from tinyddpm import presets
from tinyddpm.diffusion import process, schedule
from tinyddpm.sampling import samplers, steps

S, EVERY = schedule.linear(), range(1000, 0, -1)


# ---- schedules ----

def test_the_papers_schedule():
    assert S.T == 1000 and len(S.beta) == 1001 and S.beta[0] == 0 and S.alpha_bar[0] == 1
    for value, fixture in [(S.beta[1], 1e-4), (S.beta[1000], 0.02), (S.alpha_bar[1], 0.9999),
                           (S.alpha_bar[500], 0.0785872428818), (S.alpha_bar[1000], 4.03582976538e-5),
                           (S.beta_tilde[2], 5.45318766130e-5), (np.sqrt(1 / S.alpha_bar[1000] - 1), 157.407280810)]:
        assert value == pytest.approx(fixture, rel=1e-10)


@pytest.mark.parametrize("t, from_x0, from_xt", [(2, 0.5452914995, 0.4547084990), (1000, 1.28351487e-4, 0.98994867827)])
def test_posterior_coefficients(t, from_x0, from_xt):
    a, b = process.posterior_coefficients(S, t)
    assert a == pytest.approx(from_x0, rel=2e-9) and b == pytest.approx(from_xt, rel=1e-10)


def test_the_first_step_needs_no_special_case():
    """q(x_0 | x_1, x_0) is x_0 with zero variance: Eq. 7 at t = 1, as printed."""
    a, b = process.posterior_coefficients(S, 1)
    assert (a, b, S.beta_tilde[1]) == (pytest.approx(1, abs=1e-12), 0, 0)


def test_the_prior_is_reached():
    """KL(q(x_T | x_0) || N(0, I)) is about 1e-5 bits per dimension, for data with mean square 0.25."""
    alpha_bar = S.alpha_bar[-1]
    kl = 0.5 * (alpha_bar * 0.25 + (1 - alpha_bar) - 1 - np.log(1 - alpha_bar)) / np.log(2)
    assert kl == pytest.approx(7.28e-6, rel=1e-3)


MAKERS = (schedule.linear, schedule.quadratic, schedule.constant, schedule.cosine, schedule.sigmoid, schedule.straight,
          schedule.logarithmic)


@pytest.mark.parametrize("T", [1, 2, 10, 1000, 4000])
@pytest.mark.parametrize("make", MAKERS)
def test_every_schedule_of_any_length(make, T):
    s = make(T)
    assert s.T == T and s.beta.dtype == np.float64
    assert np.all(np.diff(s.alpha_bar) < 0) and np.all((0 < s.beta[1:]) & (s.beta[1:] < 1))
    np.testing.assert_allclose(s.alpha_bar[1:], np.cumprod(1 - s.beta[1:]), rtol=1e-14)
    assert np.all(np.isfinite(s.beta_tilde)) and np.all(s.beta_tilde <= s.beta)
    assert s.snr[0] == np.inf and np.all(np.diff(s.snr) < 0)


def test_every_schedule_has_a_thousand_steps_by_default():
    assert {make().T for make in MAKERS} == {1000}
    assert set(schedule.constant().beta[1:]) == {0.01}


def test_shapes_of_schedules():
    np.testing.assert_allclose(np.diff(S.beta[1:]), np.full(999, (0.02 - 1e-4) / 999), rtol=1e-9)
    np.testing.assert_allclose(np.diff(np.sqrt(schedule.quadratic().beta[1:])), np.full(999, (0.02**0.5 - 0.01) / 999),
                               rtol=1e-9)
    assert set(schedule.constant(5, 0.3).beta[1:]) == {0.3}
    steps = np.diff(np.log(schedule.logarithmic(300).snr[1:]))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    linear, logarithmic = schedule.linear().snr, schedule.logarithmic().snr
    np.testing.assert_allclose(logarithmic[[1, 1000]], linear[[1, 1000]], rtol=0.02)
    s, logistic = schedule.sigmoid().alpha_bar, lambda z: 1 / (1 + np.exp(z))
    for t in (1, 250, 700):                 # between the values at -3 and at 3, which become 1 and 0
        expected = (logistic(-3 + 6 * t / 1000) - logistic(3)) / (logistic(-3) - logistic(3))
        assert s[t] == pytest.approx(expected, rel=1e-9)
    half = schedule.cosine(1000).alpha_bar[500]
    assert half == pytest.approx((np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2)


def test_the_signal_to_noise_ratio_is_that_of_x_t():
    for t in (1, 30, 1000):
        signal, noise = (process.q_sample(S, np.full(1, x0), t, np.full(1, eps)) for x0,
                         eps in ((1.0, 0.0), (0.0, 1.0)))
        assert S.snr[t] == pytest.approx((signal / noise)[0]**2, rel=1e-12)


def test_variances():
    large, small = S.variance("large"), S.variance("small")
    assert large[1] == small[1] == S.beta_tilde[2]
    np.testing.assert_array_equal(large[2:], S.beta[2:])
    np.testing.assert_array_equal(small[2:], S.beta_tilde[2:])


@pytest.mark.parametrize("bad", [lambda: schedule.linear(10, -1e-3, 0.1), lambda: schedule.linear(10, 1e-3, 1.0),
                                 lambda: schedule.Schedule(np.array([0.1, 0.2])),
                                 lambda: schedule.Schedule(np.zeros(1)),
                                 lambda: S.variance("medium")])
def test_bad_schedules_are_refused(bad):
    with pytest.raises(ValueError):
        bad()


# ---- the two processes ----

RNG = np.random.default_rng(0)
X0, EPS = RNG.uniform(-1, 1, (6, 3, 2)), RNG.standard_normal((6, 3, 2))
TIMES = np.array([1, 2, 10, 500, 999, 1000])
XT = process.q_sample(S, X0, TIMES, EPS)


def test_q_sample_is_the_composition_of_single_steps():
    """Eq. 4 is Eq. 2 applied t times: the same mean, and the variance by its own recursion."""
    x, variance = X0[:1], 0.0
    for t in range(1, 301):
        x, variance = process.q_step(S, x, t, np.zeros_like(x)), variance * (1 - S.beta[t]) + S.beta[t]
    np.testing.assert_allclose(x, process.q_sample(S, X0[:1], 300, np.zeros_like(x)), rtol=1e-12)
    assert variance == pytest.approx(1 - S.alpha_bar[300], rel=1e-12)
    one = process.q_sample(S, np.zeros((1, 1)), 300, np.ones((1, 1)))
    assert one[0, 0] ** 2 == pytest.approx(variance, rel=1e-12)


def test_the_posterior_is_bayes_rule():
    """Eq. 6-7 against the product of the two Gaussians q(x_t | x_{t-1}) q(x_{t-1} | x_0)."""
    for t in (2, 10, 500, 1000):
        precision = S.alpha[t] / S.beta[t] + 1 / (1 - S.alpha_bar[t - 1])
        previous = S.alpha_bar[t - 1]
        mean = (np.sqrt(S.alpha[t]) / S.beta[t] * XT + np.sqrt(previous) / (1 - previous) * X0) / precision
        mu, variance = process.q_posterior(S, X0, XT, t)
        np.testing.assert_allclose(mu, mean, rtol=1e-10, atol=1e-12)
        assert variance == pytest.approx(1 / precision, rel=1e-9)


def test_conversions_agree_and_undo_each_other():
    s, t = S, TIMES
    np.testing.assert_allclose(process.x0_from_eps(s, XT, t, EPS), X0, atol=1e-11)
    np.testing.assert_allclose(process.eps_from_x0(s, X0, XT, t), EPS, atol=1e-11)
    mu = process.mu_from_eps(s, XT, t, EPS)                                       # Eq. 11 = Eq. 7 with Eq. 15
    np.testing.assert_allclose(mu, process.mu_from_x0(s, X0, XT, t), atol=1e-11)
    np.testing.assert_allclose(process.x0_from_mu(s, XT, t, mu), X0, atol=1e-9)
    a = np.sqrt(s.alpha_bar[t])[:, None, None]
    v = a * EPS - np.sqrt(1 - a**2) * X0
    np.testing.assert_allclose(process.v_from_x0(s, X0, t, EPS), v, atol=1e-12)
    np.testing.assert_allclose(process.x0_from_v(s, XT, t, v), X0, atol=1e-12)


def test_reverse_step_with_and_without_clipping():
    far = process.x0_from_eps(S, XT, TIMES, EPS * 3)         # far outside the data's range
    mean, variance, x0 = process.p_mean_variance(S, far, XT, TIMES, clip=False, variance="small")
    np.testing.assert_allclose(mean, process.mu_from_eps(S, XT, TIMES, EPS * 3), atol=1e-10)
    np.testing.assert_array_equal(x0, far)
    np.testing.assert_array_equal(variance.ravel(), S.variance("small")[TIMES])
    clipped, _, x0_clipped = process.p_mean_variance(S, far, XT, TIMES, clip=True)
    np.testing.assert_allclose(x0_clipped, np.clip(far, -1, 1))
    np.testing.assert_allclose(clipped, process.mu_from_x0(S, np.clip(far, -1, 1), XT, TIMES))


def test_a_learned_variance_lies_between_the_two_in_log_space():
    for v, expected in [(-1, S.variance("small")), (1, S.beta), (0, np.sqrt(S.variance("small") * S.beta))]:
        _, variance, _ = process.p_mean_variance(S, X0, XT, TIMES, variance="learned", v=np.full_like(X0, v))
        np.testing.assert_allclose(variance[:, 0, 0], expected[TIMES], rtol=1e-12)


def test_float32_stays_float32():
    x0, eps = X0.astype(np.float32), EPS.astype(np.float32)
    xt = process.q_sample(S, x0, TIMES, eps)
    assert xt.dtype == np.float32
    assert {a.dtype for a in process.p_mean_variance(S, x0, xt, TIMES)} == {np.dtype(np.float32)}


# ---- samplers, with exact denoisers ----

def reverse(predict_eps, variance, clip):
    return lambda x, t: process.p_mean_variance(S, process.x0_from_eps(S, x, t, predict_eps(x, t)), x, t, clip,
                                                variance)


def gaussian(mean, std, variance="large", clip=False):
    """p with the optimal eps for data from N(mean, std^2): E[eps | x_t]."""
    def predict_eps(x, t):
        alpha_bar = S.alpha_bar[t].reshape(-1, *[1] * (x.ndim - 1))
        return np.sqrt(1 - alpha_bar) * (x - np.sqrt(alpha_bar) * mean) / (alpha_bar * std**2 + 1 - alpha_bar)
    return reverse(predict_eps, variance, clip)


def mixture(means, std, weights, variance="large"):
    """p with the optimal eps for a mixture of Gaussians in d dimensions: means (M, d), one std, weights (M,)."""
    def predict_eps(x, t):
        alpha_bar = S.alpha_bar[t[0]]
        spread = alpha_bar * std**2 + 1 - alpha_bar
        offset = x[:, None] - np.sqrt(alpha_bar) * means                          # (N, M, d)
        log = np.log(weights) - (offset**2).sum(-1) / (2 * spread)
        posterior = np.exp(log - log.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        return np.sqrt(1 - alpha_bar) * (posterior[..., None] * offset).sum(1) / spread
    return reverse(predict_eps, variance, clip=False)


def exact_std(std, step_coefficients):
    """The final standard deviation of a linear sampler: x -> a x + sigma z in each step, starting from 1."""
    variance = 1.0
    for a, sigma in step_coefficients:
        variance = a**2 * variance + sigma**2
    return variance**0.5


def linear_steps(std, times, eta, kind=None):
    """(a, sigma) of every step for centred Gaussian data, from the formulas for Algorithm 2 or DDIM."""
    for t, previous in zip(times, [*times[1:], 0]):
        ab, abp = S.alpha_bar[t], S.alpha_bar[previous]
        eps = np.sqrt(1 - ab) / (ab * std**2 + 1 - ab)                            # eps = this times x
        if kind:
            yield (1 - S.beta[t] / np.sqrt(1 - ab) * eps) / np.sqrt(S.alpha[t]), (t > 1) * np.sqrt(S.variance(kind)[t])
        else:
            sigma = eta * np.sqrt((1 - abp) / (1 - ab) * (1 - ab / abp))
            yield np.sqrt(abp / ab) * (1 - np.sqrt(1 - ab) * eps) + np.sqrt(1 - abp - sigma**2) * eps, sigma


N = 20_000
SAMPLERS = {        # name -> the variance of p, the sampler, the steps of its linear recursion
    "algorithm 2, large": ("large", lambda p, x, r: steps.ddpm(p, S, x, r, EVERY),
                           lambda std: linear_steps(std, EVERY, 0, "large")),
    "algorithm 2, small": ("small", lambda p, x, r: steps.ddpm(p, S, x, r, EVERY),
                           lambda std: linear_steps(std, EVERY, 0, "small")),
    "ddim 50": ("large", lambda p, x, r: steps.ddim(p, S, x, r, steps.spread(1000, 50)),
                lambda std: linear_steps(std, steps.spread(1000, 50), 0)),
    "ddim 100, eta 0.5": ("large", lambda p, x, r: steps.ddim(p, S, x, r, steps.spread(1000, 100), 0.5),
                          lambda std: linear_steps(std, steps.spread(1000, 100), 0.5)),
    "ddim 1000, eta 1": ("large", lambda p, x, r: steps.ddim(p, S, x, r, steps.spread(1000, 1000), 1.0),
                         lambda std: linear_steps(std, EVERY, 1)),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("mean, std", [(0.3, 1.0), (-0.5, 0.5)])
def test_a_gaussian_is_recovered(name, mean, std):
    """Mean and deviation agree, within sampling error, with the sampler's linear recursion, which is near the data."""
    variance, run, recursion = SAMPLERS[name]
    rng = np.random.default_rng(1)
    x = steps.last(run(gaussian(mean, std, variance), rng.standard_normal((N, 1)), rng))
    expected = exact_std(std, recursion(std))
    assert x.mean() == pytest.approx(mean, abs=4 * std / N**0.5 + 0.01)           # x_T lacks 0.6% of the mean
    assert x.std() == pytest.approx(expected, rel=4 / (2 * N) ** 0.5)
    assert expected == pytest.approx(std, rel=0.06)                               # the error of few steps


def test_noise_at_the_last_step_would_be_seen():
    """Noise at t = 1 would hardly change N(0, 1), which Algorithm 2 reproduces; so this step is checked alone."""
    rng = np.random.default_rng(1)
    *_, before, final = steps.ddpm(gaussian(0, 1.0), S, rng.standard_normal((1000, 1)), rng, EVERY)
    mean, _, _ = gaussian(0, 1.0)(before.x, np.full(1000, 1))
    np.testing.assert_array_equal(final.x, mean)
    assert (before.t, final.t) == (2, 1)


@pytest.mark.parametrize("name", ["algorithm 2, small", "ddim 100, eta 0.5", "ddim 1000, eta 1"])
@pytest.mark.parametrize("means, std, weights", [
    (np.array([[-0.8], [0.1], [0.9]]), 0.1, np.array([0.5, 0.2, 0.3])),
    (np.array([[-0.7, -0.7], [0.0, 0.8], [0.7, -0.3]]), 0.15, np.array([0.25, 0.6, 0.15]))])
def test_a_mixture_is_recovered(name, means, std, weights):
    rng, n = np.random.default_rng(2), 4000
    x = steps.last(SAMPLERS[name][1](mixture(means, std, weights, SAMPLERS[name][0]),
                                     rng.standard_normal((n, means.shape[1])), rng))
    nearest = ((x[:, None] - means) ** 2).sum(-1).argmin(1)
    for m in range(len(weights)):
        mode = x[nearest == m]
        assert len(mode) / n == pytest.approx(weights[m], abs=4 * (weights[m] * (1 - weights[m]) / n) ** 0.5 + 0.01)
        np.testing.assert_allclose(mode.mean(0), means[m], atol=4 * std / len(mode) ** 0.5 + 0.01)
        np.testing.assert_allclose(mode.std(0), std, rtol=0.1)


def test_ddim_with_eta_1_is_algorithm_2_in_distribution():
    """The distribution functions of two samples agree, for skewed data: a mixture with unequal modes."""
    means, weights, n = np.array([[-0.8], [0.9]]), np.array([0.7, 0.3]), N // 3
    quantiles = []
    for name in ("algorithm 2, small", "ddim 1000, eta 1"):
        rng = np.random.default_rng(len(name))
        variance, run, _ = SAMPLERS[name]
        x = steps.last(run(mixture(means, 0.2, weights, variance), rng.standard_normal((n, 1)), rng))
        quantiles.append(np.mean(x < np.linspace(-1.2, 1.3, 26), axis=0))
    assert np.abs(quantiles[0] - quantiles[1]).max() < 1.63 * (2 / n) ** 0.5       # Kolmogorov-Smirnov at 1%


def test_ddim_times_hold_both_ends():
    for T, count in [(1000, 50), (1000, 1000), (10, 3), (7, 2)]:
        times = steps.spread(T, count)
        assert (times[0], times[-1], len(set(times))) == (T, 1, count)
    assert steps.spread(1000, 1) == [1000]
    for count in (0, 1001):
        with pytest.raises(ValueError, match="expected 1 to T"):
            steps.spread(1000, count)


def test_eta_0_is_a_function_of_the_noise_it_starts_from():
    start = np.random.default_rng(0).standard_normal((5, 1))
    a, b = (steps.last(steps.ddim(gaussian(0.2, 0.5), S, start, np.random.default_rng(s), steps.spread(1000, 20)))
            for s in (1, 2))
    np.testing.assert_array_equal(a, b)
    a, b = (steps.last(steps.ddpm(gaussian(0.2, 0.5), S, start, np.random.default_rng(s), EVERY)) for s in (1, 2))
    assert not np.allclose(a, b)


def test_every_step_shows_its_estimate_of_the_data():
    rng = np.random.default_rng(0)
    found = list(steps.ddim(gaussian(0.5, 0.01, clip=True), S, rng.standard_normal((4, 1)), rng,
                            steps.spread(1000, 10)))
    assert [s.t for s in found] == steps.spread(1000, 10)
    np.testing.assert_allclose(found[-1].x, found[-1].x0, atol=1e-6)
    assert all(np.all(np.abs(s.x0) <= 1) for s in found)


def test_algorithm_2_leaves_out_no_time():
    with pytest.raises(ValueError, match="every t"):
        list(steps.ddpm(gaussian(0, 1.0), S, np.ones((2, 1)), np.random.default_rng(0), [1000, 500, 1]))


def test_a_new_sampler_is_a_function_and_a_line(monkeypatch):
    """generate, the flags and their help find it in the table."""
    from tinyddpm import cli, sampler_flags
    from tinyddpm.diffusion.config import DiffusionConfig
    from tinyddpm.sampling.generate import generate

    def halves(p, s, x, rng, times, factor=0.5):
        for t in times:
            x = factor * x
            yield steps.Step(t, x, x)

    class Model:
        training, config = False, presets.get("mnist").model

    monkeypatch.setitem(samplers.SAMPLERS, "halves", samplers.Sampler("Halves", halves, 3))
    monkeypatch.setitem(samplers.OPTIONS, "factor", 0.5)
    start = generate(Model, DiffusionConfig(), 2, sampler="halves", steps=1, factor=1.0)
    np.testing.assert_allclose(generate(Model, DiffusionConfig(), 2, sampler="halves"), start / 8)
    parser = cli.Parser()
    sampler_flags.add(parser)
    preset = presets.get("cifar10")
    found, title = sampler_flags.sampler(parser.parse_args(["--sampler", "halves", "--factor", "0.25"]), preset, None)
    assert (found["sampler"], found["steps"], found["factor"], title) == ("halves", 3, 0.25,
                                                                          "Halves with 3 steps and factor 0.25")
    assert "of Halves (default 0.5)" in parser.format_help()
    with pytest.raises(ValueError, match="--factor does not belong to --sampler ddim, DDIM"):
        sampler_flags.sampler(parser.parse_args(["--sampler", "ddim", "--factor", "1"]), preset, None)
    with pytest.raises(ValueError, match="sampler is 'euler'; expected ddpm, ddim, heun, .*, rk45, halves"):
        generate(Model, DiffusionConfig(), 2, sampler="euler")
