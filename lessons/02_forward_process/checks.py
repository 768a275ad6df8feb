"""The tasks of homework 02."""

import numpy as np
from tasks import library, question

from tinyddpm.diffusion import process, schedule

IMPORTS = """import numpy as np

from tinyddpm.diffusion.schedule import from_betas, per_sample

# s is a Schedule: s.T, and the tables s.beta, s.alpha, s.alpha_bar for t = 0..T. per_sample(values, x) gives numbers of
# a table, one or (N,), the axes of x, so that they can multiply it."""
linear = schedule.linear


def q_step(f, rng):
    s, x, z = linear(50, 1e-3, 0.3), *rng.standard_normal((2, 3, 4, 4, 1))
    for t in (1, 37, rng.integers(1, 51, 3)):
        yield f"q_step at t = {t}", f.q_step(s, x, t, z)


def q_sample(f, rng):
    s, x, z = linear(50, 1e-3, 0.3), *rng.standard_normal((2, 3, 4, 4, 1))
    for t in (1, 50, rng.integers(1, 51, 3)):
        yield f"q_sample at t = {t}", f.q_sample(s, x, t, z)


def cosine(f, rng):
    for T in (2, int(rng.integers(20, 60)), 1000):
        yield f"beta of cosine({T})", f.cosine(T).beta
    yield "beta of cosine(10, offset=0.1, largest=0.5)", f.cosine(10, 0.1, 0.5).beta


def sigmoid_betas(f, rng):
    T, beta_T = int(rng.integers(5, 40)), rng.uniform(0.02, 0.3)
    yield f"sigmoid_betas({T})", f.sigmoid_betas(T)
    yield f"sigmoid_betas({T}, -4, 2, 0.001, {beta_T:.3f})", f.sigmoid_betas(T, -4, 2, 0.001, beta_T)


def sigmoid_answer(T, start=-6, end=6, beta_1=1e-4, beta_T=0.02):
    u = [start + (end - start) * i / (T - 1) for i in range(T)]
    return np.array([0.0] + [beta_1 + (beta_T - beta_1) / (1 + np.exp(-value)) for value in u])


OPEN = ("Find by eye the largest t at which you can still read a digit in x_t. Then average each 2 x 2 square of the "
        "same x_t, and look again. What happened, and what does it say about the order in which the walk back makes "
        "things?",
        "After averaging, the digit can be read at a larger t. Neighbouring pixels of the digit are alike, but their "
        "noise is independent: the mean of four keeps the signal, and divides the variance of the noise by 4, so the "
        "signal-to-noise ratio is four times as large. Large shapes survive longer than details. So, on the walk "
        "back, large shapes are decided first, and details last.")

TASKS = [
    library("2.1", "One step of noise (Eq. 2)", 2, q_step, [process.q_step],
            q_step=["look up beta_t: t may be one number or one for each image",
                    "shrink x_{t-1}, add noise of variance beta_t"]),
    library("2.2", "The jump to any t (Eq. 4)", 3, q_sample, [process.q_sample],
            q_sample=["look up alpha_bar_t", "how much of x_0 is left, how much noise has come"]),
    library("2.3", "The cosine schedule", 3, cosine, [schedule.cosine],
            cosine=["alpha_bar_t is f(t) / f(0), with f(t) = cos(((t / T + offset) / (1 + offset)) pi / 2)^2",
                    "beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, at most `largest`",
                    "from_betas makes the Schedule from beta_1..beta_T"]),
    question("2.4", "Another schedule", 2, sigmoid_betas, '''
def sigmoid_betas(T, start=-6, end=6, beta_1=1e-4, beta_T=0.02):
    """beta_t = beta_1 + (beta_T - beta_1) sigmoid(u_t), with u_1 = start .. u_T = end in equal steps.

    -> (T + 1,), with beta[0] = 0 for the data
    """
''', {"sigmoid_betas": sigmoid_answer}, sigmoid_betas=["T values from start to end, at equal distances",
                                                       "index 0 stands for the data"]),
]
