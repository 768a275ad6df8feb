"""The bound in bits: the decoder, the terms, the estimate, and data whose likelihood is known."""

import math

import numpy as np
import pytest

from tinyddpm.diffusion import likelihood, normal, process, schedule
from tinyddpm.gradcheck import check

S = schedule.linear()
RNG = np.random.default_rng(0)


def log_variance(x, sigma):
    return np.full_like(x, 2 * math.log(sigma))


# ---- normal probabilities ----

@pytest.mark.parametrize("a, b, expected", [        # from 60-digit arithmetic
    (-1.0, 1.0, -0.38171514630212605), (-0.001, 0.001, -7.13354679829352), (5.0, 5.01, -18.04902101327498),
    (-40.0, -39.0, -765.0831565643775), (300.0, 301.0, -45006.62273211866), (-250.0, -249.99, -31254.026076828955),
    (-8.0, 7.0, -1.280434639944082e-12)])
def test_log_interval(a, b, expected):
    for low, high in ((a, b), (-b, -a)):
        assert float(normal.log_interval(np.array(low), np.array(high))) == pytest.approx(expected, rel=2e-13 / (b - a))


def test_intervals_without_end_and_their_complement():
    b = np.array([-30.0, -3.0, 0.0, 2.0])
    below = normal.log_interval(np.full(4, -np.inf), b)
    np.testing.assert_allclose(np.exp(below), [0.5 * math.erfc(-x / 2**0.5) for x in b], rtol=1e-12)
    np.testing.assert_allclose(np.exp(below[1:]) + np.exp(normal.log_interval(b, np.full(4, np.inf)))[1:], 1,
                               rtol=1e-14)


# ---- Eq. 13 ----

@pytest.mark.parametrize("mean, sigma", [(0.0, 0.0073846), (0.999, 0.0073846), (-1.3, 0.05), (0.3, 1.0)])
def test_the_decoder_is_a_distribution_over_256_values(mean, sigma):
    values = np.arange(256) / 127.5 - 1
    log_p, _ = likelihood.decoder(values, np.full(256, mean), log_variance(values, sigma))
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
    tanh, _ = likelihood.decoder(values, np.full(256, mean), log_variance(values, sigma), "tanh")
    assert np.exp(tanh).sum() == pytest.approx(1, abs=1e-9)
    assert 0 < np.abs(np.exp(tanh) - np.exp(log_p)).max() < 2 * 1.8e-4


def test_the_authors_approximation_is_as_far_off_as_they_say():
    z = np.linspace(-6, 6, 100_001)
    exact = np.array([0.5 * math.erfc(-x / 2**0.5) for x in z])
    assert np.abs(likelihood.tanh_cdf(z) - exact).max() == pytest.approx(1.79e-4, rel=0.01)


@pytest.mark.parametrize("offset, sigma", [(0.0, 0.0073846), (0.02, 0.0073846), (2.0, 0.0073846), (-1.0, 0.3)])
def test_the_gradient_of_the_decoder(offset, sigma):
    """Even where the probability itself is 1e-15000; the mean moves in units of sigma."""
    x0 = np.concatenate([[-1.0, 1.0], RNG.integers(0, 256, 6) / 127.5 - 1])

    def forward(z, log_variance):
        return likelihood.decoder(x0, x0 + offset + sigma * z, log_variance)

    def backward(dy, cache):
        dmean, dlog_variance = likelihood.decoder_backward(dy, cache)
        return dmean * sigma, dlog_variance

    inputs = RNG.standard_normal(8) * 0.3, log_variance(x0, sigma)
    assert check(forward, backward, *inputs) < 1e-7
    with pytest.raises(AssertionError):
        check(forward, lambda dy, cache: [g * (1 + 1e-6) for g in backward(dy, cache)], *inputs)


def test_an_unknown_cdf_is_refused():
    with pytest.raises(ValueError, match="exact or tanh"):
        likelihood.decoder(np.zeros(2), np.zeros(2), np.zeros(2), "logistic")


# ---- the terms ----

def test_the_gradient_of_the_terms():
    """With decoder and KL terms in one batch."""
    t = np.array([1, 2, 500, 1000])
    x0 = RNG.integers(0, 256, (4, 3, 2)) / 127.5 - 1
    xt = process.q_sample(S, x0, t, RNG.standard_normal(x0.shape))
    sigma = np.sqrt(S.variance("large")[t])[:, None, None]
    mu = process.mu_from_x0(S, x0, xt, t)

    def forward(z, log_variance):
        return likelihood.bound_terms(S, x0, xt, t, mu + sigma * z, log_variance)

    def backward(dy, cache):
        dmean, dlog_variance = likelihood.bound_terms_backward(dy, cache)
        return dmean * sigma, dlog_variance

    assert check(forward, backward, RNG.standard_normal(x0.shape),
                 np.log(sigma**2) + RNG.uniform(-0.5, 0.5, x0.shape)) < 1e-7


