"""The twins for the CPU: numba, and BLAS inside its parallel loops.

In every kernel a loop over `worker` gives each thread one fixed part of the work, so that sums are added in the same
order in every run.
"""

import math
import sys

from numba import prange
from numba.core import event

from tinyddpm.kernels import blas, memory, parallel, threads
from tinyddpm.kernels.attention import attention, attention_backward
from tinyddpm.kernels.convolution import conv2d, conv2d_add, conv2d_add_backward, conv2d_backward
from tinyddpm.kernels.linear import linear, linear_backward
from tinyddpm.kernels.norm import group_norm, group_norm_backward, group_norm_silu, group_norm_silu_backward
from tinyddpm.kernels.runs import add, concatenate, concatenate_backward, upsample, upsample_backward


class Announcement(event.Listener):
    """One line when the first kernel has to be compiled; later starts find them in numba's cache."""

    made = False

    def on_start(self, compilation):
        if not self.made and compilation.data["dispatcher"].__module__.startswith("tinyddpm"):
            self.made = True
            print("compiling the kernels: half a minute, the first time only", file=sys.stderr, flush=True)

    def on_end(self, compilation):
        pass


event.register("numba:compile", Announcement())


def activate():
    """Give the cores to numba's threads, and return the twins: name -> function."""
    memory.keep()
    threads.share()
    twins = [group_norm, group_norm_backward, group_norm_silu, group_norm_silu_backward, adam_ema,
             add, concatenate, concatenate_backward, upsample, upsample_backward]
    if blas.library:
        twins += [linear, linear_backward, conv2d, conv2d_backward, conv2d_add, conv2d_add_backward, attention, attention_backward]
    return {f.__name__: f for f in twins}


# ---- Adam and the moving average: five buffers, read and written once ----

def adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, grad_scale, ema_decay):
    if not math.isfinite(grad_scale):
        return
    real = values.dtype.type
    rate, correction = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    _adam_ema(values, grads, m, v, ema, *map(real, (rate, correction, 1 - beta1, 1 - beta2, eps, grad_scale, 1 - ema_decay)))


@parallel
def _adam_ema(values, grads, m, v, ema, rate, correction, one_minus_beta1, one_minus_beta2, eps, grad_scale, one_minus_decay):
    for i in prange(len(values)):
        g = grads[i] * grad_scale
        m[i] += one_minus_beta1 * (g - m[i])
        v[i] += one_minus_beta2 * (g * g - v[i])
        values[i] -= rate * m[i] / (math.sqrt(v[i]) * correction + eps)
        ema[i] += one_minus_decay * (values[i] - ema[i])
