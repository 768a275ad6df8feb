"""generate, and the pictures of what the latents hold, with reverse processes whose results are known."""

import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tinyddpm import figures, nn, plots, presets
from tinyddpm.backend import generator
from tinyddpm.data import scaled
from tinyddpm.diffusion import likelihood, process, schedule
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.sampling import latents
from tinyddpm.sampling.generate import by_class, generate
from tinyddpm.sampling.steps import Step, ddim, ddpm, last, spread

S = schedule.linear(T=12, beta_1=0.01, beta_T=0.5)
RNG = np.random.default_rng(0)


def still(xt, t):
    """A reverse process that does not move, without variance."""
    return xt, np.zeros((len(xt), 1, 1, 1)), 2 * xt


def restless(xt, t):
    """A reverse process that does not move, apart from its noise."""
    return xt, np.full((len(xt), 1, 1, 1), 0.25), 2 * xt


PRESET = presets.get("mnist").override(base_channels=8, groups=4, T=12, num_classes=3, image_size=8)
MODEL = nn.build(PRESET.model, seed=1).eval()
MODEL.flat_values[...] = 0.2 * RNG.standard_normal(MODEL.flat_values.size)


@pytest.mark.parametrize("sampler, steps, times", [("ddpm", None, range(12, 0, -1)), ("ddim", 5, spread(12, 5)),
                                                   ("ddim", None, spread(12, 12))])
def test_generate_is_the_sampler_on_the_generators_noise(sampler, steps, times):
    """In batches of 64, each with its generator and its part of the labels; every step is watched."""
    labels, seen = np.arange(70) % 3, []
    found = generate(MODEL, PRESET.diffusion, 70, 5, sampler, steps, labels, lambda step, n,
                     of: seen.append((step.t, n, of)))
    for start, stop in ((0, 64), (64, 70)):
        rng = generator(5, "sample", start)
        x = rng.standard_normal((stop - start, 8, 8, 1), dtype=np.float32)
        p = reverse_process(MODEL, PRESET.diffusion, labels=labels[start:stop])
        run = {"ddpm": ddpm, "ddim": ddim}[sampler]
        np.testing.assert_array_equal(found[start:stop], last(run(p, PRESET.diffusion.make_schedule(), x, rng, times)))
    assert seen == [(t, n, 2 * len(times)) for n, t in enumerate([*times] * 2, 1)]


def test_a_step_of_algorithm_2_adds_its_noise_but_for_the_last():
    x, rng = RNG.standard_normal((2, 3, 3, 1)), np.random.default_rng(8)
    for step in ddpm(restless, S, x, np.random.default_rng(8), (3, 2, 1)):
        x = x + 0.5 * rng.standard_normal(x.shape) * (step.t > 1)
        np.testing.assert_array_equal(step.x, x)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_of_ddim_by_the_posterior(eta):
    """With eta = 1 and no time left out it is a draw from q(x_{t-1} | x_t, x_0), Eq. 6; eta scales the noise's part."""
    x0, x = RNG.uniform(-1, 1, (2, 2, 3, 3, 1))
    p = lambda xt, t: (None, None, x0)
    z = np.random.default_rng(8).standard_normal(x.shape)
    for t in (12, 7, 2):
        step = next(ddim(p, S, x, np.random.default_rng(8), (t, t - 1), eta))
        quiet = next(ddim(p, S, x, SimpleNamespace(standard_normal=lambda shape, dtype: np.zeros(shape)), (t, t - 1),
                          eta))
        np.testing.assert_allclose(step.x - quiet.x, eta * S.beta_tilde[t]**0.5 * z, rtol=1e-9, atol=1e-12)
        noise = process.eps_from_x0(S, x0, x, t)
        left = 1 - S.alpha_bar[t - 1] - eta**2 * S.beta_tilde[t]        # of the variance, for the noise that is there
        np.testing.assert_allclose(quiet.x, S.alpha_bar[t - 1]**0.5 * x0 + left**0.5 * noise, rtol=1e-9)
        if eta == 1:
            np.testing.assert_allclose(quiet.x, process.q_posterior(S, x0, x, t)[0], rtol=1e-9)


