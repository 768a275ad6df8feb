"""The losses that training minimizes: L_simple, the variational bound L, the hybrid of both, and other weights.

A loss is a function of the network's output y that returns its value and its gradient with respect to y. The output has
the shape of the data, or twice its channels, [prediction, v], where the variance of the reverse process is learned.
"""

import numpy as np

from tinyddpm import ops
from tinyddpm.backend import array_module
from tinyddpm.diffusion import process
from tinyddpm.diffusion.likelihood import bound_terms, bound_terms_backward
from tinyddpm.diffusion.prediction import PREDICTIONS, join, split
from tinyddpm.diffusion.schedule import per_sample

LARGEST_WEIGHT = 5.0            # of l_capped


def l_simple(s, x0, xt, t, eps, y, prediction="eps", variance="large"):
    """L_simple (Eq. 14), the mean over all elements of (target - prediction)^2, and its gradient with respect to y."""
    predicted, v = split(y, variance)
    loss, cache = ops.mean_squared_error(predicted, PREDICTIONS[prediction].target(s, x0, xt, t, eps))      # Eq. 14
    dv = None if v is None else array_module(v).zeros_like(v)
    return loss, join(ops.mean_squared_error_backward(1.0, cache), dv)


def l_capped(s, x0, xt, t, eps, y, prediction="eps", variance="large"):
    """L_simple of v with less weight where little noise is left: for images that look right after a short training.

    The squared error of x_0 counts min(1 + SNR, 5) times, whatever is predicted; in L_simple of v, 1 + SNR times. This
    is Min-SNR (Hang et al. 2023), except that strong noise keeps its weight: objects take shape there.
    Returns the loss and its gradient with respect to y.
    """
    factor = np.sqrt(np.minimum(1 + s.snr[t], LARGEST_WEIGHT)) * PREDICTIONS[prediction].x0_slope(s, t)
    factor = per_sample(factor, xt)
    loss, cache = ops.mean_squared_error(factor * y, factor * PREDICTIONS[prediction].target(s, x0, xt, t, eps))
    return loss, factor * ops.mean_squared_error_backward(1.0, cache)


def l_bound(s, x0, xt, t, eps, y, prediction="eps", variance="large"):
    """L, the variational bound (Eq. 5) in bits per dimension, without its constant L_T and divided by T.

    t comes from draw_times, so each term L_{t-1} is divided by T times its probability: the mean is over all t.
    Returns the loss and its gradient with respect to y.
    """
    return _weighted_terms(s, x0, xt, t, y, prediction, variance, 1 / (s.T * time_probabilities(s)[t - 1]))


def l_hybrid(s, x0, xt, t, eps, y, prediction="eps", variance="learned"):
    """L_simple + 0.001 L, where L trains the variance alone: its gradient stops at the mean (Nichol and Dhariwal 2021).

    t is uniform. The mean of the terms is L / T, so its weight here is T / 1000.
    """
    simple, dsimple = l_simple(s, x0, xt, t, eps, y, prediction, variance)
    bound, dbound = _weighted_terms(s, x0, xt, t, y, prediction, variance, np.ones(len(t)), through_mean=False)
    return simple + s.T / 1000 * bound, dsimple + s.T / 1000 * dbound


def _weighted_terms(s, x0, xt, t, y, prediction, variance, weights, through_mean=True):
    """The mean of the terms L_{t-1} (Eq. 5), each times its weight, and the gradient with respect to y."""
    predicted, v = split(y, variance)
    chosen = PREDICTIONS[prediction]
    x0_predicted = chosen.to_x0(s, xt, t, predicted)
    mean, sigma2, _ = process.p_mean_variance(s, x0_predicted, xt, t, clip=False, variance=variance, v=v)
    terms, cache = bound_terms(s, x0, xt, t, mean, array_module(y).log(sigma2))                        # Eq. 5
    weights = per_sample(weights / len(t), terms)
    dmean, dlog_variance = bound_terms_backward(weights, cache)
    slope = process.posterior_coefficients(s, t)[0] * chosen.x0_slope(s, t) * through_mean    # d mean / d prediction
    dv = None if v is None else per_sample(process.log_variance_slope(s, t), v) * dlog_variance
    return (weights * terms).sum(), join(per_sample(slope, y) * dmean, dv)


def bound_weights(s, t):
    """The factors of |eps - eps_theta|^2 in Eq. 12, for the large variance; L_simple drops them."""
    return s.beta[t]**2 / (2 * s.variance("large")[t] * s.alpha[t] * (1 - s.alpha_bar[t]))                 # Eq. 12


def time_probabilities(s):
    """The probabilities of t = 1..T in training on L: proportional to the weights of Eq. 12, without their 1 / alpha_t.

    With uniform t, the few small t with half of the weight would be drawn rarely, with large gradients. 1 / alpha_t
    is large only where a schedule ends in almost pure noise (the cosine schedule, at T), where eps is easy to predict.
    """
    t = np.arange(1, s.T + 1)
    weights = bound_weights(s, t) * s.alpha[t]
    return weights / weights.sum()


def draw_times(s, loss, N, rng):
    """t (N,) for a training step: uniform on 1..T (Algorithm 1); for L, from time_probabilities.

    For "tilted", L_simple with more weight on strong noise, where objects take shape, it is in proportion to t. For
    "logit-normal", log(noise / signal) is standard normal, so that the middle counts most (Esser et al. 2024).
    """
    times = np.arange(1, s.T + 1)
    if loss == "L":
        return rng.choice(times, N, p=time_probabilities(s))
    if loss in ("tilted", "logit-normal"):
        log_sigma = -np.log(s.snr[1:]) / 2
        weights = times if loss == "tilted" else np.exp(-log_sigma**2 / 2) * np.gradient(log_sigma)
        return rng.choice(times, N, p=weights / weights.sum())
    return rng.integers(1, s.T + 1, N)


LOSSES = {"simple": l_simple, "tilted": l_simple, "logit-normal": l_simple, "capped": l_capped, "L": l_bound,
          "hybrid": l_hybrid}


def loss_and_gradient(model, s, x0, t, eps, loss="simple", prediction="eps", variance="large", loss_scale=1.0,
                      **inputs):
    """Return the loss on a batch, and add its gradient to the model's: the inner lines of Algorithm 1.

    model: its forward(xt, t, **inputs) makes the prediction, its backward adds to the gradients of its parameters
    x0, eps (N, ...): data in [-1, 1] and standard normal noise; t (N,) integers 1..T
    loss: a name in LOSSES; prediction: a name in PREDICTIONS, "eps" in the paper
    loss_scale: a factor that multiplies the gradients, but not the returned loss
    """
    xt = process.q_sample(s, x0, t, eps)
    value, dy = LOSSES[loss](s, x0, xt, t, eps, model.forward(xt, t, **inputs), prediction, variance)
    model.backward(dy * loss_scale)
    return value
