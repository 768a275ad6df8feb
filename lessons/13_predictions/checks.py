"""The tasks of homework 13."""

import numpy as np
from tasks import attempt, expect, library, question

from tinyddpm.diffusion import objective, process, schedule

IMPORTS = """import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.process import posterior_coefficients            # the factors of Eq. 7
from tinyddpm.diffusion.schedule import per_sample"""


def setting(rng):
    s = schedule.linear(30, 1e-3, 0.3)
    x, eps = rng.standard_normal((2, 4, 3))
    return s, x, rng.integers(2, 31, 4), eps


def weights_of_x0(f, rng):
    s, _, t, _ = setting(rng)
    for t in (2, 30, t):
        found = expect(f.weights_of_x0(s, t), 3, "weights_of_x0", "the weights of eps, v and mu")
        for name, value in zip(("eps", "v", "mu"), found):
            yield f"{name}: at t = {t}", value


def mu(f, rng):
    s, x, t, mean = setting(rng)
    for t in (2, t):
        yield f"mu_from_x0: at t = {t}", attempt(f.mu_from_x0, s, mean, x, t)
        yield f"x0_from_mu: at t = {t}", attempt(f.x0_from_mu, s, x, t, mean)


def weights(f, rng):
    s = schedule.linear(int(rng.integers(10, 40)), 1e-3, 0.3)
    yield "bound_weights: all t", attempt(f.bound_weights, s, np.arange(1, s.T + 1))
    yield "bound_weights: some t", attempt(f.bound_weights, s, rng.integers(1, s.T + 1, 5))
    yield "time_probabilities: all t", attempt(f.time_probabilities, s)


def eps_from_v(f, rng):
    s, x, t, eps = setting(rng)
    for t in (1, t):
        yield f"eps_from_v at t = {t}", f.eps_from_v(s, x, t, eps)


def min_snr_weights(f, rng):
    s = schedule.linear(int(rng.integers(10, 40)), 1e-3, 0.3)
    for gamma in (5.0, 0.5):
        yield f"min_snr_weights, gamma {gamma}", f.min_snr_weights(s, np.arange(1, s.T + 1), gamma)
        yield f"min_snr_weights of some t, gamma {gamma}", f.min_snr_weights(s, rng.integers(1, s.T + 1, 5), gamma)


def eps_answer(s, xt, t, v):
    """Two equations, xt and v, for two unknowns."""
    out = np.empty_like(xt)
    for i in range(len(xt)):
        alpha_bar = s.alpha_bar[np.broadcast_to(t, len(xt))[i]]
        a, b = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        for j in np.ndindex(xt[i].shape):
            out[i][j] = np.linalg.solve([[a, b], [-b, a]], [xt[i][j], v[i][j]])[1]
    return out


def weights_answer(s, t):
    """By an error of x_0: what becomes of it in the other predictions, squared."""
    shape = np.shape(t)
    x0, xt, error = np.zeros(shape or 1), np.ones(shape or 1), 1e-3
    def predictions(x0):
        eps = process.eps_from_x0(s, x0, xt, t)
        return eps, process.v_from_x0(s, x0, t, eps), process.mu_from_x0(s, x0, xt, t)
    pairs = zip(predictions(x0 + error), predictions(x0))
    return tuple((((off - true) / error)**2).reshape(shape) for off, true in pairs)


OPEN = ("Write the losses of eps, x_0 and v as losses of x_0 with weights, and plot these weights over the signal-to-"
        "noise ratio. Which one asks for what?",
        "SNR, 1 and SNR + 1. Predicting eps weighs clean images most and gives almost no weight to noisy ones; x_0 "
        "weighs all times alike; v is their sum, so it never gives less than weight 1 at any time, and follows eps "
        "where the noise is weak. What is predicted decides what is weighed, as long as the loss is a plain square.")

TASKS = [
    question("13.1", "The same error in other words", 2, weights_of_x0, '''
def weights_of_x0(s, t):
    """What a squared error of 1 of x_0 is as a squared error of eps, of v and of mu_tilde, with x_t given.

    t a number or (N,) -> three weights like t: the loss of each is its weight times the loss of x_0
    """
''', {"weights_of_x0": weights_answer},
             hints={"eps": "solve Eq. 4 for eps: what stands before x_0?",
                    "v": "v depends on x_0 directly, and through eps",
                    "mu": "Eq. 7: only one of its two terms has x_0"},
             weights_of_x0=["write each as a function of x_0 and x_t; x_t stays, so only the factor of x_0 matters"]),
    library("13.2", "The mean, and back (Eq. 7)", 3, mu, [process.mu_from_x0, process.x0_from_mu],
            mu_from_x0=["posterior_coefficients(s, t) gives both factors"],
            x0_from_mu=["the same line, solved for x_0"]),
    library("13.3", "What L weighs (Eq. 12)", 3, weights, [objective.bound_weights, objective.time_probabilities],
            bound_weights=["s.variance(\"large\")[t] is sigma_t^2"],
            time_probabilities=["for t = 1..T, without the factor 1 / alpha_t", "they sum to 1"]),
    question("13.4", "The noise in v", 2, eps_from_v, '''
def eps_from_v(s, xt, t, v):
    """The noise eps that x_t and v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 imply. xt, v (N, ...), t a number
    or (N,) -> eps"""
''', {"eps_from_v": eps_answer}, eps_from_v=["draw the circle: x_0 and eps are its axes"]),
    question("13.5", "Another weight", 2, min_snr_weights, '''
def min_snr_weights(s, t, gamma):
    """min(snr_t, gamma) / snr_t, snr = alpha_bar / (1 - alpha_bar): weights of the loss of eps that hold back small t
    (Hang et al. 2023)."""
''', {"min_snr_weights": lambda s, t, gamma: np.array([min(1.0,
                                                           gamma * (1 - s.alpha_bar[i]) / s.alpha_bar[i]) for i in t])},
             min_snr_weights=["s.snr is a table"]),
]
