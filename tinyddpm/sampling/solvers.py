"""Samplers that solve the probability-flow ODE (Song et al. 2021) with fewer evaluations of the network than DDIM.

With noise / signal sigma = sqrt(1 / alpha_bar - 1) as the time and y = x_t / sqrt(alpha_bar), the ODE is
dy / dsigma = eps, where eps is the noise that p finds in x_t. Euler's method on it is DDIM, whose error at the end is
in proportion to the length of the steps: order 1. The methods here use two or more evaluations for each step, so that
the error falls as the square of the length, or faster. Their signature is that of all samplers, see steps.py.
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.process import eps_from_x0, q_sample, x0_from_eps, x0_from_v
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.steps import Step, noised, pairs


STIRRED = 0.05, 50.0        # the range of noise / signal in which `edm` adds noise


def predict(p, s, x, t):
    """The x_0 and the eps that p finds in x at time t."""
    _, _, x0 = p(x, np.full(len(x), t))
    return x0, eps_from_x0(s, x0, x, t)


def transfer(s, x, eps, t, previous):
    """x at time t moved along a given eps to the time `previous`: a step of DDIM."""
    return q_sample(s, x0_from_eps(s, x, t, eps), previous, eps)


def heun(p, s, x, rng, times):
    """Heun's method, as in EDM (Karras et al. 2022, Algorithm 1): order 2, two evaluations a step, one in the last.

    Euler's step finds where to look, and the step is repeated with the mean of the slopes at both ends.
    """
    for t, previous in pairs(times):
        x0, eps = predict(p, s, x, t)
        if previous:
            _, ahead = predict(p, s, transfer(s, x, eps, t, previous), previous)
            eps = (eps + ahead) / 2
        x = transfer(s, x, eps, t, previous) if previous else x0
        yield Step(t, x, x0)


def edm(p, s, x, rng, times, churn=5.0):
    """Heun's method with new noise before each step, which undoes old errors (Karras et al. 2022, Algorithm 2).

    churn: raises noise / signal by 1 + churn / steps, at most sqrt(2) times, where it is within STIRRED
    """
    for t, previous in pairs(times):
        sigma, later = np.sqrt(1 / s.alpha_bar[t] - 1), t
        if STIRRED[0] < sigma < STIRRED[1]:
            sigma = sigma * min(1 + churn / len(times), 2**0.5)
            later = max(t, float(s.time(1 / (1 + sigma**2))))
            x = noised(s, x, t, later, rng)
        step = next(heun(p, s, x, rng, [later, previous] if previous else [later]))
        x = step.x
        yield step._replace(t=t)


def plms(p, s, x, rng, times):
    """The linear multistep method of PNDM (Liu et al. 2022): one evaluation a step, one more in the first.

    The eps of a step are those of Adams and Bashforth, from up to four evaluations at equal distances. Order 3 where
    the distances are equal in sigma, else 2.
    """
    weights = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
    found = []                                                          # eps, the newest first
    for t, previous in pairs(times):
        x0, eps = predict(p, s, x, t)
        found = [eps, *found[:3]]
        if len(found) > 1:
            eps = sum(weight * one for weight, one in zip(weights[len(found)], found))
        elif previous:
            eps = (eps + predict(p, s, transfer(s, x, eps, t, previous), previous)[1]) / 2
        x = transfer(s, x, eps, t, previous)
        yield Step(t, x, x0)


def dpmpp_2m(p, s, x, rng, times):
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): order 2, one evaluation a step.

    With lambda = log(signal / noise) as the time, the ODE is linear but for x_0, which is extrapolated from this
    evaluation and the one before.
    """
    earlier = None                                                      # lambda and x0 of the step before
    for t, previous in pairs(times):
        _, _, x0 = p(x, np.full(len(x), t))
        here, h = log_ratio(s, t), log_ratio(s, previous) - log_ratio(s, t)
        ahead = x0
        if earlier and previous:
            ahead = x0 + per_sample(h / 2 / (here - earlier[0]), x) * (x0 - earlier[1])
        x, earlier = towards(s, x, ahead, t, previous), (here, x0)
        yield Step(t, x, x0)


