"""Lesson 18: flows and one step.

    python lessons/18_flows/lesson.py [--quick]
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import clouds
import course

import tinyddpm
from tinyddpm.data import Dataset
from tinyddpm.diffusion import schedule
from tinyddpm.diffusion.process import eps_from_x0, q_sample
from tinyddpm.sampling.generate import generate
from tinyddpm.sampling.ode import straightness
from tinyddpm.sampling.samplers import choose_times
from tinyddpm.sampling.solvers import heun
from tinyddpm.sampling.steps import ddim, last
from tinyddpm.training import Trainer, distill, load_model

BATCH, GRID, LINE = 256, 8, np.array([[-1.5], [0.3], [1.5]])


def velocity(z, r, means):
    """E[eps - x_0 | z] for clouds, where z = (1 - r) x_0 + r eps."""
    away, variance = z[:, None] - (1 - r) * means, ((1 - r) * clouds.SIGMA)**2 + r**2
    share = np.array(clouds.WEIGHTS) * np.exp(-(away**2).sum(axis=2) / (2 * variance))
    share /= share.sum(axis=1, keepdims=True)               # of each cloud, given z
    each = means + (1 - r) * clouds.SIGMA**2 / variance * away      # E[x_0 | z, cloud]
    return (z - (share[:, :, None] * each).sum(axis=1)) / r


def flow(velocity, z, positions):
    """Euler's method: z at each of the positions, from noise (1) to data (0)."""
    path = [z]
    for r, after in zip(positions, positions[1:]):
        path.append(path[-1] + (after - r) * velocity(path[-1], r))
    return np.array(path)


def move(s, x, x0, t, after):
    """A step of DDIM, along the line from noise to x_0."""
    return q_sample(s, x0, after, eps_from_x0(s, x0, x, t))


def two_in_one(s, teacher, xt, t, after):
    """The x_0 with which one step from t leads where two of the teacher's lead."""
    middle = (t + after) / 2
    x = move(s, xt, teacher(xt, t), t, middle)
    end = move(s, x, teacher(x, middle), middle, after)
    kept = np.sqrt((1 - s.alpha_bar[after]) / (1 - s.alpha_bar[t]))[:, None]
    a, b = (np.sqrt(s.alpha_bar[time])[:, None] for time in (t, after))
    return (end - kept * xt) / (b - kept * a)


def further_on(s, teacher, student, xt, t, after):
    """What the student finds a step further on; after the last, the teacher's x_0."""
    x0 = teacher(xt, t)
    ahead = student(move(s, xt, x0, t, after), np.maximum(after, 1))
    return np.where(after[:, None] > 0, ahead, x0)


