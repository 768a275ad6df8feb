"""From a network's output to the reverse process: what the network predicts, and what follows from it.

The output has the shape of the data, or twice its channels, [prediction, v], where the variance is learned.
"""

from collections import namedtuple

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion import process
from tinyddpm.diffusion.schedule import per_sample

Prediction = namedtuple("Prediction", "target to_x0 x0_slope x0_direct")
Prediction.__doc__ = """What a network may predict: target(s, x0, xt, t, eps); to_x0(s, xt, t, prediction), the x_0 that
follows from it; and the derivatives of that x_0, x0_slope(s, t) by the prediction and x0_direct(s, t) by x_t."""

PREDICTIONS = {
    "eps": Prediction(lambda s, x0, xt, t, eps: eps, process.x0_from_eps,
                      lambda s, t: -np.sqrt((1 - s.alpha_bar[t]) / s.alpha_bar[t]),
                      lambda s, t: 1 / np.sqrt(s.alpha_bar[t])),
    "x0": Prediction(lambda s, x0, xt, t, eps: x0, lambda s, xt, t, y: y, lambda s, t: np.ones(np.shape(t)),
                     lambda s, t: np.zeros(np.shape(t))),
    "mu": Prediction(lambda s, x0, xt, t, eps: process.mu_from_x0(s, x0, xt, t), process.x0_from_mu,
                     lambda s, t: 1 / process.posterior_coefficients(s, t)[0],
                     lambda s, t: -np.divide(*process.posterior_coefficients(s, t)[::-1])),
    "v": Prediction(lambda s, x0, xt, t, eps: process.v_from_x0(s, x0, t, eps), process.x0_from_v,
                    lambda s, t: -np.sqrt(1 - s.alpha_bar[t]), lambda s, t: np.sqrt(s.alpha_bar[t])),
    "u": Prediction(lambda s, x0, xt, t, eps: eps - x0, process.x0_from_u,
                    lambda s, t: -1 / (1 + np.sqrt(s.alpha_bar[t] / (1 - s.alpha_bar[t]))),
                    lambda s, t: 1 / (np.sqrt(s.alpha_bar[t]) + np.sqrt(1 - s.alpha_bar[t]))),
}


def reverse_process(model, config, labels=None, guidance=1.0, avoid=None, clip=True, interval=None):
    """p(xt, t) of a network in evaluation mode: the mean, the variance and the x_0 of p(x_{t-1} | x_t), for t (N,).

    config: the DiffusionConfig that the network was trained with
    labels: (N,) for a network with classes; None: no label
    guidance: w of classifier-free guidance (Ho and Salimans 2022): x_0 is b + w (a - b), where the network predicts a
        with the labels and b without, or b with the class `avoid`. w = 1 gives a, w = 0 gives b, a larger w goes
        further from b, and a negative one away from the labels
    clip: keep x_0 within [-1, 1], after guidance
    interval: (first, last): w is 1 unless first <= t <= last, for the t of the first sample (Kynkäänniemi et al. 2024)
    Raises ValueError for a model in training mode, for guidance without labels, and for an empty interval; p, where
    the output is not finite.
    """
    if model.training:
        raise ValueError("the reverse process needs a model in evaluation mode (dropout off): call model.eval() first")
    if guidance != 1 and labels is None and avoid is None:
        raise ValueError(f"guidance is {guidance}, which needs labels")
    if interval and not interval[0] <= interval[1]:
        raise ValueError(f"the interval of guidance is {interval[0]} to {interval[1]}; expected the smaller t first")
    return ReverseProcess(model, config, labels, guidance, avoid, clip, interval)


class ReverseProcess:
    """See reverse_process. t may be real, and after model.eval(gradients=True), p.backward follows each p(xt, t)."""

    def __init__(self, model, config, labels, guidance, avoid, clip, interval):
        self.model, self.config, self.s, self.clip = model, config, config.make_schedule(), clip
        self.labels, self.guidance, self.avoid, self.interval = labels, guidance, avoid, interval

    def __call__(self, xt, t):
        first, last = self.interval or (0, np.inf)
        N, w = len(xt), self.guidance if first <= t[0] <= last else 1
        others = None if self.avoid is None else np.full(N, self.avoid)
        if w in (0, 1):
            x0, v = self._network(xt, t, self.labels if w else others)
        else:                                                       # both predictions in one evaluation
            none = np.full(N, self.model.config.num_classes)
            both = np.concatenate([none if classes is None else classes for classes in (self.labels, others)])
            x0, v = self._network(array_module(xt).concatenate([xt, xt]), np.concatenate([t, t]), both)
            x0, v = x0[N:] + w * (x0[:N] - x0[N:]), None if v is None else v[:N]
        self.last = t, w, x0, v
        return process.p_mean_variance(self.s, x0, xt, t, self.clip, self.config.variance, v)

    def backward(self, dx0):
        """The gradient with respect to xt of the last call, from that with respect to its x_0 (N, ...)."""
        t, w, x0, v = self.last
        xp = array_module(dx0)
        if self.clip:
            dx0 = xp.where(abs(x0) <= 1, dx0, 0)
        if w not in (0, 1):
            dx0, t = xp.concatenate([w * dx0, (1 - w) * dx0]), np.concatenate([t, t])
        chosen = PREDICTIONS[self.config.prediction]
        dv = None if v is None else xp.zeros_like(dx0)
        dxt = (per_sample(chosen.x0_direct(self.s, t), dx0) * dx0
               + self.model.backward(join(per_sample(chosen.x0_slope(self.s, t), dx0) * dx0, dv)))
        return dxt if w in (0, 1) else dxt[:len(x0)] + dxt[len(x0):]

    def _network(self, xt, t, labels):
        y = self.model.forward(xt, t) if labels is None else self.model.forward(xt, t, labels=labels)
        if not array_module(y).isfinite(y).all():
            raise ValueError(f"the network's output is not finite at t = {t[0]:g}")
        predicted, v = split(y, self.config.variance)
        return PREDICTIONS[self.config.prediction].to_x0(self.s, xt, t, predicted), v


def split(y, variance):
    """Split a network's output into (prediction, v); v is None unless the variance is learned."""
    if variance != "learned":
        return y, None
    half = y.shape[-1] // 2
    return y[..., :half], y[..., half:]


def join(dprediction, dv):
    """The gradient with respect to the output, from those with respect to its parts."""
    return dprediction if dv is None else array_module(dprediction).concatenate([dprediction, dv], axis=-1)
