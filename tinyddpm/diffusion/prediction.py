"""From a network's output to the reverse process: what the network predicts, and what follows from it.

The output has the shape of the data, or twice its channels, [prediction, v], where the variance is learned.
"""

from collections import namedtuple

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion import process

Prediction = namedtuple("Prediction", "target to_x0 x0_slope")
Prediction.__doc__ = """What a network may predict: target(s, x0, xt, t, eps); to_x0(s, xt, t, prediction), the x_0 that
follows from it; and x0_slope(s, t), its derivative with respect to the prediction."""

PREDICTIONS = {
    "eps": Prediction(lambda s, x0, xt, t, eps: eps, process.x0_from_eps,
                      lambda s, t: -np.sqrt((1 - s.alpha_bar[t]) / s.alpha_bar[t])),
    "x0": Prediction(lambda s, x0, xt, t, eps: x0, lambda s, xt, t, y: y, lambda s, t: np.ones(np.shape(t))),
    "mu": Prediction(lambda s, x0, xt, t, eps: process.mu_from_x0(s, x0, xt, t), process.x0_from_mu,
                     lambda s, t: 1 / process.posterior_coefficients(s, t)[0]),
    "v": Prediction(lambda s, x0, xt, t, eps: process.v_from_x0(s, x0, t, eps), process.x0_from_v,
                    lambda s, t: -np.sqrt(1 - s.alpha_bar[t])),
}


def reverse_process(model, config, labels=None, guidance=1.0):
    """p(xt, t) of a network in evaluation mode: the mean, the variance and the x_0 of p(x_{t-1} | x_t), for t (N,).

    config: the DiffusionConfig that the network was trained with
    labels: (N,) for a network with classes
    guidance: w of classifier-free guidance (Ho and Salimans 2022): the prediction is e + w (e_labels - e), where e is
        the one without labels and e_labels the one with them; w = 1 gives the latter
    Raises ValueError for a model in training mode, and for guidance without labels; p, where the output is not finite.
    """
    if model.training:
        raise ValueError("the reverse process needs a model in evaluation mode (dropout off): call model.eval() first")
    if guidance != 1 and labels is None:
        raise ValueError(f"guidance is {guidance}, which needs labels")
    s, inputs = config.make_schedule(), {} if labels is None else {"labels": labels}

    def network(xt, t, **inputs):
        y = model.forward(xt, t, **inputs)
        if not array_module(y).isfinite(y).all():
            raise ValueError(f"the network's output is not finite at t = {t[0]}")
        return split(y, config.variance)

    def p(xt, t):
        predicted, v = network(xt, t, **inputs)
        if guidance != 1:
            unlabelled, _ = network(xt, t)
            predicted = unlabelled + guidance * (predicted - unlabelled)
        x0 = PREDICTIONS[config.prediction].to_x0(s, xt, t, predicted)
        return process.p_mean_variance(s, x0, xt, t, variance=config.variance, v=v)

    return p


def split(y, variance):
    """Split a network's output into (prediction, v); v is None unless the variance is learned."""
    if variance != "learned":
        return y, None
    half = y.shape[-1] // 2
    return y[..., :half], y[..., half:]


def join(dprediction, dv):
    """The gradient with respect to the output, from those with respect to its parts."""
    return dprediction if dv is None else array_module(dprediction).concatenate([dprediction, dv], axis=-1)
