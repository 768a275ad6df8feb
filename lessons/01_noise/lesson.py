"""Lesson 1: arrays, noise and a first picture.

    python lessons/01_noise/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course


def scaled(images):
    """uint8 0..255 -> float64 -1..1"""
    return images.astype(np.float64) / 127.5 - 1


def fit(x):
    """Mean and covariance of images (N, 28, 28, 1), as points in 784 dimensions."""
    points = x.reshape(len(x), -1)
    mean = points.mean(axis=0)
    centred = points - mean
    return mean, centred.T @ centred / len(points)


def draw(mean, covariance, z):
    """Points of N(mean, covariance) from standard normal z (N, D).

    covariance = V diag(w) V^T, so x = mean + V sqrt(w) z
    """
    w, V = np.linalg.eigh(covariance)
    return mean + (z * np.sqrt(np.maximum(w, 0))) @ V.T


def log_density(x, mean, variance):
    """log N(x; mean, variance) for numbers."""
    return -(x - mean)**2 / (2 * variance) - 0.5 * np.log(2 * np.pi * variance)


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(0)

    images, _ = course.digits(1000 if lesson.quick else 5000)
    x = scaled(images)
    print(f"one image: {images[0].shape} {images[0].dtype}; scaled, all lie between {x.min():g} and {x.max():g}")

    z = rng.standard_normal(1_000_000)
    print(f"a million standard normal numbers: mean {z.mean():.4f}, variance {z.var():.4f}, within 1 of 0: "
          f"{np.mean(abs(z) < 1):.4f}")
    a, b = 3 * rng.standard_normal(1_000_000), 4 * rng.standard_normal(1_000_000)
    print(f"spreads 3 and 4, added: spread {np.std(a + b):.3f}; variances add, 9 + 16 = 25")
    grid = np.linspace(-60, 60, 20001)
    area = np.exp(log_density(grid, 1, 25)).sum() * (grid[1] - grid[0])
    print(f"the density of N(1, 25) covers an area of {area:.6f}")
    assert abs(z.mean()) < 0.01 and abs(np.std(a + b) - 5) < 0.05 and abs(area - 1) < 1e-6

    # Bytes wrap around: the same sum of image and noise in uint8 and in floating point
    print(f"250 + 10 in uint8: {(np.array([250], np.uint8) + np.array([10], np.uint8))[0]}")
    noise = 40 * rng.standard_normal(images[0].shape)
    wrapped, right = images[0] + noise.astype(np.int8).astype(np.uint8), x[0] + noise / 127.5
    far = np.abs(wrapped.astype(float) - np.clip(images[0] + noise, 0, 255)) > 100
    print(f"noise added in uint8: {np.mean(far):.0%} of the pixels wrapped around")

    # A first generative model: a Gaussian in 784 dimensions
    mean, covariance = fit(x)
    pixels = draw(mean, np.diag(np.diag(covariance)), rng.standard_normal((8, 784)))
    joint = draw(mean, covariance, rng.standard_normal((8, 784)))
    kept = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    count = np.searchsorted(np.cumsum(kept), 0.9 * kept.sum()) + 1
    print(f"of 784 directions, {count} hold 90% of the variance of digits")
    again = draw(mean, covariance, rng.standard_normal((20_000, 784)))
    difference = np.abs(np.cov(again.T, bias=True) - covariance).max()
    print(f"20,000 samples: their covariance differs from the data's by at most {difference:.3f}")
    assert np.abs(again.mean(axis=0) - mean).max() < 0.05

    rows = {"data": x[:8], "each pixel\nby itself": pixels, "one Gaussian": joint}
    lesson.rows("figure_gaussian.png", {name: found.reshape(8, 28, 28) for name, found in rows.items()}, size=(8, 3))

    figure, axes = lesson.figure(1, 4, size=(8.4, 2.4), gridspec_kw={"width_ratios": (1, 1, 1, 1.3)})
    pictures = {"a digit": x[0], "noise in floating point": right, "noise in uint8": wrapped / 127.5 - 1}
    for ax, (title, picture) in zip(axes, pictures.items()):
        course.show(ax, picture, title)
    axes[3].hist(z[:100_000], 100, density=True, color="0.8", label="samples")
    axes[3].plot(grid[9000:11001], np.exp(log_density(grid[9000:11001], 0, 1)), label="N(0, 1)")
    axes[3].set(xlim=(-4, 4), ylim=(0, 0.6), xlabel="z", ylabel="density")
    axes[3].legend(loc="upper center", ncols=2, fontsize="small", columnspacing=1)
    lesson.save(figure, "figure_noise.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
