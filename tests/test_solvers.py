"""The solvers of the probability-flow ODE, on a mixture of normals whose flow is known exactly."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from tinyddpm.diffusion import process, schedule
from tinyddpm.sampling import solvers
from tinyddpm.sampling.samplers import SAMPLERS, SPACINGS, choose_times
from tinyddpm.sampling.steps import ddim, last

S = schedule.linear(1000)
MEANS, DEVIATION, WEIGHTS = np.array([-1.0, 0.5, 1.5]), 0.25, np.array([0.3, 0.5, 0.2])
START = np.random.default_rng(0).standard_normal((100, 1))


def spread_at(alpha_bar):
    return np.sqrt(alpha_bar * DEVIATION**2 + 1 - alpha_bar)            # of x_t around each mean


def exact(x, t, s=S):
    """The reverse process whose x_0 is E[x_0 | x_t]."""
    a = s.alpha_bar[t][:, None]
    log = np.log(WEIGHTS) - (x - np.sqrt(a) * MEANS)**2 / (2 * spread_at(a)**2)
    posterior = np.exp(log - log.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    each = MEANS + np.sqrt(a) * DEVIATION**2 / spread_at(a)**2 * (x - np.sqrt(a) * MEANS)
    return None, None, (posterior * each).sum(axis=1, keepdims=True)


def arrive(x, start, end):
    """Where the flow leads from one alpha_bar to another: to the number with the same cumulative probability."""
    def cumulative(x, a):
        z = (x - np.sqrt(a) * MEANS) / spread_at(a) / math.sqrt(2)
        return (WEIGHTS * (1 + np.vectorize(math.erf)(z)) / 2).sum(axis=1, keepdims=True)
    target, low, high = cumulative(x, start), np.full_like(x, -9), np.full_like(x, 9)
    for _ in range(50):
        middle = (low + high) / 2
        above = cumulative(middle, end) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return middle


def distance(a, b):
    return np.sqrt(((a - b)**2).mean())


def run(name, times, x=START):
    """x at the last of the times, without the step from there to the data."""
    return next(itertools.islice(SAMPLERS[name].run(exact, S, x, None, times), len(times) - 2, None)).x


@pytest.mark.parametrize("name, orders", [("ddim", (1, 1)), ("heun", (2, 2)), ("plms", (3, 2)), ("dpmpp_2m", (2, 2)),
                                          ("dpm_2", (2, 2))])
@pytest.mark.parametrize("power", [1, 7])
def test_the_order_of_the_error(name, orders, power):
    """Twice the steps, equal in sigma^(1 / power): the error falls by 2^order. PLMS assumes equal ones in sigma."""
    errors, ends = [], (5.0, 0.2)
    for K in (40, 80):
        sigma = np.linspace(ends[0]**(1 / power), ends[1]**(1 / power), K + 1)**power
        times = [float(t) for t in S.time(1 / (1 + sigma**2))]
        errors.append(distance(run(name, times), arrive(START, *S.alpha_bar[np.array(times)[[0, -1]]])))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(orders[power == 7], abs=0.2)


def test_euler_on_the_straight_path_is_ddim():
    """Rectified flow: x = (1 - w) x_0 + w eps moves with u = eps - x_0. Our x_t is x, divided by its scale."""
    s, x, times = schedule.straight(200), START, [200, 150, 90, 40, 1]
    w = {t: t / 201 for t in (*times, 0)}
    p = lambda x, t: exact(x, t, s)
    for t, after in zip(times, [*times[1:], 0]):
        _, _, x0 = p(x / np.hypot(1 - w[t], w[t]), np.full(len(x), t))
        u = (x - (1 - w[t]) * x0) / w[t] - x0
        x = x + (w[after] - w[t]) * u
    start = START / np.hypot(1 - w[200], w[200])
    np.testing.assert_allclose(last(ddim(p, s, start, None, times)), x, atol=1e-11)


def test_edm_is_heun_with_noise_that_changes_no_distribution():
    """Without churn the same numbers; with it others, from the same mixture."""
    rng, times = np.random.default_rng(3), choose_times(S, 40, "sigma")
    x = rng.standard_normal((4000, 1))
    quiet, heun = last(solvers.edm(exact, S, x, rng, times, 0.0)), last(solvers.heun(exact, S, x, None, times))
    np.testing.assert_allclose(quiet, heun, atol=1e-4)
    stirred = last(solvers.edm(exact, S, x, rng, times, 20.0))
    assert np.abs(stirred - heun).mean() > 0.1
    mean = WEIGHTS @ MEANS
    spread = math.sqrt(WEIGHTS @ (MEANS - mean)**2 + DEVIATION**2)
    assert (stirred.mean(), stirred.std()) == pytest.approx((mean, spread), abs=0.04)


def test_rk45_at_fixed_steps_has_order_5_or_more():
    a, b = (solvers.angle_at(S, t) for t in (1000, 100))
    errors = []
    for K in (16, 32):
        x, h = START, (b - a) / K
        for k in range(K):
            x, slopes = solvers.dormand_prince_step(velocity, a + k * h, x, h, velocity(a + k * h, x))
        errors.append(distance(x, arrive(START, S.alpha_bar[1000], S.alpha_bar[100])))
    assert 4.8 < math.log2(errors[0] / errors[1]) < 6.5


def velocity(angle, x):
    return solvers.velocity(exact, S, x, angle)


def test_the_error_that_rk45_estimates_is_that_of_its_fourth_order():
    """On dy / dz = y the weights of the estimate leave a term in h^5: 32 times less for half the step."""
    estimates = []
    for h in (0.2, 0.1):
        _, slopes = solvers.dormand_prince_step(lambda z, y: y, 0.0, np.ones(1), h, np.ones(1))
        estimates.append(h * sum(weight * one for weight, one in zip(solvers.ERROR, slopes)))
    assert estimates[0] / estimates[1] == pytest.approx(32, rel=0.05) and abs(estimates[0]) > 1e-9


def test_there_and_back_again():
    """From data to noise and back within 1e-4 at the default tolerance; the noise is where the flow leads."""
    x = 0.8 * START
    noise = [*solvers.flow(exact, S, x, 1, 1000)][-1][1]
    times, back, _ = zip(*solvers.flow(exact, S, noise, 1000, 1))
    assert abs(back[-1] - x).max() < 1e-4
    assert abs(noise - arrive(x, S.alpha_bar[1], S.alpha_bar[1000])).max() < 1e-3
    assert list(times) == sorted(times, reverse=True) and times[-1] == 1


def test_a_smaller_tolerance_costs_more_and_errs_less():
    found = {}
    for tolerance in (1e-2, 1e-4, 1e-6):
        calls = []
        x = last(solvers.rk45(lambda x, t: calls.append(t[0]) or exact(x, t), S, START, None, [1000, 1], tolerance))
        found[tolerance] = len(calls), distance(x, arrive(START, S.alpha_bar[1000], 1))
        assert 1 <= min(calls) < max(calls) <= 1000
    calls, errors = zip(*found.values())
    assert calls[0] < calls[1] < calls[2] and errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def test_the_tolerance_is_absolute_and_relative():
    """What hardly changes takes few steps, whatever its size; ever longer ones, from a fiftieth of the way on."""
    for size in (0, 1, 1e3):
        steps = [*solvers.dormand_prince(lambda z, y: 0.01 * y, np.full(3, float(size)), 0.0, 1.0, 1e-5)]
        assert len(steps) <= 5
        np.testing.assert_allclose(steps[-1][1], size * math.exp(0.01), rtol=1e-9)


@pytest.mark.parametrize("tolerance", [0, -1e-3, math.nan])
def test_the_tolerance_is_positive(tolerance):
    with pytest.raises(ValueError, match="expected more than 0"):
        last(solvers.rk45(exact, S, START, None, [1000, 1], tolerance))


def test_a_tolerance_below_rounding_is_refused():
    rng = np.random.default_rng(0)

    def rounded(x, t):
        return None, None, exact(x, t)[2] + 1e-3 * rng.standard_normal(x.shape)
    with pytest.raises(ValueError, match="choose a larger one"):
        last(solvers.rk45(rounded, S, START, None, [1000, 1], 1e-9))


def test_euler_is_ddim():
    x, times = START, [900, 600, 300, 20]
    sigma = lambda t: math.sqrt(1 / S.alpha_bar[t] - 1)
    for t, following in zip(times, [600, 300, 20, 0]):
        eps = solvers.predict(exact, S, x, t)[1]
        x = math.sqrt(S.alpha_bar[following]) * (x / math.sqrt(S.alpha_bar[t]) + (sigma(following) - sigma(t)) * eps)
    np.testing.assert_allclose(x, last(ddim(exact, S, START, None, times)), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["heun", "plms", "dpmpp_2m", "dpm_2"])
def test_where_all_data_are_one_point_one_step_arrives(name):
    """Then x_0 is constant and eps too along the flow: all methods are exact."""
    point = np.full((3, 2), 0.7)
    p = lambda x, t: (None, None, point)
    for times in ([1000], [1000, 1], [800, 400, 200, 100, 50, 1]):
        steps = [*SAMPLERS[name].run(p, S, np.ones((3, 2)), None, times)]
        assert [step.t for step in steps] == times
        for step, following in zip(steps, times[1:]):
            eps = process.eps_from_x0(S, point, np.ones((3, 2)), times[0])
            np.testing.assert_allclose(step.x, process.q_sample(S, point, following, eps), rtol=1e-9)
        np.testing.assert_allclose(steps[-1].x, point, rtol=1e-9)


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.steps])
def test_what_a_sampler_costs(name):
    for K in (1, 2, 7):
        calls, rng = [], np.random.default_rng(0)
        last(SAMPLERS[name].run(lambda x, t: calls.append(t) or exact(x, t), S, START, rng, choose_times(S, K)))
        assert len(calls) == SAMPLERS[name].evaluations(K)


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "plms"])
def test_the_schedulers_of_diffusers_lead_the_same_way(name):
    """At each of ten times, to the rounding of float32 in which they compute their tables."""
    expected = np.load(Path(__file__).parent / "golden" / "solvers.npz")[name]
    steps = [*SAMPLERS[name].run(exact, S, START, None, list(range(901, 0, -100)))]
    assert len(expected) == len(steps) == 10
    np.testing.assert_allclose(steps[-1].x, expected[-1], atol=1e-4)
    if name != "heun":                                                  # whose x is scaled otherwise on the way
        np.testing.assert_allclose([step.x for step in steps], expected, atol=1e-4)


@pytest.mark.parametrize("s", [S, schedule.cosine(1000), schedule.linear(12, 0.01, 0.5)])
@pytest.mark.parametrize("spacing", [name for name in SPACINGS if name != "strides"])
def test_spacings(s, spacing):
    for steps in (1, 2, 7, s.T - 1, s.T):
        times = choose_times(s, steps, spacing)
        assert len(set(times)) == steps and times == sorted(times, reverse=True)
        assert 1 <= times[-1] and times[0] <= s.T and (steps == 1 or times[-1] == 1)
        assert all(type(t) is int for t in times)
    for steps in (0, s.T + 1):
        with pytest.raises(ValueError, match="expected 1 to T"):
            choose_times(s, steps, spacing)


def test_what_the_spacings_space_evenly():
    """sqrt(t), log(signal / noise), sigma^(1/7) from 80 down: to half a time step."""
    for spacing, quantity, tolerance in (
            ("quadratic", lambda t: np.sqrt(t), 0.05), ("logsnr", lambda t: np.log(S.snr[t]), 0.1),
            ("sigma", lambda t: (1 / S.snr[t])**(1 / 14), 0.01)):
        times = np.array(choose_times(S, 8, spacing))
        differences = np.diff(quantity(times)[times > 10])
        assert np.ptp(differences) < tolerance * abs(differences).mean() * 4, spacing
    assert choose_times(S, 5, "quadratic")[0] == 1000
    assert choose_times(S, 8, "strides") == [1000, 875, 750, 625, 500, 375, 250, 125]
    for s in (S, schedule.cosine(1000)):
        assert 1 / s.snr[choose_times(s, 5, "sigma")[0]]**0.5 == pytest.approx(80, rel=0.1)
    with pytest.raises(ValueError, match="spacing is 'odd'; expected even, strides, quadratic, logsnr, sigma"):
        choose_times(S, 5, "odd")


def test_tables_at_real_times():
    """Linear between the entries, in every table; time() is the inverse of alpha_bar."""
    for table in (S.beta, S.alpha, S.alpha_bar, S.beta_tilde, S.variance("large")):
        np.testing.assert_allclose(table[np.array([7.25, 1000.0])], [0.75 * table[7] + 0.25 * table[8], table[1000]])
        assert table[3.5] == pytest.approx((table[3] + table[4]) / 2)
    t = np.array([0.5, 1, 17.3, 999.9])
    np.testing.assert_allclose(S.time(S.alpha_bar[t]), t, rtol=1e-9)
