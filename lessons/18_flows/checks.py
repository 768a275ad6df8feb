"""The tasks of homework 18."""

from types import SimpleNamespace

import numpy as np
from tasks import attempt, library, question

from tinyddpm.diffusion import process, schedule
from tinyddpm.sampling import ode, steps
from tinyddpm.training.distill import Progressive

IMPORTS = """import math

import numpy as np

from tinyddpm.diffusion.process import q_sample              # (s, x0, t, eps) -> x_t, also at t = 0
from tinyddpm.diffusion.schedule import from_alpha_bar       # the schedule with this alpha_bar (T + 1,)
from tinyddpm.diffusion.schedule import per_sample           # a number for each sample, to multiply x (N, ...)
from tinyddpm.sampling.solvers import predict                # (p, s, x, t) -> x_0 and eps that p finds in x
from tinyddpm.sampling.solvers import transfer               # (s, x, eps, t, previous): a step of DDIM
from tinyddpm.sampling.steps import Step, pairs              # Step(t, x, x0); pairs: each time with the next, 0 last"""


def path(f, rng):
    for T in (10, 333):
        made = attempt(f.straight, T)
        yield f"straight T = {T}", made if isinstance(made, Exception) else np.asarray(made.alpha_bar)
    s = schedule.linear(60, 1e-3, 0.2)
    for shape, t in (((4, 3), np.array([1, 20, 41, 60])), ((2, 4, 4, 1), np.array([7, 60]))):
        xt, u = rng.standard_normal((2, *shape))
        yield f"x0_from_u {shape}", attempt(f.x0_from_u, s, xt, t, u)


def flow(f, rng):
    z, seen = rng.standard_normal((4, 2)), []

    def velocity(z, r):
        seen.append(float(r))
        return np.tanh(z) + r

    for positions in ([1.0, 0.6, 0.5, 0.0], [1.0, 0.0], [0.0, 0.3, 1.0]):
        seen.clear()
        yield f"along {positions}", attempt(f.flow, velocity, z.copy(), positions)
        yield f"where the velocity was asked, along {positions}", list(seen)


def _teacher(x, t):
    return np.tanh(x + 0.01 * np.asarray(t)[:, None])


def two_in_one(f, rng):
    s, xt = schedule.linear(64, 1e-3, 0.2), rng.standard_normal((4, 3))
    for t, after in ((64, 32), (48, 16), (32, 0)):
        yield f"x_0: from t = {t} to {after}", attempt(f.two_in_one, s, _teacher, xt, np.full(4, t), np.full(4, after))


def two_in_one_answer(s, teacher, xt, t, after):
    """The library's, for a network."""
    its = SimpleNamespace(s=s, process=lambda labels: lambda x, t: (None, None, teacher(x, t)))
    return Progressive.target(its, xt, None, None, t, after, None)


def flow_answer(velocity, z, positions):
    path = np.empty((len(positions), *z.shape))
    path[0] = z
    for i in range(1, len(positions)):
        path[i] = path[i - 1] - (positions[i - 1] - positions[i]) * velocity(path[i - 1], positions[i - 1])
    return path


def consistency(f, rng):
    s, x = schedule.linear(60, 1e-3, 0.2), rng.standard_normal((4, 3))
    p = lambda xt, t: (None, None, _teacher(xt, t))
    for times in ([60, 40, 20], [60], [50, 1]):
        noise = np.random.default_rng(4)
        found = attempt(lambda: list(f.consistency(p, s, x.copy(), noise, times)))
        for i in range(len(times)):
            step = found[i] if isinstance(found, list) and i < len(found) else found
            for part in ("x", "x0", "t"):
                yield f"step {i + 1}: {part}, the times {times}", getattr(step, part, step)
        after = found if isinstance(found, Exception) else noise.random()
        yield f"noise: the next number of the generator, the times {times}", after


def straightness(f, rng):
    s, x = schedule.cosine(60), rng.standard_normal((5, 2, 3))
    for t in (0, 1, 30.5, 60):
        yield f"position t = {t}", attempt(f.position, s, t)
    p = lambda xt, t: (None, None, np.tanh(xt + 0.01 * np.asarray(t)[:, None, None]))
    for times in ([60, 45, 30, 15], [60, 10], range(60, 0, -1)):
        yield f"straightness of {len(times)} steps from {times[0]}", attempt(f.straightness, p, s, x, times)


OPEN = ("Train one step by each method: examples/distill.py mnist --to 1, with --method progressive, consistency and "
        "reflow, each student for the same --train-steps (progressive trains four). Draw from each with sample.py in 1 "
        "and in 4 steps. Which one gains "
        "most by more steps, and why?",
        "The pictures of one step from each, and of four. The reflowed model is a flow at all times: it improves with "
        "steps, a little, since its paths are nearly straight. The consistent one can be asked again after new noise, "
        "which repairs strokes and loses the exact path. The last progressive student has only seen t = T: in four "
        "steps it is asked at times that it was never taught, and gets worse.")

TASKS = [
    library("18.1", "The straight path", 2, path, [schedule.straight, process.x0_from_u],
            straight=["the position u is t / (T + 1) for t = 0..T",
                      "alpha_bar is the signal's share of the squares; from_alpha_bar"],
            x0_from_u=["x_t = signal x_0 + noise eps, with signal = sqrt(alpha_bar), noise = sqrt(1 - alpha_bar)",
                       "here u is the velocity: insert eps = x_0 + u, and solve for x_0"]),
    question("18.2", "Along the flow", 2, flow, '''
def flow(velocity, z, positions):
    """Euler's method for dz/dr = velocity(z, r).

    z (N, D) at the first of the positions r -> (number of positions, N, D), z at each of them
    """
''', {"flow": flow_answer}, flow=["the velocity of a stride is that at its beginning; nothing is asked at the end"]),
    question("18.3", "Two steps in one", 2, two_in_one, '''
def two_in_one(s, teacher, xt, t, after):
    """The x_0 with which one step of DDIM from t leads where two of the teacher's lead.

    teacher(x, t): its x_0; xt (N, D); t, after (N,): from t via (t + after) / 2 to after; 0 stands for the data
    """
''', {"two_in_one": two_in_one_answer}, hints={"x_0": "solve DDIM's step, with x_0 unknown, for x_0"},
             two_in_one=["eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t); q_sample or transfer steps on",
                         "one number for each sample: s.alpha_bar[t] is (N,), which per_sample shapes; t may be "
                         "between whole numbers"]),
    library("18.4", "To x_0, and back", 2, consistency, [steps.consistency],
            hints={"noise": "new noise in each step but the last"},
            consistency=["a Step for each of the times; p(x, t) -> mean, variance, x_0, with t (N,)",
                         "q_sample with new noise of x's dtype to the next time; at the last, x_0 itself"]),
    library("18.5", "How straight", 2, straightness, [ode.straightness, ode.position],
            straightness=["predict at each time, transfer to the next; the velocity is eps - x_0",
                          "a stride's weight is position(t) - position(next), divided by their sum",
                          "the mean over samples and dimensions of the squared distance from the path's mean velocity"],
            position=["noise / (signal + noise), a number: sqrt(1 - alpha_bar) and sqrt(alpha_bar)"]),
]
