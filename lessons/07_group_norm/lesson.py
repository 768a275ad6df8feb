"""Lesson 7: group normalization and its backward, expanded and collapsed.

    python lessons/07_group_norm/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

from tinyddpm import gradcheck, ops

EPS = 1e-6


def normalize(x):
    """Each row to mean 0 and variance 1, every intermediate kept. x (R, n): a row is a group of a sample, with its n numbers"""
    mean = x.sum(axis=1, keepdims=True) / x.shape[1]
    centred = x - mean
    squared = centred**2
    variance = squared.sum(axis=1, keepdims=True) / x.shape[1]
    rstd = 1 / np.sqrt(variance + EPS)
    y = centred * rstd
    return y, (centred, rstd)


def expanded_backward(dy, cache):
    """One line for each line of the forward, from the last to the first."""
    centred, rstd = cache
    n = centred.shape[1]
    dcentred = dy * rstd                                                     # y = centred * rstd
    drstd = (dy * centred).sum(axis=1, keepdims=True)
    dvariance = drstd * -0.5 * rstd**3                                       # rstd = (variance + EPS)^(-1/2)
    dsquared = np.ones((1, n)) * dvariance / n                               # variance = sum(squared) / n
    dcentred = dcentred + dsquared * 2 * centred                             # squared = centred^2
    dx = dcentred                                                            # centred = x - mean
    dmean = -dcentred.sum(axis=1, keepdims=True)
    return dx + np.ones((1, n)) * dmean / n                                  # mean = sum(x) / n


def collapsed_backward(dy, cache):
    """The same in one line: what would move the mean or the spread of a row is taken out of dy."""
    centred, rstd = cache
    y = centred * rstd
    return rstd * (dy - dy.mean(axis=1, keepdims=True) - y * (dy * y).mean(axis=1, keepdims=True))


def grouped(x, groups):
    """Images as rows, one for each sample and group: (N, H, W, C) -> (N groups, H W C / groups)"""
    N, H, W, C = x.shape
    return x.reshape(N, H * W, groups, C // groups).swapaxes(1, 2).reshape(N * groups, -1)


def deep(x, layers, norm, rng):
    """The spread of what comes out of each of many random layers."""
    spreads = []
    for _ in range(layers):
        x, _ = ops.silu(x @ rng.standard_normal((x.shape[-1], x.shape[-1])) * 1.1 / np.sqrt(x.shape[-1]))
        if norm:
            x, _ = ops.group_norm(x, np.ones(x.shape[-1]), np.zeros(x.shape[-1]), 4, 1e-6)
        spreads.append(x.std())
    return spreads


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(7)
    x = 3 + 2 * rng.standard_normal((5, 7))
    y, cache = normalize(x)
    print(f"rows of mean {x.mean():.2f} and spread {x.std():.2f}: afterwards mean {abs(y.mean(axis=1)).max():.0e}, spread {y.std(axis=1).mean():.6f}")
    for name, backward in (("expanded", expanded_backward), ("collapsed", collapsed_backward)):
        print(f"the {name} backward: largest relative error {gradcheck.check(normalize, backward, x):.0e}")
    dy = rng.standard_normal(x.shape)
    dx = collapsed_backward(dy, cache)
    print(f"the two agree to {np.abs(dx - expanded_backward(dy, cache)).max():.0e}")
    print(f"dx is at right angles to what changes nothing: sum(dx) {abs(dx.sum(axis=1)).max():.0e}, sum(dx y) {abs((dx * y).sum(axis=1)).max():.0e}")

    image = rng.standard_normal((2, 4, 3, 8))
    whole, _ = ops.group_norm(image, np.ones(8), np.zeros(8), 4, 1e-6)
    print(f"grouped by hand against the library: {np.abs(grouped(whole, 4) - normalize(grouped(image, 4))[0]).max():.0e}")

    # Negative controls: each of these must be found
    wrong = {"without the mean of dy": lambda dy, c: c[1] * (dy - c[0] * c[1] * (dy * c[0] * c[1]).mean(axis=1, keepdims=True)),
             "without the term of the spread": lambda dy, c: c[1] * (dy - dy.mean(axis=1, keepdims=True)),
             "divided by n - 1": lambda dy, c: c[1] * (dy - dy.mean(axis=1, keepdims=True) - c[0] * c[1] * (dy * c[0] * c[1]).sum(axis=1, keepdims=True) / (dy.shape[1] - 1)),
             "zero": lambda dy, c: 0 * dy}
    for name, backward in wrong.items():
        error = course.caught(gradcheck.check, normalize, backward, x)
        print(f"negative control, {name}: caught, relative error {error.split('relative error ')[1].split(',')[0]}")
    ones = np.ones_like(x)
    print(f"with dy = 1 everywhere the right dx is {np.abs(collapsed_backward(ones, cache)).max():.0e}: a backward that returns 0 would pass")

    layers = 10 if lesson.quick else 40
    start = rng.standard_normal((64, 1, 32))
    spreads = {name: deep(start, layers, name == "group norm after each", np.random.default_rng(1)) for name in ("no norm", "group norm after each")}
    for name, found in spreads.items():
        print(f"{name}: spread {found[0]:.2f} after layer 1, {found[-1]:.3g} after layer {layers}")

    figure, (left, right) = lesson.figure(1, 2, size=(8, 3))
    for name, found in spreads.items():
        left.semilogy(range(1, layers + 1), found, label=name)
    left.set(xlabel="layer", title="spread of the activations")
    left.legend()
    before = image[0, :, :, :2].ravel() * 2 + 3
    after, _ = normalize(before[None])
    right.hist(before, 15, alpha=0.6, label="a group before")
    right.hist(after[0], 15, alpha=0.6, label="and after")
    right.legend()
    lesson.save(figure, "figure_norm.png")

    # A wrong backward trains, only worse: two layers with a norm between, fitting random targets
    figure, axes = lesson.figure(1, 1, size=(4.8, 3))
    inputs, targets = rng.standard_normal((64, 16)), rng.standard_normal((64, 4))
    for name, backward in {"right": collapsed_backward, **{k: wrong[k] for k in ("without the term of the spread", "without the mean of dy")}}.items():
        draw, losses = np.random.default_rng(2), []
        w1, w2 = draw.standard_normal((16, 32)) / 4, draw.standard_normal((32, 4)) / 6
        for _ in range(100 if lesson.quick else 1500):
            y, cache = normalize(inputs @ w1)
            loss, difference = ops.mean_squared_error(y @ w2, targets)
            dout = ops.mean_squared_error_backward(1.0, difference)
            dw1, dw2 = inputs.T @ backward(dout @ w2.T, cache), y.T @ dout
            w1, w2 = w1 - 0.5 * dw1, w2 - 0.5 * dw2
            losses.append(loss)
        axes.plot(losses, label=name)
        print(f"trained with the backward {name}: loss {losses[-1]:.3f} after {len(losses)} steps")
    axes.set(xlabel="step", title="the loss", yscale="log")
    axes.legend()
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
