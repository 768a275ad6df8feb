"""Adam and the moving average in one pass."""

import cupy

from tinyddpm.kernels.gpu.launch import launch_each


def adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, grad_scale, ema_decay):
    scale = cupy.asarray(grad_scale, values.dtype)
    launch_each("adam_ema", values.dtype, values.size, values, grads, m, v, ema, scale, lr / (1 - beta1**step),
                (1 - beta2**step)**-0.5, 1 - beta1, 1 - beta2, eps, 1 - ema_decay)
