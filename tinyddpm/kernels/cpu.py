"""The twins for the CPU: numba, and BLAS inside its parallel loops. What is no more than memory traffic is here itself.

In every kernel a loop over `worker` gives each thread one fixed part of the work, so that sums are added in the same
order in every run.
"""

import math

import numpy as np
from numba import njit, prange

from tinyddpm.kernels import FUSED, blas, memory, threads
from tinyddpm.kernels.attention import attention, attention_backward
from tinyddpm.kernels.convolution import conv2d, conv2d_add, conv2d_add_backward, conv2d_backward
from tinyddpm.kernels.linear import linear, linear_backward
from tinyddpm.kernels.norm import group_norm, group_norm_backward, group_norm_silu, group_norm_silu_backward
from tinyddpm.ops.concatenate import check_add, check_concatenate


def activate():
    """Give the cores to numba's threads, and return the twins: name -> function."""
    memory.keep()
    threads.share()
    twins = [group_norm, group_norm_backward, group_norm_silu, group_norm_silu_backward, adam_ema,
             add, concatenate, concatenate_backward, upsample, upsample_backward]
    if blas.library:
        twins += [linear, linear_backward, conv2d, conv2d_backward, conv2d_add, conv2d_add_backward, attention, attention_backward]
    return {f.__name__: f for f in twins}


# ---- sums, concatenation and upsampling: memory traffic alone, shared by the threads ----

def add(a, b):
    check_add(a, b)
    y = np.empty_like(a)
    _add(a.reshape(-1), b.reshape(-1), y.reshape(-1))
    return y


@njit(parallel=True, fastmath=FUSED, cache=True)
def _add(a, b, y):
    for i in prange(len(y)):
        y[i] = a[i] + b[i]


def concatenate(a, b):
    check_concatenate(a, b)
    channels = a.shape[-1], b.shape[-1]
    y = np.empty((*a.shape[:-1], sum(channels)), a.dtype)
    _concatenate(a.reshape(-1, channels[0]), b.reshape(-1, channels[1]), y.reshape(-1, sum(channels)))
    return y, channels[0]


@njit(parallel=True, fastmath=FUSED, cache=True)
def _concatenate(a, b, y):
    C = a.shape[1]
    for i in prange(len(y)):
        for c in range(C):
            y[i, c] = a[i, c]
        for c in range(b.shape[1]):
            y[i, C + c] = b[i, c]


def concatenate_backward(dy, channels):
    da, db = np.empty((*dy.shape[:-1], channels), dy.dtype), np.empty((*dy.shape[:-1], dy.shape[-1] - channels), dy.dtype)
    _split(dy.reshape(-1, dy.shape[-1]), da.reshape(-1, channels), db.reshape(-1, db.shape[-1]))
    return da, db


@njit(parallel=True, fastmath=FUSED, cache=True)
def _split(y, a, b):
    C = a.shape[1]
    for i in prange(len(y)):
        for c in range(C):
            a[i, c] = y[i, c]
        for c in range(b.shape[1]):
            b[i, c] = y[i, C + c]


def upsample(x):
    N, H, W, C = x.shape
    y = np.empty((N, 2 * H, 2 * W, C), x.dtype)
    _upsample(np.ascontiguousarray(x).reshape(N * H, W, C), y.reshape(N * H, 2, W, 2, C))
    return y, None


@njit(parallel=True, fastmath=FUSED, cache=True)
def _upsample(x, y):
    for i in prange(len(x)):
        for j in range(x.shape[1]):
            for c in range(x.shape[2]):
                y[i, 0, j, 0, c] = y[i, 0, j, 1, c] = y[i, 1, j, 0, c] = y[i, 1, j, 1, c] = x[i, j, c]


def upsample_backward(dy, cache):
    N, H, W, C = dy.shape
    dx = np.empty((N, H // 2, W // 2, C), dy.dtype)
    _upsample_backward(np.ascontiguousarray(dy).reshape(-1, 2, W // 2, 2, C), dx.reshape(-1, W // 2, C))
    return dx


@njit(parallel=True, fastmath=FUSED, cache=True)
def _upsample_backward(dy, dx):
    for i in prange(len(dx)):
        for j in range(dx.shape[1]):
            for c in range(dx.shape[2]):
                dx[i, j, c] = dy[i, 0, j, 0, c] + dy[i, 0, j, 1, c] + dy[i, 1, j, 0, c] + dy[i, 1, j, 1, c]


# ---- Adam and the moving average: five buffers, read and written once ----

def adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, grad_scale, ema_decay):
    real = values.dtype.type
    rate, correction = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    _adam_ema(values, grads, m, v, ema, *map(real, (rate, correction, 1 - beta1, 1 - beta2, eps, grad_scale, 1 - ema_decay)))


@njit(parallel=True, fastmath=FUSED, cache=True)
def _adam_ema(values, grads, m, v, ema, rate, correction, one_minus_beta1, one_minus_beta2, eps, grad_scale, one_minus_decay):
    for i in prange(len(values)):
        g = grads[i] * grad_scale
        m[i] += one_minus_beta1 * (g - m[i])
        v[i] += one_minus_beta2 * (g * g - v[i])
        values[i] -= rate * m[i] / (math.sqrt(v[i]) * correction + eps)
        ema[i] += one_minus_decay * (values[i] - ema[i])
