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
    """Each row to mean 0 and variance 1. x (R, n): a row is a group of one image"""
    n = x.shape[1]
    mean = x.sum(axis=1, keepdims=True) / n
    centred = x - mean
    squared = centred**2
    variance = squared.sum(axis=1, keepdims=True) / n
    rstd = 1 / np.sqrt(variance + EPS)
    y = centred * rstd
    return y, (centred, rstd)


def grouped(x, groups):
    """Images as rows: (N, H, W, C) -> (N groups, H W C / groups)"""
    N, H, W, C = x.shape
    x = x.reshape(N, H * W, groups, C // groups)
    return x.swapaxes(1, 2).reshape(N * groups, -1)


def expanded_backward(dy, cache):
    """One line for each line of the forward, from the last to the first."""
    centred, rstd = cache
    n = centred.shape[1]
    dcentred = dy * rstd                            # y = centred * rstd
    drstd = (dy * centred).sum(axis=1, keepdims=True)
    dvariance = drstd * -0.5 * rstd**3              # rstd = (variance + EPS)^(-1/2)
    dsquared = np.ones((1, n)) * dvariance / n      # variance = sum(squared) / n
    dcentred = dcentred + dsquared * 2 * centred    # squared = centred^2
    dx = dcentred                                   # centred = x - mean
    dmean = -dcentred.sum(axis=1, keepdims=True)
    return dx + np.ones((1, n)) * dmean / n         # mean = sum(x) / n


def collapsed_backward(dy, cache):
    """What would move a row's mean or its spread is removed from dy."""
    centred, rstd = cache
    y = centred * rstd
    mean = lambda a: a.mean(axis=1, keepdims=True)
    return rstd * (dy - mean(dy) - y * mean(dy * y))


def scale_and_shift(y, gamma, beta):
    """Each channel c times gamma_c, plus beta_c. y (..., C)"""
    return y * gamma + beta, (y, gamma)


def scale_and_shift_backward(dout, cache):
    y, gamma = cache
    others = tuple(range(y.ndim - 1))
    return dout * gamma, (dout * y).sum(axis=others), dout.sum(axis=others)


def residual_step(inputs, target, w_in, w_out, blocks, norm_backward):
    """The loss of a network of blocks x + silu(normalize(x)) w, and its gradients, in the order of the arguments."""
    x, caches, dblocks = inputs @ w_in, [], []
    for w in blocks:
        y, norm = normalize(x)
        a, silu = ops.silu(y)
        caches.append((w, a, norm, silu))
        x = x + a @ w
    loss, difference = ops.mean_squared_error(x @ w_out, target)
    dout = ops.mean_squared_error_backward(1.0, difference)
    dx = dout @ w_out.T
    for w, a, norm, silu in reversed(caches):
        dblocks.insert(0, a.T @ dx)
        dx = dx + norm_backward(ops.silu_backward(dx @ w.T, silu), norm)
    return loss, (inputs.T @ dx, x.T @ dout, *dblocks)


def deep(x, layers, norm, rng):
    """The spread of what comes out of each of many random layers."""
    spreads, C = [], x.shape[-1]
    for _ in range(layers):
        x, _ = ops.silu(x @ rng.standard_normal((C, C)) * 1.1 / np.sqrt(C))
        x = ops.group_norm(x, np.ones(C), np.zeros(C), 4, 1e-6)[0] if norm else x
        spreads.append(x.std())
    return spreads


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(7)
    x = 3 + 2 * rng.standard_normal((5, 7))
    y, cache = normalize(x)
    print(f"rows of mean {x.mean():.2f} and spread {x.std():.2f}: "
          f"afterwards mean {abs(y.mean(axis=1)).max():.0e}, spread {y.std(axis=1).mean():.6f}")
    for name, backward in (("expanded", expanded_backward), ("collapsed", collapsed_backward)):
        print(f"the {name} backward: largest relative error {gradcheck.check(normalize, backward, x):.0e}")
    dx = collapsed_backward(dy := rng.standard_normal(x.shape), cache)
    print(f"the two agree to {np.abs(dx - expanded_backward(dy, cache)).max():.0e}")
    print(f"dx is at right angles to what changes nothing: "
          f"sum(dx) {abs(dx.sum(axis=1)).max():.0e}, sum(dx y) {abs((dx * y).sum(axis=1)).max():.0e}")
    error = gradcheck.check(scale_and_shift, scale_and_shift_backward, x, *rng.standard_normal((2, 7)))
    print(f"scale and shift: largest relative error {error:.0e}")

    image = rng.standard_normal((2, 4, 3, 8))
    y, _ = ops.group_norm(image, np.ones(8), np.zeros(8), 4, 1e-6)
    print(f"grouped by hand against the library: {np.abs(grouped(y, 4) - normalize(grouped(image, 4))[0]).max():.0e}")

    spread = lambda dy, c: c[0] * c[1]**2 * (dy * c[0] * c[1]).mean(axis=1, keepdims=True)        # c: centred, rstd
    mistakes = {"without the term of the spread": lambda dy, c: collapsed_backward(dy, c) + spread(dy, c),
                "without the mean of dy": lambda dy, c: collapsed_backward(dy, c) + c[1] * dy.mean(1, keepdims=True),
                "divided by n - 1": lambda dy, c: collapsed_backward(dy, c) - spread(dy, c) / (dy.shape[1] - 1),
                "zero": lambda dy, c: 0 * dy}
    course.controls({name: (normalize, backward, x) for name, backward in mistakes.items()})
    largest = np.abs(collapsed_backward(np.ones_like(x), cache)).max()
    print(f"with dy = 1 everywhere the right dx is {largest:.0e}: a backward that returns 0 would pass")

    layers, start = 10 if lesson.quick else 40, rng.standard_normal((64, 1, 32))
    curves = {name: deep(start, layers, name != "no norm", np.random.default_rng(1))
              for name in ("no norm", "group norm after each")}
    for name, found in curves.items():
        print(f"{name}: spread {found[0]:.2f} after layer 1, {found[-1]:.3g} after layer {layers}")
    lesson.curves("figure_norm.png", curves, xlabel="layer", ylabel="spread of the activations", yscale="log")

    # A wrong backward trains, only worse: a small residual network fits random targets
    inputs, targets, curves = rng.standard_normal((64, 16)), rng.standard_normal((64, 4)), {}
    for name in ("without the term of the spread", "without the mean of dy", "right"):
        backward, draw, curves[name] = mistakes.get(name, collapsed_backward), np.random.default_rng(2), []
        w_in, w_out, *blocks = (draw.standard_normal(s) / np.sqrt(s[0]) for s in ((16, 8), (8, 4), *[(8, 8)] * 4))
        for _ in range(100 if lesson.quick else 1500):
            loss, gradients = residual_step(inputs, targets, w_in, w_out, blocks, backward)
            for p, g in zip((w_in, w_out, *blocks), gradients):
                p -= 0.03 * g
            curves[name].append(loss)
        print(f"trained with the backward {name}: loss {loss:.3f} after {len(curves[name])} steps")
    lesson.curves("figure_wrong.png", curves, xlabel="step", ylabel="loss", yscale="log")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
