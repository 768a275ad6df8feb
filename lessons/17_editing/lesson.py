"""Lesson 17: editing.

    python lessons/17_editing/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm import data
from tinyddpm.diffusion import process, schedule
from tinyddpm.sampling import editing
from tinyddpm.sampling.steps import ddim, last, spread
from tinyddpm.training import load_model

COVARIANCE, KNOWN = np.array([[0.5, 0.35], [0.35, 0.4]]), 0.6


class Normal:
    """The exact reverse process of N(0, COVARIANCE), and its gradient."""

    def __init__(self, s):
        self.s = s

    def __call__(self, xt, t):
        a = self.s.alpha_bar[t[0]]
        self.matrix = np.sqrt(a) * COVARIANCE @ np.linalg.inv(self.noisy(a))
        x0 = xt @ self.matrix                               # E[x_0 | x_t]
        return process.mu_from_x0(self.s, x0, xt, t), None, x0

    def backward(self, dx0):
        return dx0 @ self.matrix.T

    def noisy(self, a):
        return a * COVARIANCE + (1 - a) * np.eye(2)

    def variance_of_first(self, a):
        """Of the first number of x_0, given x_t."""
        return (COVARIANCE - a * COVARIANCE @ np.linalg.inv(self.noisy(a)) @ COVARIANCE)[0, 0]


def replaced(p, s, known, y):
    """A reverse process whose x_0 has the known part of y."""
    def edited(xt, t):
        _, variance, x0 = p(xt, t)
        x0 = np.where(known, y, x0)
        return process.mu_from_x0(s, x0, xt, t), variance, x0
    return edited


def reconstructed(p, s, known, y, uncertainty):
    """A reverse process that is guided to y: the score of y | x_t, by backward."""
    def edited(xt, t):
        a = s.alpha_bar[t[0]]
        _, variance, x0 = p(xt, t)
        score = p.backward(known * (y - x0)) / uncertainty(a)
        x0 = x0 + (1 - a) / np.sqrt(a) * score              # Tweedie, as in lesson 15
        return process.mu_from_x0(s, x0, xt, t), variance, x0
    return edited


def noised(s, x, t, later, rng):
    """x_t with the noise that brings it to a later time."""
    kept = s.alpha_bar[later] / s.alpha_bar[t]
    return np.sqrt(kept) * x + np.sqrt(1 - kept) * rng.standard_normal(x.shape)


def resampled(p, s, x, rng, times, jump, repeats):
    """Walk `jump` steps (DDIM with eta = 1) `repeats` times, with noise in between."""
    for i in range(0, len(times), jump):
        end = times[i + jump] if i + jump < len(times) else 0
        for again in range(repeats):
            if again:
                x = noised(s, x, end, times[i], rng)
            for _, step in zip(range(jump), ddim(p, s, x, rng, times[i:], eta=1.0)):
                x = step.x
    return x


def seam(x):
    """How much neighbouring pixels differ across the middle column."""
    return np.abs(x[:, :, 14] - x[:, :, 13]).mean()


def main():
    lesson = course.Lesson(__file__, __doc__)
    s, rng, count = schedule.linear(), np.random.default_rng(17), 500 if lesson.quick else 5000
    true_mean = COVARIANCE[1, 0] / COVARIANCE[0, 0] * KNOWN
    true_spread = np.sqrt(COVARIANCE[1, 1] - COVARIANCE[1, 0]**2 / COVARIANCE[0, 0])
    print(f"the second number, if the first is {KNOWN}: {true_mean:.3f} +- {true_spread:.3f}, the truth")
    p, known, y = Normal(s), np.array([[True, False]]), np.array([[KNOWN, 0.0]])
    times, noise = spread(s.T, 200), rng.standard_normal((count, 2))
    guided = lambda uncertainty: replaced(reconstructed(p, s, known, y, uncertainty), s, known, y)
    found = {"replacement": last(ddim(replaced(p, s, known, y), s, noise, None, times)),
             "replacement, eta = 1": last(ddim(replaced(p, s, known, y), s, noise, rng, times, eta=1.0)),
             "resampling, 4": resampled(replaced(p, s, known, y), s, noise, rng, times, 5, 4),
             "resampling, 12": resampled(replaced(p, s, known, y), s, noise, rng, times, 5, 12),
             "reconstruction": last(ddim(guided(lambda a: 1 - a), s, noise, None, times)),
             "reconstruction, exact variance": last(ddim(guided(p.variance_of_first), s, noise, None, times))}
    for name, x in found.items():
        print(f"{name}: {x[:, 1].mean():.3f} +- {x[:, 1].std():.3f}; the first number is {KNOWN} "
              f"to within {np.abs(x[:, 0] - KNOWN).max():.0e}")
    both = (reconstructed(p, s, known, y, lambda a: 1 - a),
            editing.reconstructed(p, s, editing.masked(known), known * y, clip=False))
    mine, library = (last(ddim(edited, s, noise, None, times)) for edited in both)
    print(f"reconstruction by hand and the library's: {np.abs(mine - library).max():.0e}")

    figure, axes = lesson.figure(1, 4, size=(9, 2.5), sharey=True)
    cloud = noise @ np.linalg.cholesky(COVARIANCE).T
    axes[0].plot(*cloud[:500].T, ".", markersize=2, color="0.7")
    axes[0].axvline(KNOWN)
    axes[0].set(xlabel="first number", ylabel="second number", title="what is known", ylim=(-2, 2))
    line = np.linspace(-2, 2, 200)
    for ax, name in zip(axes[1:], ("replacement", "resampling, 12", "reconstruction")):
        ax.hist(found[name][:, 1], np.linspace(-2, 2, 50), density=True, orientation="horizontal", color="0.8")
        ax.plot(np.exp(-((line - true_mean) / true_spread)**2 / 2) / true_spread / np.sqrt(2 * np.pi), line)
        ax.set(xlabel="density", title=name)
    lesson.save(figure, "figure_normal.png")

    tinyddpm.use("auto")
    model, preset = load_model("mnist")
    x0 = data.scaled(course.digits()[0][-8:])
    left = np.zeros((1, 28, 28, 1), np.float32)
    left[:, :, :14] = 1

    def edit(measurement, method="reconstruction", steps=4 if lesson.quick else 50, **options):
        return editing.edit(model, preset.diffusion, x0, measurement, method, steps=steps, **options)

    half, small = editing.masked(left), editing.smaller(4)
    rows = {"image": x0, "known": np.where(left, x0, -0.3)}
    rows |= {method: edit(half, method) for method in editing.METHODS}
    for method in editing.METHODS:
        print(f"{method}: known pixels differ by {np.abs((rows[method] - x0) * left).max():.0e}, "
              f"neighbours across the seam by {seam(rows[method]):.2f}")
    print(f"in the images themselves: {seam(x0):.2f}")
    lesson.rows("figure_half.png", rows, (8, 4))
    lesson.rows("figure_larger.png", {"image": x0, "known: 7 x 7": small.back(small.of(x0)), "answer": edit(small),
                                      "another": edit(small, seed=1)}, (8, 3.4))
    lesson.rows("figure_varied.png", {"image": x0} | {f"{strength:.0%} of the way": edit(None, strength=strength)
                                                      for strength in (0.5, 0.7, 0.85)}, (8, 3.4))
    lesson.end()


if __name__ == "__main__":
    course.program(main)
