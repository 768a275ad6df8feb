"""The norm of the gradient, and Adam with the moving average, each in one pass."""

import cupy

from tinyddpm.kernels.gpu.launch import contiguous, launch, launch_each, pack
from tinyddpm.kernels.gpu.product import column_sums

BLOCKS = 1024               # of a sum of squares


def squared_norm(x):
    sums, V = cupy.empty((1, BLOCKS, 1), x.dtype), pack(x.dtype, x.size)
    launch("sum_squares", x.dtype, (BLOCKS,), (256,), contiguous(x), sums, x.size // V, V=V)
    return column_sums(sums)[0, 0]


def adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, grad_scale, ema_decay):
    scale = cupy.asarray(grad_scale, values.dtype)
    launch_each("adam_ema", values.dtype, values.size, values, grads, m, v, ema, scale, lr / (1 - beta1**step),
                (1 - beta2**step)**-0.5, 1 - beta1, 1 - beta2, eps, 1 - ema_decay)