def students(s, teacher, means, rng, steps, watch):
    """Train students of one step; watch(title) gives the watch of each. Returns the x_0 of the reflowed one."""
    D = means.shape[1]

    def noisy(grid, target):
        """x_t and t, of so many equal strides, and what a student learns there, target(x_t, t, the next time)."""
        t = s.T * rng.integers(1, grid + 1, BATCH) / grid
        xt = q_sample(s, clouds.draw(BATCH, rng, means), t, rng.standard_normal((BATCH, D)))
        return xt, t, target(xt, t, t - s.T / grid)

    def halved(grid, above, title, steps, start=None):
        return clouds.learn(D, lambda _: noisy(grid, lambda *at: two_in_one(s, above, *at)), steps, watch(title), start)

    model, above = None, teacher
    for grid in (16, 8, 4, 2, 1):
        model, above = halved(grid, above, "progressive", steps // 5, model)
    halved(1, teacher, "two steps in one, at once", steps)
    step = lambda student: lambda *at: further_on(s, teacher, student, *at)
    clouds.learn(D, lambda student: noisy(GRID, step(student)), steps, watch("consistency"))
    noise = rng.standard_normal((steps // 30 * BATCH, D))
    ends = last(heun(clouds.reverse(s, teacher), s, noise, None, choose_times(s, 30, "sigma")))

    def reflow(student):
        chosen, t = rng.integers(len(noise), size=BATCH), rng.integers(1, s.T + 1, BATCH)
        return q_sample(s, ends[chosen], t, noise[chosen]), t, ends[chosen]

    return clouds.learn(D, reflow, steps, watch("reflow"))[1]


def main():
    lesson = course.Lesson(__file__, __doc__)
    tinyddpm.use("auto")
    rng, s, steps = np.random.default_rng(18), schedule.straight(), 60 if lesson.quick else 1500
    positions, start = np.linspace(1, 0, 201), rng.standard_normal((40, 1))
    u = lambda z, r: velocity(z, r, LINE)
    path, straight = flow(u, start, positions), lambda x0: start + (1 - positions)[:, None, None] * (x0 - start)
    clouds.paths(lesson, "figure_paths.png", positions, {
        "at random": straight(clouds.draw(40, rng, LINE)), "the flow": path, "along the flow": straight(path[-1])})
    times, p = np.arange(s.T, 0, -100), clouds.reverse(s, clouds.perfect_x0(s, LINE))
    z = start / np.sqrt(s.alpha_bar[s.T]) * (1 - s.T / (s.T + 1))               # x_T on the straight path
    apart = np.abs(flow(u, z, [*times / (s.T + 1), 0])[-1] - last(ddim(p, s, start, None, times))).max()
    print(f"ten steps of Euler along the straight path, and of DDIM: {apart:.0e}")
    one = flow(u, start, [1, 0])[-1]
    print(f"one step: from {one.min():.3f} to {one.max():.3f}; the data's mean is {LINE[:, 0] @ clouds.WEIGHTS:.3f}")
    for name, means in {"a line": LINE, "the plane": clouds.MEANS}.items():
        teacher, noise, curves = clouds.perfect_x0(s, means), rng.standard_normal((1000, means.shape[1])), {}
        p, end = clouds.reverse(s, teacher), np.full(1000, s.T)
        truth = last(heun(p, s, noise, None, choose_times(s, 200, "sigma")))
        error = lambda x: np.sqrt(((x - truth)**2).sum(axis=1).mean())
        for K in (1, 2, 4, 8):
            found = error(last(ddim(p, s, noise, None, choose_times(s, K, "strides"))))
            print(f"{name}, the perfect network with {K} step{'s' * (K > 1)}: {found:.2f}")
        watch = lambda title: lambda x0: curves.setdefault(title, []).append(error(x0(noise, end)))
        reflowed = students(s, teacher, means, rng, steps, watch)
        for title, errors in curves.items():
            print(f"{name}, one step, {title}: {errors[-1]:.2f}")
        before, after = (straightness(q, s, noise, choose_times(s, 50, "strides"))
                         for q in (p, clouds.reverse(s, reflowed)))
        print(f"{name}, how far paths are from straight: {before:.3f}, after reflow {after:.4f}")
    its = SimpleNamespace(s=s, process=lambda labels: p)
    apart = distill.Progressive.target(its, noise, 0, 0, end, end / 2, 0) - two_in_one(s, teacher, noise, end, end / 2)
    print(f"two steps in one, by hand and the library's: {np.abs(apart).max():.0e}")
    lesson.curves("figure_errors.png", {title: (50 * np.arange(1, len(e) + 1), e) for title, e in curves.items()},
                  xlabel="steps of training", ylabel="error of one step, in the plane", ylim=(0, 2))
    model, preset = load_model("mnist")
    student = Trainer(distill.student_preset(preset, 1, "consistency").override(
        steps=2 if lesson.quick else 200, lr=1e-3, lr_final=5e-5, warmup=50, ema_decay=0.98))
    student.model.flat_values[...] = student.optimizer.ema[...] = model.flat_values
    student.lesson, digits = distill.Consistency(model, preset, student, 1), Dataset(*course.digits())
    while student.progress < 1:
        student.step(*digits.batch(student.steps_done, 64, seed=0))
    how, rows = dict(seed=1, labels=np.arange(10), spacing="strides"), {}
    with student.averaged() as found:
        for K in (1, 2, 4):
            rows[f"teacher, {K}"] = generate(model, preset.diffusion, 10, sampler="ddim", steps=K, guidance=1.4, **how)
            rows[f"student, {K}"] = generate(found, preset.diffusion, 10, sampler="consistency", steps=K, **how)
    lesson.rows("figure_digits.png", rows, (8, 4.6))
    lesson.end()


if __name__ == "__main__":
    course.program(main)
