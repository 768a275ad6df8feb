"""Softmax attention (Vaswani et al. 2017)."""

import math

from tinyddpm import ops
from tinyddpm.backend import array_module


def softmax(x):
    """p = exp(x) / sum(exp(x)) over the last axis. Subtracting the maximum prevents overflow; p is the same."""
    e = array_module(x).exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, p


def softmax_backward(dp, p):
    """dx = p (dp - sum(p dp))"""
    return p * (dp - (p * dp).sum(axis=-1, keepdims=True))


def attention(q, k, v, heads=1):
    """softmax(q k^T / sqrt(d)) v for each head, whose width is d = C / heads.

    q, k, v (N, L, C) -> y (N, L, C)
    """
    check_attention(q, k, v, heads)
    q, k, v = (split_heads(z, heads) for z in (q, k, v))
    scale = 1 / math.sqrt(q.shape[-1])
    p, softmax_cache = ops.softmax(q @ k.swapaxes(-1, -2) * scale)       # (N, heads, L, L)
    return join_heads(p @ v), (q, k, v, p, softmax_cache, scale)


def attention_backward(dy, cache):
    """dy (N, L, C) -> dq, dk, dv (N, L, C)"""
    q, k, v, p, softmax_cache, scale = cache
    dy = split_heads(dy, q.shape[1])
    dv = p.swapaxes(-1, -2) @ dy
    dlogits = ops.softmax_backward(dy @ v.swapaxes(-1, -2), softmax_cache) * scale
    return join_heads(dlogits @ k), join_heads(dlogits.swapaxes(-1, -2) @ q), join_heads(dv)


def check_attention(q, k, v, heads):
    """Raise ValueError for shapes that do not fit."""
    if not q.shape == k.shape == v.shape or q.shape[-1] % heads:
        raise ValueError(f"attention: q is {q.shape}, k {k.shape}, v {v.shape}, heads {heads}; "
                         "expected three equal shapes (N, L, C) and a number of heads that divides C")


def split_heads(z, heads):
    """(N, L, C) -> (N, heads, L, C / heads)"""
    N, L, C = z.shape
    return z.reshape(N, L, heads, C // heads).swapaxes(1, 2)


def join_heads(z):
    """(N, heads, L, d) -> (N, L, heads d)"""
    N, heads, L, d = z.shape
    return z.swapaxes(1, 2).reshape(N, L, heads * d)
