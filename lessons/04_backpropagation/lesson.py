"""Lesson 4: backpropagation by hand.

    python lessons/04_backpropagation/lesson.py [--quick]
"""

import sys
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
    return locals()


def staged_backward(x, w, h, s, e, **_):
    """The same lines from the last to the first: the loss's gradient for each."""
    dloss = 1.0
    de = dloss * 2 * e                  # loss = e^2
    dy = de                             # e = y - target: y enters with factor 1,
    dtarget = -de                       # the target with factor -1
    ds = dy * h                         # y = h s, as if h were a constant;
    dh = dy * s                         # as if s were a constant
    dh = dh + ds * s * (1 - s)          # s = 1 / (1 + e^(-h)): a second path to h
    da = dh                             # h = a + b
    db = dh
    dx = da * w                         # a = x w
    dw = da * x
    return {name[1:]: value for name, value in locals().items() if name[:1] == "d"}


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


def network_backward(dloss, caches, silu_backward=silu_backward):
    """The forward, read from the bottom to the top."""
    cache1, cache2, cache3, cache4 = caches
    dy = mean_squared_error_backward(dloss, cache4)
    da, dw2, db2 = linear_backward(dy, cache3)
    dh = silu_backward(da, cache2)
    dx, dw1, db1 = linear_backward(dh, cache1)
    return dx, -dy, dw1, db1, dw2, db2


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(0)
    values = staged(x=2.0, w=1.0, b=-1.0, target=2.0)
    gradients, nudged = staged_backward(**values), staged(x=2.0, w=1.001, b=-1.0, target=2.0)["loss"]
    print(f"the loss is {values['loss']:.4f}, and dw is {gradients['w']:.3f}")
    print(f"with w = 1.001 the loss is {nudged:.4f}: a change of {(nudged - values['loss']) / 0.001:.3f} times 0.001")
    lesson.draw("figure_graph.png", diagrams.graph, values, gradients, size=(8, 3.2))

    # One pass back for all parameters, against one pass for each
    wide = [rng.standard_normal(shape) for shape in ((64, 256), (64, 10), (256, 512), 512, (512, 10), 10)]
    both = course.median_ms(lambda: network_backward(1.0, network(*wide)[1]))
    print(f"measured: forward {course.median_ms(network, *wide):.1f} ms, with all gradients {both:.1f} ms")

    x, target, w, b, w2, b2 = (rng.standard_normal(shape) for shape in ((4, 3), (4, 2), (3, 5), 5, (5, 2), 2))
    print(f"linear: largest relative error of its gradients {gradcheck.check(linear, linear_backward, x, w, b):.0e}")
    print(f"SiLU: {gradcheck.check(silu, silu_backward, x):.0e}")
    print(f"two layers and the loss: {gradcheck.check(network, network_backward, x, target, w, b, w2, b2):.0e}")

    # How long should the step be? Too long and the line is no tangent; too short and rounding is all that is left
    steps, exact, errors = 10.0**np.arange(-14, 0), silu_backward(1.0, silu(np.float64(0.7))[1]), {}
    for dtype in (np.float64, np.float32):
        p, h = dtype(0.7), steps.astype(dtype)
        slopes = (silu(p + h)[0].astype(np.float64) - silu(p - h)[0]) / (2 * steps)
        errors[dtype.__name__] = found = np.abs(slopes - exact) / exact
        print(f"{dtype.__name__}: the best step is {steps[found.argmin()]:.0e}, its relative error {found.min():.0e}")
    assert errors["float64"].min() < 1e-8 < 1e-6 < errors["float32"].min()
    lesson.curves("figure_steps.png", {name: (steps, found) for name, found in errors.items()}, ".-",
                  xlabel="step", ylabel="relative error of SiLU's slope", xscale="log", yscale="log")

    # What a check with an upstream gradient of ones does not see: softmax's rows always sum to 1
    z, ones, nothing = rng.standard_normal((3, 4)), np.ones((3, 4)), lambda dy, p: 0 * p
    slopes = [gradcheck.central_difference(lambda: ops.softmax(z)[0], z, i, ones) for i in np.ndindex(z.shape)]
    print(f"a softmax with dy = 1: its gradients are at most {np.abs(slopes).max():.0e}, so returning 0 passes")

    mistakes = {"a softmax that returns 0, random dy": (ops.softmax, nothing, z),
                "SiLU without its second term": (silu, lambda dy, c: dy * c[1], x),
                "db as a mean": (linear, lambda dy, c: (*linear_backward(dy, c)[:2], dy.mean(axis=0)), x, w, b),
                "w not transposed": (lambda x, w: (x @ w, w), lambda dy, w: (dy @ w, x.T @ dy), x, np.tri(3)),
                "one part in a million too large": (silu, lambda dy, c: silu_backward(dy, c) * (1 + 1e-6), x)}
    course.controls(mistakes)

    # A wrong gradient trains, only worse: gradient descent with the first of the mistakes
    inputs, curves = rng.uniform(-2, 2, (200, 1)), {}
    for name, backward in (("right", silu_backward), ("SiLU without its second term", lambda dy, c: dy * c[1])):
        start, curves[name] = np.random.default_rng(1), []
        parameters = [k * start.standard_normal(shape) for k, shape in ((2, (1, 20)), (1, 20), (0.2, (20, 1)), (0, 1))]
        for _ in range(400 if lesson.quick else 4000):
            loss, caches = network(inputs, np.sin(3 * inputs), *parameters)
            for p, g in zip(parameters, network_backward(1.0, caches, backward)[2:]):
                p -= 0.02 * g
            curves[name].append(loss)
        print(f"gradient descent, {name}: loss {curves[name][0]:.2f} at the start, {loss:.3f} at the end")
    lesson.curves("figure_wrong.png", curves, xlabel="step", ylabel="loss", xscale="log", yscale="log")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