def test_a_term_is_the_divergence_of_the_two_gaussians():
    """By numerical integration over x_{t-1}, in one dimension."""
    t, x0, xt, mean, variance = np.array([300]), np.array([[0.4]]), np.array([[0.9]]), np.array([[0.85]]), 0.005
    mu, beta_tilde = process.mu_from_x0(S, x0, xt, t)[0, 0], S.beta_tilde[300]
    x = np.linspace(mu - 10 * beta_tilde**0.5, mu + 10 * beta_tilde**0.5, 200_001)
    log_q = -(x - mu)**2 / (2 * beta_tilde) - np.log(beta_tilde) / 2
    log_p = -(x - mean[0, 0])**2 / (2 * variance) - np.log(variance) / 2
    q = np.exp(log_q) / (2 * np.pi)**0.5
    kl = np.sum(q * (log_q - log_p)) * (x[1] - x[0]) / np.log(2)
    assert likelihood.bound_terms(S, x0, xt, t, mean,
                                  np.full((1, 1), np.log(variance)))[0][0] == pytest.approx(kl, rel=1e-9)


def perfect(images):
    """p of a model that knows every image from its place in the batch."""
    x0 = images.astype(np.float32) / 127.5 - 1
    return lambda xt, t: process.p_mean_variance(S, x0, xt, t)


def test_what_a_perfect_mean_still_costs():
    """Large variance: 0.486419 bits/dim for t > 1; the decoder: 1.305665 with the authors' CDF, 1.305378 exactly."""
    images = RNG.integers(1, 255, (3, 4, 4, 1), dtype=np.uint8)             # no value is in an open bin
    bound = likelihood.evaluate(perfect(images), S, images)
    np.testing.assert_allclose(bound.rate - bound.prior, 0.486419, atol=2e-6)
    np.testing.assert_allclose(bound.decoder, 1.305378, atol=2e-6)
    np.testing.assert_allclose(likelihood.evaluate(perfect(images), S, images, times=1, cdf="tanh").decoder, 1.305665,
                               atol=2e-6)
    np.testing.assert_array_equal(bound.mse, 0)
    np.testing.assert_allclose(bound.total, bound.rate + bound.decoder)
    with pytest.raises(AssertionError):                                      # the small variance costs nothing
        small = lambda xt, t: process.p_mean_variance(S, images / np.float32(127.5) - 1, xt, t, variance="small")
        np.testing.assert_allclose(likelihood.evaluate(small, S, images).kl @ bound.sizes, 0.486419, atol=1e-3)


def test_the_prior():
    x0 = np.array([[0.5, -0.5, 0.5], [0.3, 0.8, -0.1]])
    expected = [0.5 * np.mean(S.alpha_bar[-1] * x**2 - S.alpha_bar[-1] - np.log(1 - S.alpha_bar[-1])) / np.log(2)
                for x in x0]
    np.testing.assert_allclose(likelihood.prior_term(S, x0), expected, rtol=1e-9)
    assert likelihood.prior_term(S, x0)[0] == pytest.approx(7.28e-6, rel=1e-3)


# ---- data whose likelihood is known ----

STD = 0.3


def gaussian_data(n, size=2):
    """n images with values from N(0, STD^2), and their true -log2 p per pixel, (n,)."""
    x = np.random.default_rng(1).normal(0, STD, (n, size, size, 1))
    images = np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)
    values = images / 127.5 - 1
    log_p, _ = likelihood.decoder(values, np.zeros_like(values), log_variance(values, STD))
    return images, likelihood.bits_per_dim(-log_p)


def exact(s):
    """p with E[x_0 | x_t] of that data, and the variance beta_t, at t = 1 too."""
    def p(xt, t):
        alpha_bar = s.alpha_bar[t][:, None, None, None].astype(xt.dtype)
        x0 = np.sqrt(alpha_bar) * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar) * xt
        mean, _, _ = process.p_mean_variance(s, x0, xt, t, clip=False)
        return mean, s.beta[t][:, None, None, None].astype(xt.dtype), x0
    return p


def known_gap(s):
    """The cost of beta_t if the true p(x_{t-1} | x_t) has another variance: KL of Gaussians of equal mean, t > 1."""
    t = np.arange(2, s.T + 1)
    of_x0 = STD**2 * (1 - s.alpha_bar[t]) / (s.alpha_bar[t] * STD**2 + 1 - s.alpha_bar[t])          # Var[x_0 | x_t]
    ratio = (s.beta_tilde[t] + process.posterior_coefficients(s, t)[0]**2 * of_x0) / s.beta[t]
    return np.sum(ratio - 1 - np.log(ratio)) / 2 / np.log(2)


def test_the_bound_is_the_likelihood_up_to_a_known_gap_that_shrinks_with_T():
    images, true = gaussian_data(200, size=16)
    gaps = []
    for T in (10, 50, 250, 1000):
        s = schedule.linear(T, 0.1 / T, min(20 / T, 0.99))
        gap = likelihood.evaluate(exact(s), s, images).total - true
        mean, error = likelihood.mean_and_error(gap)
        assert mean == pytest.approx(known_gap(s), abs=4 * error + 0.003)     # bins are small beside sigma_1, not zero
        gaps.append(known_gap(s))
    assert np.all(np.array(gaps[1:]) < 0.35 * np.array(gaps[:-1])) and gaps[-1] < 0.006