def test_eta_is_a_fraction():
    for eta in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            next(ddim(still, S, np.zeros((1, 1, 1, 1)), RNG, (2, 1), eta))


class Exact:
    """The best prediction of x_0 for numbers of two classes and of both, mixtures of normals whose densities are known.

    Class 0 has 90% of its numbers near 1 and 10% near -1, class 1 the reverse; 2 stands for no label.
    """

    training, config, s = False, SimpleNamespace(num_classes=2), schedule.cosine(200)
    means, deviation = np.array([1.0, -1.0]), 0.3
    shares = np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])

    def forward(self, x, t, labels=None):
        labels = np.full(len(x), 2) if labels is None else labels
        a = self.s.alpha_bar[t][:, None]
        variance = a * self.deviation**2 + 1 - a                                # of x_t around each mean
        log = np.log(self.shares[labels]) - (x - np.sqrt(a) * self.means)**2 / (2 * variance)
        posterior = np.exp(log - log.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        each = self.means + np.sqrt(a) * self.deviation**2 / variance * (x - np.sqrt(a) * self.means)
        return (posterior * each).sum(axis=1, keepdims=True)


def flow(w, start):
    """Where the probability flow with guidance w for class 0 leads from x_T: fourth-order steps in noise / signal."""
    levels = np.sqrt(1 / Exact.s.alpha_bar - 1)
    levels = np.geomspace(levels[-1], levels[1] / 20, 1000)
    y = start * np.sqrt(1 + levels[0]**2)                                       # x / sqrt(alpha_bar), as below

    def score(y, sigma, shares):
        variance = Exact.deviation**2 + sigma**2
        density = shares * np.exp(-(y[:, None] - Exact.means)**2 / (2 * variance))
        return (density * (Exact.means - y[:, None])).sum(axis=1) / variance / density.sum(axis=1)

    def slope(y, sigma):
        without, given = (score(y, sigma, Exact.shares[k]) for k in (2, 0))
        return -sigma * (without + w * (given - without))                       # dy / dsigma

    for sigma, following in zip(levels, levels[1:]):
        h = following - sigma
        k1 = slope(y, sigma)
        k2 = slope(y + h / 2 * k1, sigma + h / 2)
        k3 = slope(y + h / 2 * k2, sigma + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, following))
    return y


@pytest.mark.parametrize("w", [0.0, 1.0, 2.0])
def test_guidance_on_known_densities(w):
    """w = 0 draws from both classes, 1 from class 0, 2 from more than that; DDIM arrives where the guided flow does."""
    N, times, config = 4000, range(200, 0, -1), DiffusionConfig(T=200, schedule="cosine", prediction="x0")
    p = reverse_process(Exact(), config, np.zeros(N, int), w, clip=False)
    x = np.random.default_rng(1).standard_normal((N, 1))
    by_ddim = last(ddim(p, Exact.s, x, None, times))[:, 0]
    by_ddpm = last(ddpm(p, Exact.s, x, np.random.default_rng(2), times))[:, 0]
    assert abs(by_ddim[:400] - flow(w, x[:400, 0])).max() < 0.05
    for found in (by_ddim, by_ddpm):
        if w == 2:
            assert (found > 0).mean() > 0.98 and found.mean() > 1
        else:
            share = {0: 0.5, 1: 0.9}[w]
            mean = 2 * share - 1
            assert (found > 0).mean() == pytest.approx(share, abs=0.03)
            assert (found.mean(), found.std()) == pytest.approx((mean, np.sqrt(0.3**2 + 1 - mean**2)), abs=0.06)
    if w == 1:
        plain = reverse_process(Exact(), config, np.zeros(N, int), clip=False)
        np.testing.assert_array_equal(last(ddim(plain, Exact.s, x, None, times))[:, 0], by_ddim)


def test_a_grid_by_class():
    """Whole rows with a column for each class; a square for one class or none; no more classes than images."""
    for classes, count, labels, columns in ((range(3), 6, [0, 1, 2] * 2, 3), (range(3), 7, [0, 1, 2] * 3, 3),
                                            (range(3), 2, [0, 1], 2), ([4, 1], 3, [4, 1, 4, 1], 2),
                                            ([5], 5, [5] * 5, 3)):
        found = by_class(classes, count)
        assert (found[0], list(found[1]), found[2]) == (len(labels), labels, columns)
    assert by_class(None, 10) == (10, None, 4)


