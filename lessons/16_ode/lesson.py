"""Lesson 16: from noise to data by an ordinary differential equation (ODE).

    python lessons/16_ode/lesson.py [--quick]
"""

import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import clouds
import course

import tinyddpm
from tinyddpm import evaluation
from tinyddpm.diffusion import likelihood, schedule
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.sampling.samplers import SAMPLERS, choose_times
from tinyddpm.sampling.steps import ddim, ddpm, last
from tinyddpm.training import load_model

MEANS, SPREAD, WEIGHTS = np.array([-1.0, 0.5, 1.5]), 0.25, np.array([0.3, 0.5, 0.2])


def sigma(s, t):
    """Noise / signal: of y = x_t / sqrt(alpha_bar), the noise's standard deviation."""
    return np.sqrt(1 / s.alpha_bar[t] - 1)


def euler(eps, s, y, times):
    """dy / dsigma = eps, by straight strides. This is DDIM."""
    for t, after in zip(times, times[1:]):
        y = y + (sigma(s, after) - sigma(s, t)) * eps(y, t)
    return y


def heun(eps, s, y, times):
    """Each stride twice: the second time with the mean of the slopes at both ends."""
    for t, after in zip(times, times[1:]):
        h, slope = sigma(s, after) - sigma(s, t), eps(y, t)
        y = y + h * (slope + eps(y + h * slope, after)) / 2
    return y


def dpm_solver(eps, s, y, times):
    """DPM-Solver++(2M): d(y / sigma) / d(1 / sigma) = x_0, by the x_0 half way."""
    earlier = None
    for t, after in zip(times, times[1:]):
        u, end = 1 / sigma(s, t), 1 / sigma(s, after)
        h, x0 = math.log(end / u), y - sigma(s, t) * eps(y, t)
        ahead = x0                      # in the first stride, as Euler
        if earlier:                     # else on the line through the last two
            ahead = x0 + h / 2 / math.log(u / earlier[0]) * (x0 - earlier[1])
        y, earlier = (u * y + (end - u) * ahead) / end, (u, x0)
    return y


def log_density(eps, s, y, times):
    """log q of data, followed from the first time to the last, where all is noise."""
    slope = lambda y, t: (eps(y + 1e-5, t) - eps(y - 1e-5, t)) / 2e-5
    stretched = 0
    for t, after in zip(times, times[1:]):
        h, there = sigma(s, after) - sigma(s, t), heun(eps, s, y, (t, after))
        stretched = stretched + h * (slope(y, t) + slope(there, after)) / 2
        y = there
    r = sigma(s, times[-1])             # of the noise
    return stretched - y**2 / (2 * r**2) - math.log(r * math.sqrt(2 * math.pi))


def trace_estimate(transposed, D, count, rng):
    """Hutchinson: the mean of r^T J r over random signs; transposed(r) gives J^T r."""
    signs = rng.choice([-1.0, 1.0], (count, D))
    return np.mean([r @ transposed(r) for r in signs])


