"""The norm of the gradient, and a step of Adam (Kingma and Ba 2015) and of the moving average, over flat buffers."""

import math

from tinyddpm.backend import array_module


def squared_norm(x):
    """The sum of the squares of x (P,)"""
    return x @ x


def adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, grad_scale, ema_decay):
    """Update values, m, v and ema in place: the only operation that changes its arguments.

    values, grads, m, v, ema (P,): parameters, gradients, Adam's two moments, averaged parameters
    step: 1 for the first update; used to correct for the moments' start at zero
    grad_scale: the factor of norm clipping, by which every gradient is multiplied; if it is not finite, nothing changes
    """
    if not math.isfinite(grad_scale):
        return
    g = grads * grad_scale
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    values -= lr * m_hat / (array_module(v).sqrt(v_hat) + eps)
    ema += (1 - ema_decay) * (values - ema)
