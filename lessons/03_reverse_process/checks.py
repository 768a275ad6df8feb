"""The tasks of homework 03."""

import itertools

import numpy as np
from tasks import attempt, library, question, refuses

from tinyddpm.diffusion import process, schedule
from tinyddpm.sampling import steps

IMPORTS = """import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.steps import Step                 # Step(t, x, x0)"""


def posterior_coefficients(f, rng):
    s = schedule.linear(30, 1e-3, 0.2)
    for t in (1, 2, 30, rng.integers(1, 31, 4)):
        from_x0, from_xt = f.posterior_coefficients(s, t)
        yield f"factor of x0: at t = {t}", from_x0
        yield f"factor of xt: at t = {t}", from_xt


def from_eps(f, rng):
    s, xt, eps = schedule.linear(30, 1e-3, 0.2), *rng.standard_normal((2, 4, 3))
    for t in (1, 30, rng.integers(1, 31, 4)):
        yield f"x0_from_eps: at t = {t}", attempt(f.x0_from_eps, s, xt, t, eps)
        yield f"mu_from_eps: at t = {t}", attempt(f.mu_from_eps, s, xt, t, eps)


def ddpm(f, rng):
    s, x = schedule.linear(8, 1e-2, 0.4), rng.standard_normal((5, 2))
    noise = np.random.default_rng(int(rng.integers(1000)))

    def p(xt, t):
        return 0.9 * xt + 0.01 * t[:, None], s.beta[t][:, None], np.tanh(xt)

    for start in (8, 5):
        found = list(itertools.islice(f.ddpm(p, s, x.copy(), noise, range(start, 0, -1)), start + 1))
        yield f"the times, started at {start}", [step.t for step in found]
        for step in found:
            yield f"x after the step from t = {step.t}, started at {start}", step.x
            yield f"x0 of the step from t = {step.t}, started at {start}", step.x0
    yield "result errors: times that skip one", refuses(lambda: list(f.ddpm(p, s, x, noise, [3, 1])))


def mixture_eps(f, rng):
    D = int(rng.integers(1, 4))
    means, weights = 2 * rng.standard_normal((3, D)), np.array([0.2, 0.5, 0.3])
    for alpha_bar, sigma in ((0.99, 0.3), (0.5, 0.1), (0.01, 1.0)):
        yield f"mixture_eps at alpha_bar = {alpha_bar}", f.mixture_eps(2 * rng.standard_normal((6, D)), alpha_bar,
                                                                       means, sigma, weights)


def mixture_answer(x, alpha_bar, means, sigma, weights):
    """-sqrt(1 - alpha_bar) times the slope of log p(x_t), by differences."""
    variance = alpha_bar * sigma**2 + 1 - alpha_bar

    def log_p(x):
        squared = ((x[:, None] - np.sqrt(alpha_bar) * means)**2).sum(axis=2)
        exponents = -squared / (2 * variance) + np.log(weights)
        largest = exponents.max(axis=1, keepdims=True)
        return np.log(np.exp(exponents - largest).sum(axis=1)) + largest[:, 0]

    h, score = 1e-5, np.empty_like(x)
    for d in range(x.shape[1]):
        e = h * np.eye(x.shape[1])[d]
        score[:, d] = (log_p(x + e) - log_p(x - e)) / (2 * h)
    return -np.sqrt(1 - alpha_bar) * score


OPEN = ("Add an error to the perfect eps in each step of Algorithm 2: once independent noise of standard deviation "
        "0.3, once the constant 0.05. Compare the shares and the spread of the clouds with those of the lesson.",
        "The noise of 0.3 changes nothing that can be seen (shares 0.49, 0.31, 0.20, spread 0.15). The constant of "
        "0.05, six times smaller, moves the shares to 0.55, 0.25, 0.20, and the left cloud by 0.02. Independent "
        "errors of a thousand small steps cancel in their sum; errors in one direction add up. What matters is not "
        "how large a network's error is in one step, but whether it is the same in many.")

TASKS = [
    library("3.1", "What x_0 and x_t say about x_{t-1} (Eq. 7)", 2, posterior_coefficients,
            [process.posterior_coefficients],
            posterior_coefficients=["alpha_bar at t and at t - 1", "the two factors of Eq. 7"]),
    library("3.2", "From a predicted noise (Eq. 11 and 15)", 2, from_eps, [process.x0_from_eps, process.mu_from_eps],
            x0_from_eps=["solve Eq. 4 for x_0"], mu_from_eps=["Eq. 11"]),
    library("3.3", "Algorithm 2", 4, ddpm, [steps.ddpm],
            ddpm=["a generator: for each of the times, ask p(x, t) with one t for each sample, np.full(len(x), t)",
                  "p gives the mean, the variance (not its root) and the x_0 of the step",
                  "draw noise of x's shape and dtype from rng.standard_normal, but not at t = 1",
                  "yield Step(t, x, x_0) after each step"]),
    question("3.4", "The exact noise of a mixture", 3, mixture_eps, '''
def mixture_eps(x, alpha_bar, means, sigma, weights):
    """E[eps | x_t = x] for data from a mixture of Gaussians: the perfect network's output.

    x (N, D): noisy points; alpha_bar: a number, that of their time
    means (M, D), sigma a number, weights (M,): the data are N(means[m], sigma^2 I) with probability weights[m]
    -> eps (N, D)
    """
''', {"mixture_eps": mixture_answer},
             mixture_eps=["x_t of component m is Gaussian too: with which mean and variance?",
                          "how likely is each component, given x?",
                          "eps of one component is a multiple of x minus its mean; average over the components"]),
]
