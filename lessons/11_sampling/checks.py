"""The tasks of homework 11."""

import itertools

import numpy as np
from tasks import library, question, refuses

from tinyddpm.diffusion import schedule
from tinyddpm.sampling import steps

IMPORTS = """import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.process import eps_from_x0           # the noise that leads from x0 to xt
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.steps import Step                     # Step(t, x, x0)"""


def spread(f, rng):
    for T, count in ((1000, 50), (10, 10), (1000, 1), (int(rng.integers(50, 200)), 7)):
        yield f"spread({T}, {count})", np.array(f.spread(T, count))
        yield "they are whole numbers", all(isinstance(t, (int, np.integer)) for t in f.spread(T, count))
    yield "result errors: more steps than times", refuses(f.spread, 5, 6)


def ddim(f, rng):
    s, x = schedule.linear(20, 1e-3, 0.3), rng.standard_normal((4, 3))
    for times, eta in (([20, 15, 10, 6, 1], 0.0), (list(range(20, 0, -1)), 1.0), ([20, 16, 12, 9, 5, 1], 0.5)):
        noise, count = np.random.default_rng(3), len(times)
        p = lambda xt, t: (None, None, np.tanh(xt + 0.01 * t[:, None]))
        found = list(itertools.islice(f.ddim(p, s, x.copy(), noise, times, eta), count + 1))
        yield f"the times, {count} steps, eta {eta}", [step.t for step in found]
        yield f"the next number of the generator, {count} steps, eta {eta}", noise.random()
        for step in found:
            yield f"x0 of the step from t = {step.t}, {count} steps, eta {eta}", step.x0
            yield f"x after the step from t = {step.t}, {count} steps, eta {eta}", step.x
    yield "result errors: eta 1.5", refuses(lambda: list(f.ddim(p, s, x, noise, [3, 1], 1.5)))


def ddim_invert(f, rng):
    s, x = schedule.linear(20, 1e-3, 0.3), rng.standard_normal((4, 3))
    eps = lambda x, t: np.tanh(x + 0.01 * t[:, None])
    yield "through the times 1, 5, 12, 20", f.ddim_invert(eps, s, x, [1, 5, 12, 20])
    yield "through the times 3, 4", f.ddim_invert(eps, s, x, [3, 4])


def slerp(f, rng):
    a, b = rng.standard_normal((2, 3, 2, 2))
    for weight in (0.0, 0.3, 1.0):
        yield f"slerp at {weight}", f.slerp(a, b, weight)


def invert_answer(eps, s, x, times):
    for now, after in zip(times, times[1:]):
        noise = eps(x, np.full(len(x), now))
        x0 = (x - (1 - s.alpha_bar[now])**0.5 * noise) / s.alpha_bar[now]**0.5
        x = s.alpha_bar[after]**0.5 * x0 + (1 - s.alpha_bar[after])**0.5 * noise
    return x


def slerp_answer(a, b, weight):
    out = np.empty_like(a)
    for i in range(len(a)):
        angle = np.arccos((a[i] * b[i]).sum() / np.sqrt((a[i]**2).sum() * (b[i]**2).sum()))
        out[i] = (np.sin((1 - weight) * angle) * a[i] + np.sin(weight * angle) * b[i]) / np.sin(angle)
    return out


OPEN = ("Draw with DDIM in 50 steps from the same noise times 0.8, 1 and 1.2. What changes, and why?",
        "Times 0.8 gives cleaner and thinner strokes, times 1.2 ragged and heavy ones; in a trial 12%, 14% and 16% of"
        " the pixels were bright. In 784 dimensions the length of a standard normal vector hardly varies, so the "
        "network was trained on one length only. With more noise than it expects, it takes some of the noise for "
        "strokes. With a little less, samples are more typical and less varied.")

TASKS = [
    library("11.1", "Which times DDIM visits", 1, spread, [steps.spread],
            spread=["a list of whole numbers from T down to 1, evenly spread and rounded as np.round does, without a "
                    "0 at the end; ValueError for steps outside 1..T"]),
    library("11.2", "DDIM", 4, ddim, [steps.ddim],
            ddim=["each time with the one after it in the list, 0 after the last", "p(x, t), one t for each sample, "
                                                                                   "gives mean, variance and x_0: "
                                                                                   "take the third; the noise it "
                                                                                   "implies, by eps_from_x0",
                  "sigma = eta sqrt((1 - a') / (1 - a) (1 - a / a')), a and a' being alpha_bar now and after",
                  "x = sqrt(a') x_0 + sqrt(1 - a' - sigma^2) eps, and noise times sigma only where sigma > 0: draw "
                  "none else", "it is a generator: yield Step(t, x, x_0) after each step, t the time that it started "
                               "from"]),
    question("11.3", "DDIM backwards", 3, ddim_invert, '''
def ddim_invert(eps, s, x, times):
    """From an image to the noise it would come from: DDIM's step with eta 0, taken from each time to the next, later
    one.

    eps(x, t): the predicted noise, t (N,); s: the Schedule; x (N, ...): the image at times[0]; times: rising
    -> x at the last time
    """
''', {"ddim_invert": invert_answer}, ddim_invert=["eps is asked at the time that x is at",
                                                  "x_0 from eps is Eq. 4, solved; then the last line of 11.2 with "
                                                  "sigma 0"]),
    question("11.4", "Between two latents", 2, slerp, '''
def slerp(a, b, weight):
    """From a (weight 0) to b (weight 1) along the great circle: (sin((1 - w) u) a + sin(w u) b) / sin(u), u the angle
    of a and b.

    a, b (N, ...): each sample has an angle of its own -> like a
    """
''', {"slerp": slerp_answer}, slerp=["flatten each sample to find its angle"]),
]