def dpm_2(p, s, x, rng, times):
    """DPM-Solver++(2S) (Lu et al. 2022, Algorithm 1): order 2, two evaluations a step, one in the last.

    The x_0 of a step is that in its middle, by lambda.
    """
    for t, previous in pairs(times):
        _, _, x0 = p(x, np.full(len(x), t))
        ahead = x0
        if previous:
            ratio = (log_ratio(s, t) + log_ratio(s, previous)) / 2
            middle = float(s.time(1 / (1 + np.exp(-2 * ratio))))
            _, _, ahead = p(towards(s, x, x0, t, middle), np.full(len(x), middle))
        x = towards(s, x, ahead, t, previous)
        yield Step(t, x, x0)


def log_ratio(s, t):
    """lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)), infinite for the data."""
    with np.errstate(divide="ignore"):
        return np.log(s.alpha_bar[t] / (1 - s.alpha_bar[t])) / 2


def towards(s, x, x0, t, previous):
    """x at time t moved to the time `previous` where x_0 is the same all the way: a step of DDIM, too."""
    return q_sample(s, x0, previous, eps_from_x0(s, x0, x, t))


# ---- steps as long as the error allows ----

def rk45(p, s, x, rng, times, tolerance=1e-4):
    """The method of Dormand and Prince: order 5, six evaluations a step; only the first and the last time matter.

    tolerance: of the error of a step, relative and absolute. The last step goes to the x_0 found at the last time.
    Raises ValueError for a tolerance that is not positive.
    """
    for t, x, v in flow(p, s, x, times[0], times[-1], tolerance):
        x0 = x0_from_v(s, x, t, v)
        yield Step(t, x0 if t == times[-1] else x, x0)


def flow(p, s, x, start, end, tolerance=1e-6):
    """Solve the probability-flow ODE from time `start` to `end`, in either direction: yields t, x and the velocity.

    With the angle phi, cos(phi) = sqrt(alpha_bar), as the time, the ODE is dx / dphi = v (Salimans and Ho 2022), which
    neither grows nor vanishes at the ends.
    """
    first, last = angle_at(s, start), angle_at(s, end)
    for angle, x, v in dormand_prince(lambda angle, x: velocity(p, s, x, angle), x, first, last, tolerance):
        yield end if angle == last else time_at(s, angle), x, v


def velocity(p, s, x, angle):
    """v = dx / dphi = (cos(phi) x - x_0) / sin(phi) at this angle."""
    _, _, x0 = p(x, np.full(len(x), time_at(s, angle)))
    return (per_sample(np.cos(angle), x) * x - x0) / per_sample(np.sin(angle), x)


def angle_at(s, t):
    return float(np.arccos(np.sqrt(s.alpha_bar[t])))


def time_at(s, angle):
    return float(s.time(np.cos(angle)**2))


NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
WEIGHTS = ((), (1 / 5,), (3 / 40, 9 / 40), (44 / 45, -56 / 15, 32 / 9),
           (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
           (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
           (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84))
SHORTEST = 1e-4             # step, of the whole way
ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dormand_prince(f, y, start, end, tolerance):
    """Solve dy / dz = f(z, y) with steps as long as the error allows (Dormand and Prince 1980): yields z, y, f(z, y).

    The error is the root mean square over all elements. Raises ValueError for a tolerance that is not positive, or
    so small that a step would be shorter than SHORTEST of the way: with float32, rounding is larger.
    """
    if not tolerance > 0:
        raise ValueError(f"the tolerance is {tolerance}; expected more than 0")
    xp = array_module(y)
    z, h, slope = start, (end - start) / 50, f(start, y)
    while z != end:
        h = end - z if abs(h) >= abs(end - z) else h
        new, slopes = dormand_prince_step(f, z, y, h, slope)
        error = h * sum(weight * one for weight, one in zip(ERROR, slopes) if weight)
        scale = tolerance * (1 + xp.maximum(abs(y), abs(new)))
        error = float(xp.sqrt(((error / scale)**2).mean()))
        if error <= 1:
            z, y, slope = (end if h == end - z else z + h), new, slopes[-1]
            yield z, y, slope
        h *= min(5, max(0.2, 0.9 * error**-0.2)) if error else 5
        if abs(h) < SHORTEST * abs(end - start) < abs(end - z):
            raise ValueError(f"the tolerance {tolerance:g} is less than the rounding allows: choose a larger one")


def dormand_prince_step(f, z, y, h, slope):
    """y after one step of length h, and the seven slopes, first that at z and last that at z + h."""
    slopes = [slope]
    for node, weights in zip(NODES[1:], WEIGHTS[1:]):
        at = y + sum(h * weight * one for weight, one in zip(weights, slopes) if weight)
        slopes.append(f(z + node * h, at))
    return at, slopes
