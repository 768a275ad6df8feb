"""Lesson 3: the reverse process without a network.

    python lessons/03_reverse_process/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

from tinyddpm.diffusion import process, schedule
from tinyddpm.sampling.steps import ddim, ddpm, last

MEANS, WEIGHTS, SIGMA = np.array([[-1.5, 0.0], [1.0, 1.2], [1.0, -1.2]]), np.array([0.5, 0.3, 0.2]), 0.15


def data(count, rng):
    """Points of the mixture: three little clouds."""
    return MEANS[rng.choice(3, count, p=WEIGHTS)] + SIGMA * rng.standard_normal((count, 2))


def perfect_eps(x, alpha_bar):
    """E[eps | x_t = x]: what the best of all networks would answer. x (N, 2)"""
    away = x[:, None] - np.sqrt(alpha_bar) * MEANS                       # (N, 3, 2)
    variance = alpha_bar * SIGMA**2 + 1 - alpha_bar     # of x_t around each noisy mean
    logits = np.log(WEIGHTS) - (away**2).sum(axis=2) / (2 * variance)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)           # how likely each cloud is
    return np.sqrt(1 - alpha_bar) / variance * (p[:, :, None] * away).sum(axis=1)


def log_density(x, alpha_bar):
    """log q(x_t), without its constant."""
    away = ((x[:, None] - np.sqrt(alpha_bar) * MEANS)**2).sum(axis=2)
    variance = alpha_bar * SIGMA**2 + 1 - alpha_bar
    return np.log((WEIGHTS * np.exp(-away / (2 * variance))).sum(axis=1))


def backwards(s, x, rng, noise=1):
    """Algorithm 2 with the perfect noise: x_T (N, 2) -> all of x_T, ..., x_0."""
    path = [x]
    for t in range(s.T, 0, -1):
        eps = perfect_eps(x, s.alpha_bar[t])
        mean = process.mu_from_eps(s, x, t, eps)        # Eq. 11
        z = rng.standard_normal(x.shape) if t > 1 else 0
        x = mean + noise * np.sqrt(s.beta[t]) * z
        path.append(x)
    return path


def shares(x):
    """The share of the points that are nearest to each cloud, and their spread around its mean."""
    away = ((x[:, None] - MEANS)**2).sum(axis=2)
    return np.bincount(away.argmin(axis=1), minlength=3) / len(x), np.sqrt(away.min(axis=1).mean() / 2)


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(0)
    s, count = schedule.linear(), 500 if lesson.quick else 4000

    # The mean of q(x_{t-1} | x_t) by brute force, for walks of ten large steps that pass near x_5 = 0.3
    ten, t, few = schedule.linear(10, 0.02, 0.6), 5, 20_000 if lesson.quick else 2_000_000
    a = np.sqrt(ten.alpha_bar[t]) * 0.3 / (1 - ten.alpha_bar[t])
    for name, starts, x0 in (("1", [1.0], 1.0), ("-1 or 1", [-1.0, 1.0], np.tanh(a))):
        before = process.q_sample(ten, rng.choice(starts, few), t - 1, rng.standard_normal(few))
        near = before[abs(process.q_step(ten, before, t, rng.standard_normal(few)) - 0.3) < 0.02]
        mean, variance = process.q_posterior(ten, np.full(1, x0), np.full(1, 0.3), t)
        print(f"x_4 of walks from {name} with x_5 near 0.3: mean {near.mean():.3f}, variance {near.var():.3f}")
        doubt = process.posterior_coefficients(ten, t)[0]**2 * (1 - x0**2)               # of x_0, -1 or 1 with mean x0
        print(f"  Eq. 7 with x_0 = {x0:.3f}: mean {mean[0]:.3f}, variance {variance:.3f} + {doubt:.3f}")
        assert max(abs(near.mean() - mean[0]), abs(near.var() - variance - doubt)) < (0.1 if lesson.quick else 0.01)

    # Predicting the noise is predicting the score: eps = -sqrt(1 - alpha_bar) times the slope of log q
    x, h = rng.standard_normal((5, 2)), 1e-5
    slope = np.stack([(log_density(x + h * e, 0.5) - log_density(x - h * e, 0.5)) / (2 * h) for e in np.eye(2)], axis=1)
    difference = np.abs(perfect_eps(x, 0.5) + np.sqrt(0.5) * slope).max()
    print(f"the perfect noise against the slope of log q(x_t): they differ by {difference:.0e}")
    assert difference < 1e-8

    start = rng.standard_normal((count, 2))
    path = backwards(s, start, np.random.default_rng(1))
    found, spread = shares(path[-1])
    print(f"share of the points in each cloud: {', '.join(f'{a:.2f}' for a in found)}; it should be 0.50, 0.30, 0.20")
    print(f"their spread around the clouds' means: {spread:.3f}; the data's is {SIGMA}")
    assert np.abs(found - WEIGHTS).max() < 0.08 and abs(spread - SIGMA) < 0.03
    p = lambda x, t: process.p_mean_variance(
        s, process.x0_from_eps(s, x, t, perfect_eps(x, s.alpha_bar[t[0]])), x, t, clip=False)
    library = last(ddpm(p, s, start, np.random.default_rng(1), range(s.T, 0, -1)))
    print(f"the library's Algorithm 2 with the same noise: the points differ by {np.abs(library - path[-1]).max():.0e}")
    still = backwards(s, start, np.random.default_rng(1), noise=0)[-1]
    half = last(ddim(p, s, start, None, range(s.T, 0, -1)))

    figure, axes = lesson.figure(1, 5, size=(9, 2.2), sharex=True, sharey=True)
    for ax, t in zip(axes, (1000, 500, 250, 100, 0)):
        ax.plot(*path[s.T - t][:1500].T, ".", markersize=1.5)
        ax.set(title=f"t = {t}", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xlabel="first coordinate")
    axes[0].set(ylabel="second")
    lesson.save(figure, "figure_particles.png")

    figure, axes = lesson.figure(1, 3, size=(9, 3.1), sharex=True, sharey=True)
    side = np.linspace(-3, 3, 17)
    points = np.stack(np.meshgrid(side, side), axis=2).reshape(-1, 2)
    for ax, t in zip(axes, (600, 250, 50)):
        arrows = -perfect_eps(points, s.alpha_bar[t])
        ax.quiver(*points.T, *arrows.T, color="0.4", width=0.004)
        ax.plot(*process.q_sample(s, data(300, rng), t, rng.standard_normal((300, 2))).T, ".", markersize=2)
        ax.set(title=f"-eps at t = {t}", xlabel="first coordinate")
    axes[0].set(ylabel="second coordinate")
    lesson.save(figure, "figure_score.png")

    sides = np.stack(path)[:, :, 0] > 0                                  # of t = T, ..., 0
    stay = {t: np.mean((sides[s.T - t:] == sides[-1]).all(axis=0)) for t in (400, 300, 200, 100)}
    print("walks that keep their sign from t on: " + ", ".join(f"{t}: {share:.0%}" for t, share in stay.items()))
    walks = np.stack(backwards(s, start[:40], np.random.default_rng(2)))[:, :, 0]
    figure, (left, right) = lesson.figure(1, 2, size=(9, 3.2), gridspec_kw={"width_ratios": (3, 1)}, sharey=True)
    left.plot(np.arange(s.T, -1, -1), walks, linewidth=0.5, color="0.5")
    left.set(xlabel="t", ylabel="first coordinate", xlim=(s.T, 0), title="forty walks back")
    right.hist(path[-1][:, 0], 60, orientation="horizontal", density=True)
    right.set(title=f"where {count:,} end", xlabel="density")
    lesson.save(figure, "figure_walks.png")

    figure, axes = lesson.figure(1, 3, size=(9, 2.8), sharex=True, sharey=True)
    for ax, points, title in zip(axes, (path[-1], still, half),
                                 ("Algorithm 2", "without its noise", "half the way, no noise")):
        ax.plot(*points[:1500].T, ".", markersize=1.5)
        ax.set(title=title, xlabel="first coordinate")
    axes[0].set(ylabel="second coordinate")
    lesson.save(figure, "figure_wrong.png")
    for points, what in ((still, "without the noise of each step"), (half, "half the way in each step, no noise")):
        found, spread = shares(points)
        print(f"{what}: spread {spread:.3f}, shares " + ", ".join(f"{a:.2f}" for a in found))
    assert shares(still)[1] < 0.8 * SIGMA and abs(spread - SIGMA) < 0.03
    lesson.end()


if __name__ == "__main__":
    course.program(main)
