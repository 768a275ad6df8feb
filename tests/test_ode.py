"""Latents of the probability-flow ODE and its likelihood, on densities that are known."""

import math

import numpy as np
import pytest

from tinyddpm import gradcheck, nn, presets
from tinyddpm.diffusion import schedule
from tinyddpm.diffusion.prediction import PREDICTIONS, reverse_process
from tinyddpm.sampling import ode

S = schedule.cosine(1000)          # at T it leaves 5e-5 of the data: no difference to noise
RNG = np.random.default_rng(0)


class Mixture:
    """The reverse process of normals N(mean, covariance), with their shares, and its gradient."""

    def __init__(self, means, covariances, shares):
        self.means, self.covariances, self.shares = map(np.asarray, (means, covariances, shares))

    def at(self, a):
        """Means and covariances of x_t where alpha_bar is a."""
        return np.sqrt(a) * self.means, a * self.covariances + (1 - a) * np.eye(self.means.shape[1])

    def __call__(self, x, t):
        a = S.alpha_bar[t[0]]
        means, covariances = self.at(a)
        apart = x[:, None] - means                                                          # (N, K, D)
        solved = np.stack([np.linalg.solve(c, d.T).T for c, d in zip(covariances, apart.swapaxes(0, 1))], 1)
        log = np.log(self.shares) - ((apart * solved).sum(2) + np.linalg.slogdet(covariances)[1]) / 2
        weights = np.exp(log - log.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        each = self.means + np.sqrt(a) * np.einsum("kij,nkj->nki", self.covariances, solved)
        gains = np.sqrt(a) * self.covariances @ np.linalg.inv(covariances)
        self.jacobian = np.einsum("nk,kij->nij", weights, gains) - np.einsum(
            "nk,nki,nkj->nij", weights, each, solved - np.einsum("nk,nkj->nj", weights, solved)[:, None])
        return None, None, np.einsum("nk,nki->ni", weights, each)

    def backward(self, dx0):
        return np.einsum("nij,ni->nj", self.jacobian, dx0)

    def log_density(self, x, t):
        means, covariances = self.at(S.alpha_bar[t])
        terms = []
        for mean, covariance, share in zip(means, covariances, self.shares):
            d = x - mean
            terms.append(math.log(share) - ((d * np.linalg.solve(covariance, d.T).T).sum(1)
                                            + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2)
        return np.logaddexp.reduce(terms)


CASES = {"a normal": Mixture([[0.3]], [[[0.25]]], [1.0]),
         "three in a row": Mixture([[-1], [0.4], [1.5]], [[[0.04]], [[0.09]], [[0.04]]], [0.3, 0.5, 0.2]),
         "two in the plane": Mixture([[-1, 0.5], [1, -0.2]], [[[0.2, 0.1], [0.1, 0.1]], [[0.1, 0], [0, 0.3]]],
                                     [0.6, 0.4])}


@pytest.mark.parametrize("name", CASES)
def test_the_likelihood_of_known_densities(name):
    """Within 1e-3 bits for each point, against the density at t = 1, the beginning of the flow, and of the data."""
    p = CASES[name]
    gradcheck.check(lambda x: (p(x, np.array([300]))[2], None), lambda dy, _: (p.backward(dy),),
                    RNG.standard_normal((3, p.means.shape[1])))
    x = p.means[RNG.integers(0, len(p.means), 40)] + 0.4 * RNG.standard_normal((40, p.means.shape[1]))
    found = ode.log_likelihood(p, S, x, tolerance=1e-7)
    np.testing.assert_allclose(found / math.log(2), p.log_density(x, 1) / math.log(2), atol=1e-3)
    assert np.mean(found - p.log_density(x, 0)) / math.log(2) == pytest.approx(0, abs=3e-3)


def test_hutchinsons_estimate_is_right_on_average():
    p, x = CASES["two in the plane"], np.repeat([[0.5, 0.3]], 2000, axis=0)
    found, times = ode.log_likelihood(p, S, x, np.random.default_rng(1)), []
    exact = ode.log_likelihood(p, S, x[:1], watch=times.append)[0]
    assert found.std() > 0.01 and abs(found.mean() - exact) < 4 * found.std() / 2000**0.5
    assert times == sorted(times) and times[-1] == pytest.approx(1000)


def test_images_to_latents_and_back():
    p = CASES["three in a row"]
    x = p.means[RNG.integers(0, 3, 50)] + 0.3 * RNG.standard_normal((50, 1))
    latents = ode.encode(p, S, x)
    np.testing.assert_allclose(ode.decode(p, S, latents), x, atol=1e-4)
    assert abs(latents).max() < 7 and not np.allclose(latents, x, atol=0.1)
    rows = ode.interpolate(p, S, x[:4], x[4:8], 5)
    assert rows.shape == (4, 5, 1)
    given = []
    half = lambda xt, t: given.append(xt.dtype) or (None, None, 0.5 * xt)
    ode.interpolate(half, S, *np.ones((2, 1, 2), np.float32), 3)
    assert set(given) == {np.dtype(np.float32)}
    np.testing.assert_allclose(rows[:, [0, -1]], np.stack([x[:4], x[4:8]], 1), atol=1e-4)


def test_on_the_great_circle_lengths_and_angles_change_evenly():
    a, b = RNG.standard_normal((2, 3, 4, 5, 1))
    b = 2 * b
    unit = lambda x: x.reshape(3, -1) / np.linalg.norm(x.reshape(3, -1), axis=1, keepdims=True)
    whole = np.arccos((unit(a) * unit(b)).sum(axis=1))
    for weight in (0, 0.25, 0.7, 1):
        x = ode.slerp(a, b, weight)
        np.testing.assert_allclose(np.linalg.norm(x.reshape(3, -1), axis=1),
                                   (1 - weight) * np.linalg.norm(a.reshape(3, -1), axis=1)
                                   + weight * np.linalg.norm(b.reshape(3, -1), axis=1))
        turned = np.arccos(np.clip((unit(a) * unit(x)).sum(axis=1), -1, 1))
        np.testing.assert_allclose(turned, weight * whole, atol=1e-6)
    np.testing.assert_allclose(ode.slerp(a, 3 * a, 0.5), 2 * a, rtol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("guidance, avoid, variance", [(1.0, None, "large"), (2.5, None, "learned"),
                                                       (-0.5, 2, "large"), (0.0, None, "large")])
def test_the_gradient_of_the_reverse_process(prediction, guidance, avoid, variance):
    """For every prediction, with guidance and a learned variance; real t; where x_0 is clipped it is 0."""
    preset = presets.get("mnist").override(base_channels=8, groups=4, image_size=8, num_classes=3, T=50, dropout=0.2,
                                           prediction=prediction, variance=variance, schedule="linear", beta_T=0.2,
                                           loss="L" if variance == "learned" else "simple", guidance=1.0)
    model = nn.build(preset.model, seed=1, dtype=np.float64)
    model.flat_values[...] = 0.6 * np.random.default_rng(2).standard_normal(model.flat_values.size)
    t, x = np.array([7.5, 7.5]), RNG.standard_normal((2, 8, 8, 1))
    for clip in (False, True):
        p = reverse_process(model.eval(gradients=True), preset.diffusion, np.array([0, 1]), guidance, avoid, clip)
        x0 = p(x, t)[2]
        direction, dx0 = RNG.standard_normal((2, *x.shape))
        slope = ((p(x + 1e-5 * direction, t)[2] - p(x - 1e-5 * direction, t)[2]) / 2e-5 * dx0).sum()
        p(x, t)
        assert (p.backward(dx0) * direction).sum() == pytest.approx(slope, rel=1e-5)
        if clip:
            assert (abs(x0) == 1).any()
            p(x, t)
            np.testing.assert_array_equal(p.backward(np.where(abs(x0) == 1, dx0, 0)), 0)


def test_no_gradient_without_asking_for_it():
    preset = presets.get("mnist").override(base_channels=8, groups=4, image_size=8, T=12)
    model, x = nn.build(preset.model).eval(), np.zeros((1, 8, 8, 1), np.float32)
    p = reverse_process(model, preset.diffusion)
    p(x, np.array([3]))
    with pytest.raises(RuntimeError, match="without a forward that stores"):
        p.backward(x)


def test_guidance_within_an_interval():
    preset = presets.get("mnist").override(base_channels=8, groups=4, image_size=8, num_classes=3, T=50)
    model = nn.build(preset.model, seed=1).eval()
    model.flat_values[...] = 0.2 * np.random.default_rng(2).standard_normal(model.flat_values.size)
    x, labels = RNG.standard_normal((2, 8, 8, 1)).astype(np.float32), np.array([0, 1])
    make = lambda w, interval=None: reverse_process(model, preset.diffusion, labels, w, clip=False, interval=interval)
    for t, w in ((9, 1.0), (10, 3.0), (30, 3.0), (31, 1.0)):
        np.testing.assert_array_equal(make(3.0, (10, 30))(x, np.full(2, t))[2], make(w)(x, np.full(2, t))[2])
    assert not np.allclose(make(3.0)(x, np.full(2, 9))[2], make(1.0)(x, np.full(2, 9))[2])
    with pytest.raises(ValueError, match="expected the smaller t first"):
        make(3.0, (30, 10))


def test_straight_paths():
    """S is 0 where x_0 is the same all along, and for one normal distribution what its known velocity says."""
    s, x, times = S, RNG.standard_normal((4000, 2)), range(1000, 0, -2)
    assert ode.straightness(lambda x, t: (None, None, np.full_like(x, 0.3)), s, x, times) < 1e-12
    assert ode.position(s, 0) == 0 < ode.position(s, 1) < 0.1 and 0.9 < ode.position(s, s.T) <= 1
    found = ode.straightness(Mixture([[0.0, 0.0]], [0.25 * np.eye(2)], [1.0]), s, x, times)
    # On the straight path z = (1 - r) x_0 + r eps of deviation sd(r), the flow is z = x sd(r) / sd(1).
    r = np.linspace(0, 1, 2001)
    slope = np.gradient(np.sqrt(0.25 * (1 - r)**2 + r**2), r)
    weights = np.full(2001, 1 / 2000)
    weights[[0, -1]] /= 2
    expected = (weights * (slope - 0.5)**2).sum() * (x**2).mean()
    assert found == pytest.approx(expected, rel=0.02)
