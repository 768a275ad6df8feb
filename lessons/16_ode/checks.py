"""The tasks of homework 16."""

import numpy as np
from tasks import attempt, library, question

from tinyddpm.diffusion import schedule
from tinyddpm.sampling import solvers

IMPORTS = """import numpy as np

from tinyddpm.diffusion.process import eps_from_x0           # (s, x0, xt, t) -> the noise that leads from x0 to xt
from tinyddpm.diffusion.process import q_sample              # (s, x0, t, eps) -> x_t, also at t = 0
from tinyddpm.diffusion.process import x0_from_eps           # (s, xt, t, eps) -> x_0
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.steps import Step, pairs              # Step(t, x, x0); pairs: each time with the next, 0 last"""


def sampler(run, rng):
    """What a sampler yields, and when it evaluated the network."""
    s, x, seen = schedule.linear(60, 1e-3, 0.2), rng.standard_normal((4, 3)), []

    def p(xt, t):
        seen.append(float(t[0]))
        return None, None, np.tanh(xt + 0.01 * np.asarray(t)[:, None])

    for times in ([60, 41, 22, 9, 1], [60, 1], [40]):
        seen.clear()
        found = attempt(lambda: list(run(p, s, x.copy(), None, times)))
        what = f"the times {times}"
        yield f"evaluations: times of the network, {what}", found if isinstance(found, Exception) else list(seen)
        for i in range(len(times)):
            step = found[i] if isinstance(found, list) and i < len(found) else found
            for part in ("x", "x0", "t"):
                yield f"step {i + 1}: {part}, {what}", getattr(step, part, step)


def heun(f, rng):
    yield from sampler(f.heun, rng)


def dpmpp_2m(f, rng):
    yield from sampler(f.dpmpp_2m, rng)


def midpoint(f, rng):
    y, seen = rng.standard_normal((4, 3)), []

    def eps(y, sigma):
        seen.append(sigma)
        return np.tanh(y - 0.1 * sigma)

    for sigmas in ([5.0, 2.0, 0.7, 0.1], [3.0, 0.2], [0.3, 1.0, 4.0]):
        seen.clear()
        yield f"from sigma = {sigmas[0]} to {sigmas[-1]}", attempt(f.midpoint, eps, y.copy(), sigmas)
        yield f"where eps was asked, from {sigmas[0]} to {sigmas[-1]}", list(seen)


def hutchinson(f, rng):
    J = rng.standard_normal((3, 4, 4))
    transposed = lambda u: np.einsum("nij,ni->nj", J, u)
    for count in (1, 3, 50):
        signs = rng.choice([-1.0, 1.0], (count, 3, 4))
        yield f"with {count} vectors", attempt(f.hutchinson, transposed, signs)
    every = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 4), axis=-1).reshape(-1, 1, 4).repeat(3, axis=1)
    yield "over all signs: the traces", attempt(f.hutchinson, transposed, every)


def midpoint_answer(eps, y, sigmas):
    """From the change of y in each element."""
    path = [y]
    for i in range(1, len(sigmas)):
        now, then = sigmas[i - 1], sigmas[i]
        half = path[-1] + eps(path[-1], now) * (then - now) * 0.5
        path.append(path[-1] + eps(half, (now + then) / 2) * (then - now))
    return path[-1]


def hutchinson_answer(transposed, signs):
    out = np.zeros(signs.shape[1])
    for u in signs:
        found = transposed(u)
        for n in range(len(u)):
            out[n] += np.dot(u[n].ravel(), found[n].ravel()) / len(signs)
    return out


OPEN = ("Draw the same ten digits (`sample.py mnist --label 0,1,2,3,4,5,6,7,8,9 --seed 1`) with `--sampler dpmpp_2m` "
        "and 4, 6, 8, 12 and 100 steps. Which differences would you see, and which would a measure find?",
        "With 4 steps strokes are smeared or broken; from 8 on one would need to lay the pictures beside each other. "
        "The mean difference of a pixel to 100 steps still falls with the square of the number of steps, and FID stops "
        "falling near 15 steps: from there on the network is what is wrong, and no solver can mend it. So the number "
        "of steps should follow the measure that one cares for, not the error of the solver.")

TASKS = [
    library("16.1", "Heun's method", 3, heun, [solvers.heun],
            hints={"evaluations": "two for each step but the last: at its time and at the next one"},
            heun=["p(x, np.full(len(x), t)) gives x_0 as its third value, and eps_from_x0 the noise",
                  "a step with a given eps: x_0 from it by Eq. 4, then q_sample to the next time with the same eps",
                  "the mean of eps here, and of eps there after a step of Euler; the last step, to t = 0, returns x_0",
                  "yield Step(t, x, x_0): t before the step, x after it, x_0 from its first evaluation"]),
    library("16.2", "DPM-Solver++(2M)", 3, dpmpp_2m, [solvers.dpmpp_2m],
            hints={"evaluations": "one for each step"},
            dpmpp_2m=["lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)), infinite at t = 0",
                      "ahead = x_0 + h / 2 / (lambda - lambda before) (x_0 - x_0 before), h the length of this step",
                      "in the first step, and in the last one to t = 0, ahead = x_0",
                      "q_sample(s, ahead, next time, the noise that leads from ahead to x)"]),
    question("16.3", "Another method of order 2", 2, midpoint, '''
def midpoint(eps, y, sigmas):
    """The midpoint rule for dy / dsigma = eps: each step with the slope in its middle, found by half a step of Euler.

    eps(y, sigma) -> like y (N, ...); sigmas: a list, falling or rising -> y at the last of them
    """
''', {"midpoint": midpoint_answer}, midpoint=["two evaluations a step"]),
    question("16.4", "A trace from random signs", 2, hutchinson, '''
def hutchinson(transposed, signs):
    """The mean of u^T J u over vectors u of signs, an estimate of the trace of J for each sample.

    transposed(u): J^T u for u (N, ...), as a network's backward gives it; signs (count, N, ...) -> (N,)
    """
''', {"hutchinson": hutchinson_answer}, hutchinson=["u^T J u is the sum of u times J^T u, for each sample by itself"]),
]
