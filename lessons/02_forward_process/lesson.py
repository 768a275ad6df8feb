"""Lesson 2: the forward process.

    python lessons/02_forward_process/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

from tinyddpm.diffusion import process, schedule


def step(x, beta, rng):
    """One step of the forward process (Eq. 2), as it is written."""
    return np.sqrt(1 - beta) * x + np.sqrt(beta) * rng.standard_normal(x.shape)


def walk(x0, betas, rng):
    """All steps, one after the other: slow, and surely right."""
    x = x0
    for beta in betas:
        x = step(x, beta, rng)
    return x


def jump(x0, alpha_bar, rng):
    """From x_0 to x_t at once (Eq. 4)."""
    eps = rng.standard_normal(x0.shape)
    return np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps


def pattern():
    """A cross of 8 x 8 pixels in [-1, 1]."""
    x = -np.ones((8, 8))
    x[3:5, 1:7] = x[1:7, 3:5] = 1
    return x


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(0)
    s = schedule.linear()
    print(f"T = {s.T}: beta from {s.beta[1]:g} to {s.beta[s.T]:g}")
    print(f"alpha_bar_1 = {s.alpha_bar[1]:.4f}, alpha_bar_500 = {s.alpha_bar[500]:.6f}, "
          f"alpha_bar_1000 = {s.alpha_bar[1000]:.8f}")
    assert abs(s.alpha_bar[500] - 0.0785872428818) < 1e-12

    # The jump is the walk: the same mean and spread of x_200, from a single number x_0 = 1
    count = 20_000 if lesson.quick else 200_000
    walked, jumped = walk(np.ones(count), s.beta[1:201], rng), jump(np.ones(count), s.alpha_bar[200], rng)
    print(f"x_200 from x_0 = 1 in 200 steps: mean {walked.mean():.3f}, spread {walked.std():.3f}")
    print(f"x_200 from x_0 = 1 in one jump:  mean {jumped.mean():.3f}, spread {jumped.std():.3f}")
    a = s.alpha_bar[200]
    print(f"Eq. 4 says:                      mean {np.sqrt(a):.3f}, spread {np.sqrt(1 - a):.3f}")
    assert abs(walked.mean() - jumped.mean()) < 0.02 and abs(walked.std() - jumped.std()) < 0.02
    x0, eps = rng.standard_normal((2, 5))
    product = np.prod(1 - s.beta[1:201])
    assert np.allclose(process.q_sample(s, x0, 200, eps), np.sqrt(product) * x0 + np.sqrt(1 - product) * eps)

    for t in (1, 100, 300, 500, 1000):
        image, noise = np.sqrt(s.alpha_bar[t]), np.sqrt(1 - s.alpha_bar[t])
        print(f"t = {t:4}: {image:.3f} of the image, noise of spread {noise:.3f}, signal to noise {s.snr[t]:.3g}")
    short = schedule.linear(100)
    print(f"the same betas in 100 steps leave {np.sqrt(short.alpha_bar[-1]):.2f} of the image at t = T")
    assert short.alpha_bar[-1] > 0.3

    images, _ = course.digits(4)
    digit = images[1].astype(float) / 127.5 - 1
    times = (0, 50, 100, 200, 300, 500, 700, 1000)
    rows = {}
    for name, picture in (("a cross", pattern()), ("a digit", digit)):
        noise = rng.standard_normal(picture.shape)
        rows[name] = [process.q_sample(s, picture, t, noise) if t else picture for t in times]
    lesson.rows("figure_dissolve.png", rows, (8.4, 2.5), [f"t = {t}" for t in times], -1.5, 1.5)

    figure, (first, left, right) = lesson.figure(1, 3, size=(9, 3))
    for name, table in (("linear", s), ("cosine", schedule.cosine()), ("quadratic", schedule.quadratic())):
        first.semilogy(np.arange(1, s.T + 1), table.beta[1:], label=name)
        left.plot(np.arange(s.T + 1), table.alpha_bar, label=name)
        right.semilogy(np.arange(1, s.T + 1), table.snr[1:], label=name)
    first.set(xlabel="t", ylabel="beta", title="the variance of a step's noise", ylim=(2e-5, 1.5))
    left.set(xlabel="t", ylabel="alpha_bar", title="what is left of the image")
    right.set(xlabel="t", ylabel="alpha_bar / (1 - alpha_bar)", title="signal to noise", ylim=(1e-5, 1e5))
    left.legend()
    lesson.save(figure, "figure_schedules.png")

    figure, axes = lesson.figure(1, 4, size=(7, 2.1))
    for ax, table, t in zip(axes, (s, s, short, short), (500, 1000, 50, 100)):
        course.show(ax, process.q_sample(table, digit, t, rng.standard_normal(digit.shape)), f"T = {table.T}: t = {t}",
                    -2, 2)
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