def test_the_quick_estimate_has_no_bias():
    """10 of 1000 times for each image agree with all times, within 3 standard errors."""
    images, _ = gaussian_data(1000)
    full = likelihood.evaluate(exact(S), S, images[:200])
    quick = likelihood.evaluate(exact(S), S, images, times=10, seed=3)
    (a, da), (b, db) = likelihood.mean_and_error(full.total), likelihood.mean_and_error(quick.total)
    assert abs(a - b) < 3 * math.hypot(da, db)
    assert quick.kl.shape == (1000, 10) and quick.sizes.sum() == full.sizes.sum() == 999
    assert full.sizes.max() == 1
    wrong = quick.prior + quick.decoder + quick.kl.sum(axis=1)               # without the weights
    assert abs(a - wrong.mean()) > 3 * math.hypot(da, db)


@pytest.mark.parametrize("T, K",
                         [(1000, 1), (1000, 7), (1000, 100), (1000, 998), (1000, 999), (10, 9), (10, 4), (2, 1)])
def test_strata_cover_every_time_once(T, K):
    edges = likelihood.strata(T, K)
    assert len(edges) == K + 1 and (edges[0], edges[-1]) == (2, T + 1) and np.diff(edges).min() >= 1
    assert likelihood.strata(1000, 2).tolist() == [2, 127, 1001]            # half of them for an eighth of the times


@pytest.mark.parametrize("times", [0, 1000])
def test_impossible_numbers_of_times(times):
    with pytest.raises(ValueError, match="expected 1 to T - 1 = 999"):
        likelihood.evaluate(exact(S), S, gaussian_data(2)[0], times=times)


def test_rate_and_distortion():
    """Table 4's bookkeeping: the first row is near the prior, the last has all bits, and the distortion falls."""
    images, _ = gaussian_data(300)
    full = likelihood.evaluate(exact(S), S, images)
    reverse_time, rate, rmse = full.rate_distortion()
    assert (reverse_time[0], reverse_time[1], reverse_time[-1]) == (1000, 999, 1)
    assert rate[-1] == pytest.approx(full.prior.mean()) and rate[0] == pytest.approx(full.rate.mean())
    assert rate[1] == pytest.approx(full.rate.mean() - full.kl[:, 0].mean())
    assert np.all(np.diff(rate) <= 0)
    assert rmse[-1] == pytest.approx(127.5 * STD, rel=0.1) and rmse[0] < 127.5 * 0.011
    assert full.at(1000) == [rate[0], rmse[0]] and full.at(998.5) == pytest.approx([rate[1:3].mean(), rmse[1:3].mean()])
    times, quick_rate, quick_rmse = likelihood.evaluate(exact(S), S, images, times=37).rate_distortion()
    assert len(times) == 38
    np.testing.assert_allclose(quick_rate, np.interp(times, reverse_time[::-1], rate[::-1]), rtol=0.1, atol=0.02)
    np.testing.assert_allclose(quick_rmse, np.interp(times, reverse_time[::-1], rmse[::-1]), rtol=0.2)


def test_a_bound_is_summed_up_and_watched():
    images, watched = gaussian_data(70)[0], []
    found = likelihood.evaluate(exact(S), S, images, times=3, watch=lambda n, of: watched.append((n, of)))
    assert watched == [(n, 6) for n in range(1, 7)]                       # two batches of three times
    summary, edges = found.summary(), likelihood.strata(1000, 3)
    assert summary["images"] == 70 and summary["terms"]["first_t"] == edges[:-1].tolist()
    assert summary["terms"]["mean_and_error"] == [likelihood.mean_and_error(found.kl[:, k]) for k in range(3)]
    for name, values in (("prior", found.prior), ("rate", found.prior + found.kl @ np.diff(edges)),
                         ("distortion", found.decoder), ("total", found.total)):
        assert summary[name] == pytest.approx(likelihood.mean_and_error(values))
    assert summary["rate_distortion"]["rmse"] == pytest.approx(np.sqrt(found.mse.mean(axis=0)) * 127.5)
    np.testing.assert_array_equal(found.total, likelihood.evaluate(exact(S), S, images, times=3, seed=0).total)


def test_each_batch_has_its_labels():
    images, labels, seen = gaussian_data(70)[0], np.arange(70) % 3, []
    p = lambda labels: seen.append(labels) or exact(S)
    found = likelihood.evaluate(p, S, images, times=3, labels=labels)
    np.testing.assert_array_equal(np.concatenate(seen), labels)
    assert len(seen) == 2
    np.testing.assert_array_equal(found.total, likelihood.evaluate(exact(S), S, images, times=3).total)


def test_the_same_seed_gives_the_same_bound():
    images, _ = gaussian_data(5)
    a, b, c = (likelihood.evaluate(exact(S), S, images, times=5, seed=seed).total for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