def test_generate_passes_on_what_belongs_to_the_reverse_process():
    labels, seen = np.arange(3), {}
    for name, how in {"plain": {}, "guided": {"guidance": 90.0}, "away": {"guidance": 90.0, "avoid": 1},
                      "free": {"guidance": 90.0, "clip": False}}.items():
        seen[name] = generate(MODEL, PRESET.diffusion, 3, 5, "ddim", 4, labels, **how)
        p = reverse_process(MODEL, PRESET.diffusion, labels, **how)
        rng = generator(5, "sample", 0)
        x = rng.standard_normal((3, 8, 8, 1), dtype=np.float32)
        expected = last(ddim(p, PRESET.diffusion.make_schedule(), x, rng, spread(12, 4)))
        np.testing.assert_array_equal(seen[name], expected)
    assert len({images.tobytes() for images in seen.values()}) == 4


@pytest.mark.parametrize("columns, size", [(4, (4, 4)), (10, (2, 10)), (8, (2, 8)), (20, (1, 20))])
def test_the_grid_of_a_film(columns, size):
    film, x = plots.Film(columns, count=1), np.zeros((40, 3, 3, 1))
    film.add(Step(1, x, x))
    assert film.pictures[0].shape == (4 * size[0] + 1, 4 * size[1] + 1, 1)


def test_a_film_in_colour_keeps_its_colours(tmp_path):
    """Grey pictures get a few greys; 16 colours would not do for photographs."""
    counts = {}
    for channels in (1, 3):
        film = plots.Film()
        film.pictures = list(RNG.integers(0, 256, (2, 60, 60, channels)).astype(np.uint8))
        film.save(tmp_path / "film.gif")
        counts[channels] = len(Image.open(tmp_path / "film.gif").convert("RGB").getcolors(10**6))
    assert counts[1] <= 16 < 100 < counts[3]


def test_defaults():
    """The seed 0 and the paper's ten columns."""
    labels = np.zeros(2, int)
    np.testing.assert_array_equal(generate(MODEL, PRESET.diffusion, 2, labels=labels),
                                  generate(MODEL, PRESET.diffusion, 2, 0, labels=labels))
    x = RNG.standard_normal((1, 2, 2, 1))
    assert latents.progressive(still, S, x, RNG).shape[1] == 10
    assert latents.shared(still, S, x, RNG, (12,)).shape[1] == 8
    assert latents.interpolate(still, S, x, x, 0, RNG).shape[1] == 9


def test_numbers_that_are_not_finite_stop_the_sampling():
    values = MODEL.flat_values.copy()
    for wrong in (np.nan, np.inf):
        MODEL.flat_values[-1] = wrong
        with pytest.raises(ValueError, match="not finite at t = 12"):
            generate(MODEL, PRESET.diffusion, 2)
    MODEL.flat_values[...] = values


def test_progressive_shows_the_estimates_at_spread_times():
    x = RNG.standard_normal((3, 2, 2, 1))
    seen = []

    def p(xt, t):
        seen.append(t[0])
        return xt, np.zeros((3, 1, 1, 1)), np.full_like(xt, t[0])
    found = latents.progressive(p, S, x, RNG, 4)
    assert found.shape == (3, 4, 2, 2, 1) and seen == list(range(12, 0, -1))
    assert found[0, :, 0, 0, 0].tolist() == found[2, :, 1, 1, 0].tolist() == [12, 8, 5, 1]


def test_shared_latents_start_each_row_and_its_samples():
    x = RNG.standard_normal((1, 2, 2, 1))
    rows = latents.shared(still, S, x, np.random.default_rng(0), (12, 6, 3), columns=4)
    assert rows.shape == (3, 4, 2, 2, 1) and np.all(rows == x)
    rows = latents.shared(restless, S, x, np.random.default_rng(0), (12, 6, 3), columns=200)
    np.testing.assert_array_equal(rows[0, 0], x[0])
    for row, t in zip(rows, (12, 6, 3)):                        # t - 1 steps with noise lead from x_t to the data
        assert (row[1:] - row[0]).std() == pytest.approx(0.5 * (t - 1)**0.5, rel=0.1)
    assert not np.allclose(rows[1, 0], rows[0, 0])


