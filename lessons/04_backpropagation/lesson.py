"""Lesson 4: backpropagation by hand.

    python lessons/04_backpropagation/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

from tinyddpm import gradcheck, ops


def linear(x, w, b):
    return x @ w + b, (x, w)


def linear_backward(dy, cache):
    x, w = cache
    return dy @ w.T, x.T @ dy, dy.sum(axis=0)


def silu(x):
    s = 1 / (1 + np.exp(-x))
    return x * s, (x, s)


def silu_backward(dy, cache):
    x, s = cache
    return dy * s * (1 + x * (1 - s))


def mean_squared_error(prediction, target):
    difference = prediction - target
    return (difference**2).mean(), difference


def mean_squared_error_backward(dloss, difference):
    return dloss * 2 / difference.size * difference


def network(x, target, w1, b1, w2, b2):
    """The loss of two layers, and what the backward needs."""
    h, cache1 = linear(x, w1, b1)
    a, cache2 = silu(h)
    y, cache3 = linear(a, w2, b2)
    loss, cache4 = mean_squared_error(y, target)
    return loss, (cache1, cache2, cache3, cache4)


def network_backward(dloss, caches):
    """The forward, read from the bottom to the top."""
    cache1, cache2, cache3, cache4 = caches
    dy = mean_squared_error_backward(dloss, cache4)
    da, dw2, db2 = linear_backward(dy, cache3)
    dh = silu_backward(da, cache2)
    dx, dw1, db1 = linear_backward(dh, cache1)
    return dx, -dy, dw1, db1, dw2, db2


def caught(forward, backward, *arrays, dy=None):
    """Whether a check finds the backward wrong. dy: an upstream gradient (default: random)"""
    if dy is None:
        try:
            gradcheck.check(forward, backward, *arrays)
            return False
        except AssertionError:
            return True
    x, h = arrays[0], 1e-5
    slopes = np.empty_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = h
        slopes[i] = (dy * (forward(x + e)[0] - forward(x - e)[0])).sum() / (2 * h)
    return bool(np.abs(backward(dy, forward(x)[1]) - slopes).max() > 1e-7)


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((4, 3)), rng.standard_normal((3, 5)), rng.standard_normal(5)
    print(f"linear: largest relative error of its gradients {gradcheck.check(linear, linear_backward, x, w, b):.0e}")
    print(f"SiLU: {gradcheck.check(silu, silu_backward, x):.0e}")
    arrays = x, rng.standard_normal((4, 2)), w, b, rng.standard_normal((5, 2)), rng.standard_normal(2)
    print(f"two layers and the loss: {gradcheck.check(network, network_backward, *arrays):.0e}")

    # How long should the step h be? Too long and the line is no tangent; too short and rounding is all that is left
    steps = 10.0**np.arange(-14, 0)
    exact = silu_backward(1.0, silu(np.float64(0.7))[1])
    errors = {}
    for dtype in (np.float64, np.float32):
        p = np.array(0.7, dtype)
        slope = [(silu(p + dtype(h))[0].astype(np.float64) - silu(p - dtype(h))[0].astype(np.float64)) / (2 * h) for h in steps]
        errors[dtype.__name__] = np.abs(np.array(slope) - exact) / exact
    for name, found in errors.items():
        print(f"{name}: the best step is {steps[found.argmin()]:.0e}, with a relative error of {found.min():.0e}")
    assert errors["float64"].min() < 1e-8 < 1e-6 < errors["float32"].min()

    # What a check with an upstream gradient of ones does not see: softmax's rows always sum to 1
    nothing = lambda dy, p: 0 * p
    z = rng.standard_normal((3, 4))
    ones, random = caught(ops.softmax, nothing, z, dy=np.ones((3, 4))), caught(ops.softmax, nothing, z)
    print(f"a softmax whose backward returns 0: caught with dy = 1: {ones}; caught with a random dy: {random}")
    assert not ones and random

    mistakes = {"SiLU without the second term": (silu, lambda dy, c: dy * c[1], (x,)),
                "the gradient of b as a mean": (linear, lambda dy, c: (dy @ c[1].T, c[0].T @ dy, dy.mean(axis=0)), (x, w, b)),
                "w not transposed": (lambda x, w: (x @ w, w), lambda dy, w: (dy @ w, x.T @ dy), (x, rng.standard_normal((3, 3)))),
                "one part in a million too large": (silu, lambda dy, c: silu_backward(dy, c) * (1 + 1e-6), (x,))}
    for name, (forward, backward, given) in mistakes.items():
        print(f"negative control, {name}: caught: {caught(forward, backward, *given)}")
        assert caught(forward, backward, *given)

    figure, (left, right) = lesson.figure(1, 2, size=(8, 3))
    for name, found in errors.items():
        left.loglog(steps, found, ".-", label=name)
    left.set(xlabel="h", title="relative error of (f(x + h) - f(x - h)) / 2h")
    left.legend()
    right.plot(t := np.linspace(-6, 6, 200), silu(t)[0], label="SiLU")
    right.plot(t, silu_backward(1.0, silu(t)[1]), label="its derivative")
    right.legend()
    lesson.save(figure, "figure_steps.png")

    # A wrong gradient trains, only worse: gradient descent with the first of the mistakes
    figure, axes = lesson.figure(1, 1, size=(4.5, 3))
    inputs = rng.uniform(-2, 2, (200, 1))
    for name, second_term in (("right", 1), ("SiLU without its second term", 0)):
        start, losses = np.random.default_rng(1), []
        parameters = [2 * start.standard_normal((1, 20)), start.standard_normal(20), start.standard_normal((20, 1)) / 5, np.zeros(1)]
        for _ in range(400 if lesson.quick else 4000):
            loss, caches = network(inputs, np.sin(3 * inputs), *parameters)
            cache1, (h, s), cache3, cache4 = caches
            da, dw2, db2 = linear_backward(mean_squared_error_backward(1.0, cache4), cache3)
            _, dw1, db1 = linear_backward(da * s * (1 + second_term * h * (1 - s)), cache1)
            for p, g in zip(parameters, (dw1, db1, dw2, db2)):
                p -= 0.02 * g
            losses.append(loss)
        axes.loglog(np.arange(1, len(losses) + 1), losses, label=name)
        print(f"gradient descent, {name}: loss {losses[0]:.2f} at the start, {losses[-1]:.3f} at the end")
    axes.set(xlabel="step", title="the loss")
    axes.legend()
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
