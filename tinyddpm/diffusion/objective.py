"""What training minimizes, and what the network is asked to predict."""

from tinyddpm.backend import ops
from tinyddpm.diffusion import process

# What the network may predict: name -> (the target, how the noise follows from the prediction).
PREDICTIONS = {
    "eps": (lambda s, x0, xt, t, eps: eps, lambda s, xt, t, y: y),
    "x0": (lambda s, x0, xt, t, eps: x0, process.eps_from_x0),
    "v": (lambda s, x0, xt, t, eps: process.v_from_eps(s, xt, t, eps), process.eps_from_v),
}


def l_simple(model, s, x0, t, eps, prediction="eps", **inputs):
    """One evaluation of L_simple (Eq. 14) with its gradient: the inner lines of Algorithm 1.

    model: its forward(xt, t, **inputs) makes the prediction, its backward adds up the gradients
    x0, eps (N, ...): data in [-1, 1] and standard normal noise; t (N,) integers 1..T
    prediction: what the network predicts, "eps" as in the paper, or "x0" or "v"
    Returns the loss, the mean over all elements of (target - prediction)^2.
    """
    xt = process.q_sample(s, x0, t, eps)
    y = model.forward(xt, t, **inputs)
    target = PREDICTIONS[prediction][0](s, x0, xt, t, eps)
    loss, cache = ops.mean_squared_error(y, target)                      # Eq. 14
    model.backward(ops.mean_squared_error_backward(1.0, cache))
    return loss


def noise_predictor(model, s, prediction="eps", labels=None):
    """predict_eps(x, t) of a network in evaluation mode, whatever it predicts; labels (N,) for one with classes."""
    if model.training:
        raise ValueError("sampling needs the model in evaluation mode (dropout off): call model.eval() first")
    inputs = {} if labels is None else {"labels": labels}
    to_eps = PREDICTIONS[prediction][1]
    return lambda x, t: to_eps(s, x, t, model.forward(x, t, **inputs))