@pytest.mark.parametrize("t", [0, 7])
def test_interpolation_mixes_images_or_their_latents(t):
    """A row: a, then (1 - w) a_t + w b_t for w = 0, 1/4, ..., 1, then b."""
    a, b = RNG.uniform(-1, 1, (2, 2, 3, 3, 1))
    rows = latents.interpolate(still, S, a, b, t, np.random.default_rng(4), columns=7)
    assert rows.shape == (2, 7, 3, 3, 1)
    rng = np.random.default_rng(4)
    for row, x0, other in zip(rows, a, b):
        ends = [process.q_sample(S, x, t, rng.standard_normal(x.shape)) if t else x for x in (x0, other)]
        np.testing.assert_array_equal(row[[0, -1]], [x0, other])
        for i in range(5):
            np.testing.assert_allclose(row[1 + i], (4 - i) / 4 * ends[0] + i / 4 * ends[1], rtol=1e-12, atol=1e-12)
        rng.standard_normal((t and t - 1, 3, 3, 1))             # of the steps


def test_interpolation_shares_the_noise_of_the_steps():
    a, b = np.zeros((2, 1, 3, 3, 1))
    row = latents.interpolate(restless, S, a, b, 7, np.random.default_rng(4), columns=7)[0]
    for i in range(5):                                          # linear in the weight: no noise of its own
        np.testing.assert_allclose(row[1 + i], (4 - i) / 4 * row[1] + i / 4 * row[5], rtol=1e-9, atol=1e-12)
    assert row[1].std() > 0.5


def test_coarse_to_fine_goes_from_T_to_the_pixels(monkeypatch, tmp_path):
    figure, calls = figures.Figure(MODEL, PRESET, tmp_path / "x.png"), []
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    monkeypatch.setattr(figure, "_images", lambda count: images[:count])

    def interpolate(p, s, a, b, t, rng, columns):
        calls.append((t, columns, np.array_equal(a, scaled(images[:1])), np.array_equal(b, scaled(images[1:]))))
        return np.full((1, columns, 8, 8, 1), t / 12)
    monkeypatch.setattr(latents, "interpolate", interpolate)
    saved = []
    monkeypatch.setattr(figure, "_save", saved.append)
    figure.coarse_to_fine()
    assert calls == [(t, 9, True, True) for t in (12, 10, 9, 7, 6, 4, 3, 1, 0)]
    assert [row[0, 0, 0, 0] for row in saved[0]] == [t / 12 for t, *_ in calls]


def test_a_single_step_of_q_has_the_variance_beta():
    """Eq. 2: the root of 1 - beta_t of what was there, and the root of beta_t of noise."""
    one = np.ones((3, 2))
    for t in (1, 7, 12):
        noise, rest = process.q_step(S, 0 * one, t, one), process.q_step(S, one, t, 0 * one)
        np.testing.assert_allclose(noise**2, S.beta[t], rtol=1e-12)
        np.testing.assert_allclose(rest**2, 1 - S.beta[t], rtol=1e-12)
        assert (noise > 0).all() and (rest > 0).all()
    several = process.q_step(S, 0 * one, np.array([1, 7, 12]), one)
    np.testing.assert_allclose(several**2, S.beta[[1, 7, 12], None] * one, rtol=1e-12)


def test_the_standard_error_is_that_of_a_sample():
    values = [3.0, 1.0, 4.0, 1.5, 9.25]
    mean, error = likelihood.mean_and_error(np.array(values))
    assert (mean, error) == pytest.approx((statistics.fmean(values), statistics.stdev(values) / 5**0.5), rel=1e-12)
    assert likelihood.mean_and_error(np.array([1.0, 3.0])) == (2,
                                                               1) and np.isnan(likelihood.mean_and_error(np.ones(1))[1])


def test_the_same_noise_for_all_images_is_new_at_each_call():
    rng = latents.SharedNoise(np.random.default_rng(0))
    first, second = (rng.standard_normal((3, 2, 2, 1), np.float32) for _ in range(2))
    assert np.all(first == first[:1]) and not np.array_equal(first, second) and first.dtype == np.float32