def main():
    lesson = course.Lesson(__file__, __doc__)
    s, rng = schedule.linear(), np.random.default_rng(16)
    x0 = clouds.perfect_x0(s, MEANS[:, None], SPREAD, WEIGHTS)
    p = clouds.reverse(s, x0)

    eps = lambda y, t: (y - x0(y[:, None] * np.sqrt(s.alpha_bar[t]), np.full(len(y), t))[:, 0]) / sigma(s, t)

    start = rng.standard_normal((300, 1))
    figure, axes = lesson.figure(1, 2, size=(8, 3), sharey=True)
    for ax, name, sampler in zip(axes, ("Algorithm 2", "the ODE"), (ddpm, ddim)):
        path = np.stack([start, *(step.x for step in sampler(p, s, start, rng, [*range(s.T, 0, -1)]))])[:, :, 0]
        ax.plot(range(s.T, -1, -1), path[:, :40], linewidth=0.6, color="0.4")
        ax.set(xlabel="t", xlim=(s.T, 0), title=name)
        print(f"{name}: {np.mean(path[-1] < -0.25):.0%} of 300 end in the cloud at -1, whose weight is 30%")
    axes[0].set(ylabel="x_t")
    lesson.save(figure, "figure_paths.png")

    # times at equal distances in sigma^(1/7), from 5 to 0.1
    times_of = lambda K: s.time(1 / (1 + np.linspace(5**(1 / 7), 0.1**(1 / 7), K + 1)**14)).tolist()
    first, end = times_of(1)
    y, counts = sigma(s, first) * rng.standard_normal(200), np.array([5, 10, 20, 40, 80])
    truth, x = clouds.arrive(s, y, first, end, MEANS, SPREAD, WEIGHTS), y[:, None] * np.sqrt(s.alpha_bar[first])
    errors, methods = {}, {"Euler (DDIM)": (euler, 1, "ddim"), "Heun": (heun, 2, "heun"),
                           "DPM-Solver++(2M)": (dpm_solver, 1, "dpmpp_2m")}
    for title, (method, evaluations, name) in methods.items():
        ends = [method(eps, s, y, times_of(K)) for K in counts]
        errors[title] = found = np.sqrt(((np.array(ends) - truth)**2).mean(axis=1))
        print(f"{title}: error {found[1]:.4f} with 10 steps, {found[3 - evaluations]:.4f} with 20 evaluations; "
              f"slope {np.log2(found[4] / found[3]):.2f}")
        *_, step, _ = SAMPLERS[name].run(p, s, x, None, times_of(10))       # without the step to t = 0
        apart = np.abs(step.x[:, 0] / np.sqrt(s.alpha_bar[end]) - ends[1]).max()
        print(f"{name} by hand and the library's: {apart:.0e}")
    curves = {title: (counts * methods[title][1], found) for title, found in errors.items()}
    lesson.curves("figure_order.png", curves, "o-", xlabel="evaluations of the network", xscale="log", yscale="log",
                  ylabel="error (root mean square)")

    # The likelihood
    data = np.linspace(-2, 2.5, 10)
    levels = np.geomspace(sigma(s, 1), sigma(s, s.T), 5 if lesson.quick else 500)
    density = log_density(eps, s, data / np.sqrt(s.alpha_bar[1]), s.time(1 / (1 + levels**2)).tolist())
    density -= np.log(s.alpha_bar[1]) / 2
    density -= np.log(clouds.density(data, s.alpha_bar[1], MEANS, SPREAD, WEIGHTS))
    print(f"log q of ten numbers, by the ODE and the truth: {np.abs(density).max():.0e}")
    J = rng.standard_normal((200, 200)) / 20 + np.eye(200) / 2
    print(f"the trace of a matrix is {np.trace(J):.1f}; Hutchinson's estimate: "
          + ", ".join(f"{trace_estimate(lambda u: J.T @ u, 200, n, rng):.1f} ({n})" for n in (1, 10, 1000)))

    tinyddpm.use("auto")
    images, _ = course.digits()
    model, preset = load_model("mnist-eps")
    few = images[-(1 if lesson.quick else 16):]
    bits = evaluation.ode_bits(model, preset, few, tolerance=1e-1 if lesson.quick else 1e-4)
    p = reverse_process(model, preset.diffusion)
    bound = likelihood.evaluate(p, p.s, few, 4 if lesson.quick else 40).summary()["total"]
    print(f"bits/dim of {len(few)} digits: {bits.mean():.2f} by the ODE, {bound[0]:.2f} by the bound")

    model, preset = load_model("mnist")
    p = reverse_process(model, preset.diffusion, np.arange(10), guidance=1.4)
    noise = np.random.default_rng(2).standard_normal((10, 28, 28, 1), dtype=np.float32)
    digits = lambda name, K: last(SAMPLERS[name].run(p, p.s, noise, None,
                                                     choose_times(p.s, K, SAMPLERS[name].spacing)))
    best, pictures = digits("dpmpp_2m", 10 if lesson.quick else 100), {}
    for title, name, steps in (("Heun, 5", "heun", 3), ("Heun, 7", "heun", 4), ("DDIM, 8", "ddim", 8),
                               ("DPM-Solver++, 8", "dpmpp_2m", 8), ("DDIM, 50", "ddim", 50)):
        pictures[title] = digits(name, steps)
        print(f"{title} evaluations: {np.sqrt(((pictures[title] - best)**2).mean()):.3f} from where the ODE leads")
    lesson.rows("figure_digits.png", pictures | {"the ODE": best}, (8, 4.6))
    lesson.end()


if __name__ == "__main__":
    course.program(main)
