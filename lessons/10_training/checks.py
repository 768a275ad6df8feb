"""The tasks of homework 10."""

import numpy as np
from tasks import attempt, expect, library, numeric, question

from tinyddpm import ops
from tinyddpm.diffusion import objective, schedule

IMPORTS = """import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion import process
from tinyddpm.diffusion.prediction import PREDICTIONS, join, split    # PREDICTIONS[name].target(s, x0, xt, t, eps)"""


def mean_squared_error(f, rng):
    for shape in ((3, 4), (2, 5, 1, 3)):
        a, b = rng.standard_normal((2, *shape))
        loss, cache = expect(f.mean_squared_error(a, b), 2, "mean_squared_error", "the loss and a cache")
        yield f"mean_squared_error: {shape}", loss
        yield f"mean_squared_error_backward: {shape}", attempt(f.mean_squared_error_backward, 0.7, cache)


def l_simple(f, rng):
    s, t = schedule.linear(20, 1e-3, 0.3), rng.integers(1, 21, 4)
    x0, eps, y = rng.standard_normal((3, 4, 2, 2, 3))
    xt = np.sqrt(s.alpha_bar[t])[:, None, None, None] * x0 + np.sqrt(1 - s.alpha_bar[t])[:, None, None, None] * eps
    for prediction in ("eps", "x0", "v"):
        loss, dy = expect(f.l_simple(s, x0, xt, t, eps, y, prediction), 2, "l_simple",
                          "the loss and its gradient with respect to y")
        yield f"loss: {prediction} predicted", loss
        yield f"gradient: {prediction} predicted", dy
    loss, dy = f.l_simple(s, x0, xt, t, eps, np.concatenate([y, xt], axis=-1), "eps", "learned")
    yield "loss: variance learned", loss
    yield "gradient: variance learned", dy


def huber(f, rng):
    a, b = 2 * rng.standard_normal((2, 3, 5))
    for delta in (0.5, 2.0):
        loss, cache = expect(f.huber(a, b, delta), 2, "huber", "the loss and a cache")
        yield f"huber: delta {delta}", loss
        yield f"huber_backward: delta {delta}", attempt(f.huber_backward, 0.7, cache)


def huber_answer(prediction, target, delta):
    total = 0.0
    for d in np.abs(prediction - target).ravel():
        total += d**2 / 2 if d <= delta else delta * (d - delta / 2)
    return total / prediction.size


_huber = numeric(huber_answer, gradients=1)

OPEN = ("What is L_simple of a network that always answers 0? And of one that answers c(t) x_t with the best number "
        "c(t) for each t? Compare with the loss of the run in the lesson.",
        "Answering 0 costs the variance of the noise, 1. The best multiple of x_t costs 0.27 for digits along the "
        "linear schedule, close to the mean of alpha_bar: it knows nothing about digits but their variance. The run "
        "reaches less than a sixth of that, and what it has learned about digits lies below this line. A loss of 0.3 "
        "would look like a success and be worth nothing.")

TASKS = [
    library("10.1", "The mean squared error", 2, mean_squared_error,
            [ops.mean_squared_error, ops.mean_squared_error_backward],
            hints={"mean_squared_error_backward": "the 2 of the square, the mean's number of elements, and dloss"},
            mean_squared_error=["the mean over all elements, not the sum; and a cache, the difference"],
            mean_squared_error_backward=["dloss is a number"]),
    library("10.2", "L_simple (Eq. 14)", 3, l_simple, [objective.l_simple],
            hints={"loss": "the mean over all elements, against the target of what is predicted",
                   "gradient": "in y's shape: zeros for the channels of v"},
            l_simple=["split(y, variance) gives the prediction, and v where the variance is learned (else None)",
                      "the loss against the prediction's target, and its gradient for dloss = 1",
                      "join(gradient, dv) is the gradient with respect to y; L_simple says nothing to v: zeros, or "
                      "None"]),
    question("10.3", "A loss that forgives outliers", 3, huber, '''
def huber(prediction, target, delta):
    """The mean of d^2 / 2 where |d| <= delta, and of delta (|d| - delta / 2) beyond, d = prediction - target. ->
    (number, cache)"""

def huber_backward(dloss, cache):
    """dloss, a number -> dprediction"""
''', {"huber": _huber[0], "huber_backward": lambda dloss, cache: _huber[1](dloss, cache)[0]},
             huber=["both pieces have the same value and slope at delta"], huber_backward=["clip"]),
]
