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


def reverse_process(model, config, labels=None, guidance=1.0, avoid=None, clip=True):
    """p(xt, t) of a network in evaluation mode: the mean, the variance and the x_0 of p(x_{t-1} | x_t), for t (N,).

    config: the DiffusionConfig that the network was trained with
    labels: (N,) for a network with classes; None: no label
    guidance: w of classifier-free guidance (Ho and Salimans 2022): x_0 is b + w (a - b), where the network predicts a
        with the labels and b without, or b with the class `avoid`. w = 1 gives a, w = 0 gives b, a larger w goes
        further from b, and a negative one away from the labels
    clip: keep x_0 within [-1, 1], after guidance
    Raises ValueError for a model in training mode, and for guidance without labels; p, where the output is not finite.
    """
    if model.training:
        raise ValueError("the reverse process needs a model in evaluation mode (dropout off): call model.eval() first")
    if guidance != 1 and labels is None and avoid is None:
        raise ValueError(f"guidance is {guidance}, which needs labels")
    s = config.make_schedule()

    def network(xt, t, labels):
        y = model.forward(xt, t) if labels is None else model.forward(xt, t, labels=labels)
        if not array_module(y).isfinite(y).all():
            raise ValueError(f"the network's output is not finite at t = {t[0]}")
        predicted, v = split(y, config.variance)
        return PREDICTIONS[config.prediction].to_x0(s, xt, t, predicted), v

    def p(xt, t):
        N, others = len(xt), None if avoid is None else np.full(len(xt), avoid)
        if guidance in (0, 1):
            x0, v = network(xt, t, labels if guidance else others)
        else:                                                       # both predictions in one evaluation
            none = np.full(N, model.config.num_classes)
            both = np.concatenate([none if classes is None else classes for classes in (labels, others)])
            x0, v = network(array_module(xt).concatenate([xt, xt]), np.concatenate([t, t]), both)
            x0, v = x0[N:] + guidance * (x0[:N] - x0[N:]), None if v is None else v[:N]
        return process.p_mean_variance(s, x0, xt, t, clip, config.variance, v)

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
