"""Lesson 4: backpropagation by hand.

    python lessons/04_backpropagation/lesson.py [--quick]
"""

import sys
import timeit
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course
import diagrams

from tinyddpm import gradcheck, ops


def staged(x, w, b, target):
    """A unit with SiLU and its squared error, one operation a line."""
    a = x * w
    h = a + b
    s = 1 / (1 + np.exp(-h))
    y = h * s
    e = y - target
    loss = e**2
    return {"x": x, "w": w, "a": a, "b": b, "h": h, "s": s, "y": y,
            "target": target, "e": e, "loss": loss}


def staged_backward(x, w, h, s, e, **_):
    """The same lines from the last to the first: the loss's gradient for each."""
    dloss = 1.0
    de = dloss * 2 * e                  # loss = e^2
    dy = de                             # e = y - target: y enters with factor 1,
    dtarget = -de                       # the target with factor -1
    dh = dy * s                         # y = h s, as if s were a constant;
    ds = dy * h                         # as if h were a constant
    dh = dh + ds * s * (1 - s)          # s = 1 / (1 + e^(-h)): a second path to h
    da = dh                             # h = a + b
    db = dh
    dx = da * w                         # a = x w
    dw = da * x
    return {"loss": dloss, "e": de, "y": dy, "target": dtarget, "s": ds, "h": dh,
            "a": da, "b": db, "x": dx, "w": dw}


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
    values = staged(x=2.0, w=1.0, b=-1.0, target=2.0)
    gradients = staged_backward(**values)
    nudged = staged(x=2.0, w=1.001, b=-1.0, target=2.0)
    print(f"the loss is {values['loss']:.4f}, and dw is {gradients['w']:.3f}")
    print(f"with w = 1.001 the loss is {nudged['loss']:.4f}: "
          f"a change of {(nudged['loss'] - values['loss']) / 0.001:.3f} times 0.001")
    figure, axes = lesson.figure(size=(8, 3.2))
    diagrams.graph(axes, values, gradients)
    lesson.save(figure, "figure_graph.png")

    # One pass back for all parameters, against one pass for each
    wide = [rng.standard_normal(shape) for shape in ((64, 256), (64, 10), (256, 512), 512, (512, 10), 10)]
    numbers = sum(p.size for p in wide[2:])
    one = timeit.repeat(lambda: network(*wide), number=1, repeat=9)
    both = timeit.repeat(lambda: network_backward(1.0, network(*wide)[1]), number=1, repeat=9)
    print(f"measured: forward {1e3 * np.median(one):.1f} ms, with the gradients of "
          f"{numbers:,} parameters {1e3 * np.median(both):.1f} ms")

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
    print(f"a softmax whose backward returns 0: caught with dy = 1: {ones}; a random dy: {random}")
    assert not ones and random

    mistakes = {"SiLU without the second term": (silu, lambda dy, c: dy * c[1], (x,)),
                "the gradient of b as a mean": (linear, lambda dy, c: (dy @ c[1].T, c[0].T @ dy, dy.mean(axis=0)), (x, w, b)),
                "w not transposed": (lambda x, w: (x @ w, w), lambda dy, w: (dy @ w, x.T @ dy), (x, rng.standard_normal((3, 3)))),
                "one part in a million too large": (silu, lambda dy, c: silu_backward(dy, c) * (1 + 1e-6), (x,))}
    for name, (forward, backward, given) in mistakes.items():
        print(f"negative control, {name}: caught: {caught(forward, backward, *given)}")
        assert caught(forward, backward, *given)

    figure, (left, right) = lesson.figure(1, 2, size=(8, 3.2))
    for name, found in errors.items():
        left.loglog(steps, found, ".-", label=name)
    left.set(xlabel="step", ylabel="relative error", title="the difference quotient of SiLU")
    left.legend()
    right.plot(t := np.linspace(-6, 6, 200), silu(t)[0], label="SiLU")
    right.plot(t, silu_backward(1.0, silu(t)[1]), label="its derivative")
    right.set(xlabel="x", ylabel="y", title="SiLU")
    right.legend()
    lesson.save(figure, "figure_steps.png")

    # A wrong gradient trains, only worse: gradient descent with the first of the mistakes
    figure, axes = lesson.figure(size=(6, 3.4))
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
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
