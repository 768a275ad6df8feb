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


def residual_network(x, target, w_in, w_out, blocks):
    """The loss of a network of blocks x + silu(normalize(x)) w, and what the backward needs."""
    inputs, x, caches = x, x @ w_in, []
    for w in blocks:
        y, norm = normalize(x)
        a, silu = ops.silu(y)
        caches.append((w, a, norm, silu))
        x = x + a @ w
    loss, difference = ops.mean_squared_error(x @ w_out, target)
    return loss, (inputs, x, w_out, difference, caches)


def residual_network_backward(cache, norm_backward):
    """The gradients of w_in, w_out and the blocks."""
    inputs, x, w_out, difference, caches = cache
    dout = ops.mean_squared_error_backward(1.0, difference)
    dx, dblocks = dout @ w_out.T, []
    for w, a, norm, silu in reversed(caches):
        dblocks.insert(0, a.T @ dx)
        dx = dx + norm_backward(ops.silu_backward(dx @ w.T, silu), norm)
    return inputs.T @ dx, x.T @ dout, dblocks


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
    print(f"rows of mean {x.mean():.2f} and spread {x.std():.2f}: "
          f"afterwards mean {abs(y.mean(axis=1)).max():.0e}, spread {y.std(axis=1).mean():.6f}")
    for name, backward in (("expanded", expanded_backward), ("collapsed", collapsed_backward)):
        print(f"the {name} backward: largest relative error {gradcheck.check(normalize, backward, x):.0e}")
    dy = rng.standard_normal(x.shape)
    dx = collapsed_backward(dy, cache)
    print(f"the two agree to {np.abs(dx - expanded_backward(dy, cache)).max():.0e}")
    print(f"dx is at right angles to what changes nothing: "
          f"sum(dx) {abs(dx.sum(axis=1)).max():.0e}, sum(dx y) {abs((dx * y).sum(axis=1)).max():.0e}")
    parameters = rng.standard_normal(7), rng.standard_normal(7)
    error = gradcheck.check(scale_and_shift, scale_and_shift_backward, x, *parameters)
    print(f"scale and shift: largest relative error {error:.0e}")

    image = rng.standard_normal((2, 4, 3, 8))
    whole, _ = ops.group_norm(image, np.ones(8), np.zeros(8), 4, 1e-6)
    print(f"grouped by hand against the library: {np.abs(grouped(whole, 4) - normalize(grouped(image, 4))[0]).max():.0e}")

    # Negative controls: each of these must be found
    def wrong(keep_mean=1, keep_spread=1, keep_all=1, fewer=0):
        def backward(dy, cache):
            centred, rstd = cache
            n, y = len(dy[0]), centred * rstd
            spread = y * (dy * y).sum(axis=1, keepdims=True) / (n - fewer)
            return keep_all * rstd * (dy - keep_mean * dy.mean(axis=1, keepdims=True) - keep_spread * spread)
        return backward

    gradcheck.check(normalize, wrong(), x)                      # with every term it is right
    mistakes = {"without the mean of dy": wrong(keep_mean=0), "without the term of the spread": wrong(keep_spread=0),
                "divided by n - 1": wrong(fewer=1), "zero": wrong(keep_all=0)}
    for name, backward in mistakes.items():
        error = course.caught(gradcheck.check, normalize, backward, x)
        print(f"negative control, {name}: caught, relative error {error.split('relative error ')[1].split(',')[0]}")
    ones = np.ones_like(x)
    print(f"with dy = 1 everywhere the right dx is {np.abs(collapsed_backward(ones, cache)).max():.0e}: a backward that returns 0 would pass")

    layers = 10 if lesson.quick else 40
    start = rng.standard_normal((64, 1, 32))
    spreads = {name: deep(start, layers, name == "group norm after each", np.random.default_rng(1)) for name in ("no norm", "group norm after each")}
    for name, found in spreads.items():
        print(f"{name}: spread {found[0]:.2f} after layer 1, {found[-1]:.3g} after layer {layers}")

    figure, axes = lesson.figure(size=(6, 3.4))
    for name, found in spreads.items():
        axes.semilogy(range(1, layers + 1), found, label=name)
    axes.set(xlabel="layer", ylabel="spread of the activations")
    axes.legend()
    lesson.save(figure, "figure_norm.png")

    # A wrong backward trains, only worse: a small residual network fits random targets
    figure, axes = lesson.figure(size=(6, 3.4))
    inputs, targets = rng.standard_normal((64, 16)), rng.standard_normal((64, 4))
    for name in ("without the term of the spread", "without the mean of dy", "right"):
        backward, draw, losses = mistakes.get(name, collapsed_backward), np.random.default_rng(2), []
        w_in, w_out = draw.standard_normal((16, 8)) / 4, draw.standard_normal((8, 4)) / np.sqrt(8)
        blocks = list(draw.standard_normal((4, 8, 8)) / np.sqrt(8))
        for _ in range(100 if lesson.quick else 1500):
            loss, cache = residual_network(inputs, targets, w_in, w_out, blocks)
            dw_in, dw_out, dblocks = residual_network_backward(cache, backward)
            for p, g in zip((w_in, w_out, *blocks), (dw_in, dw_out, *dblocks)):
                p -= 0.03 * g
            losses.append(loss)
        axes.semilogy(losses, label=name)
        print(f"trained with the backward {name}: loss {losses[-1]:.3f} after {len(losses)} steps")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
