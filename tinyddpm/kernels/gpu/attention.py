"""Attention, with matrix products for each image and head."""

import cupy
import numpy as np

from tinyddpm.kernels.gpu.launch import launch
from tinyddpm.kernels.gpu.product import multiply
from tinyddpm.ops.attention import check_attention


def attention(q, k, v, heads=1):
    check_attention(q, k, v, heads)
    N, L, C = q.shape
    dtype, scale = q.dtype, (C // heads)**-0.5
    q, k, v = (cupy.ascontiguousarray(z) for z in (q, k, v))
    y = cupy.empty((N, L, C), dtype)
    logits, p = (cupy.empty((heads, N, L, L), kind) for kind in (_real(dtype), dtype))
    for h, (qh, kh) in enumerate(zip(_heads(q, heads), _heads(k, heads))):
        multiply(qh, kh, logits[h], transpose_b=True)
    launch("softmax", dtype, (heads * N * L,), (32,), logits, p, L, scale)
    for ph, vh, yh in zip(p, _heads(v, heads), _heads(y, heads)):
        multiply(ph, vh, yh)
    return y, (q, k, v, p, scale)


def attention_backward(dy, cache):
    q, k, v, p, scale = cache
    heads, N, L, _ = p.shape
    dtype, dy = dy.dtype, cupy.ascontiguousarray(dy)
    dq, dk, dv = cupy.empty((3, *dy.shape), dtype)
    dp, dlogits = cupy.empty(p.shape, _real(dtype)), cupy.empty_like(p)
    for h, (dyh, vh, dvh) in enumerate(zip(_heads(dy, heads), _heads(v, heads), _heads(dv, heads))):
        multiply(dyh, vh, dp[h], transpose_b=True)
        multiply(p[h], dyh, dvh, transpose_a=True)
    launch("softmax_backward", dtype, (heads * N * L,), (32,), dp, p, dlogits, L, scale)
    for dl, qh, kh, dqh, dkh in zip(dlogits, *(_heads(z, heads) for z in (q, k, dq, dk))):
        multiply(dl, kh, dqh)
        multiply(dl, qh, dkh, transpose_a=True)
    return dq, dk, dv


def _heads(z, heads):
    """Views (N, L, C / heads) of z (N, L, C), one for each head."""
    width = z.shape[2] // heads
    return [z[:, :, h * width:(h + 1) * width] for h in range(heads)]


def _real(dtype):
    """The type of logits and their gradients: they are never narrowed."""
    return np.float64 if dtype == np.float64 else np.float32
