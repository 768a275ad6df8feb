"""Adam and the moving average: five buffers, read and written once."""

import math

from tinyddpm.kernels.cpu.jit import parallel, part, threads


def adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, grad_scale, ema_decay):
    if not math.isfinite(grad_scale):
        return
    real = values.dtype.type
    rate, correction = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    numbers = rate, correction, 1 - beta1, 1 - beta2, eps, grad_scale, 1 - ema_decay
    _adam_ema(threads(len(values)), values, grads, m, v, ema, *map(real, numbers))


@parallel
def _adam_ema(worker, workers, values, grads, m, v, ema, rate, correction, rest1, rest2, eps, grad_scale, rest_of_ema):
    """rest1, rest2, rest_of_ema: 1 - beta1, 1 - beta2, 1 - ema_decay"""
    start, stop = part(worker, workers, len(values))
    values, grads, m, v, ema = (values[start:stop], grads[start:stop], m[start:stop], v[start:stop], ema[start:stop])
    for i in range(len(values)):
        g = grads[i] * grad_scale
        m[i] += rest1 * (g - m[i])
        v[i] += rest2 * (g * g - v[i])
        values[i] -= rate * m[i] / (math.sqrt(v[i]) * correction + eps)
        ema[i] += rest_of_ema * (values[i] - ema[i])
