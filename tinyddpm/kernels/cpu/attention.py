"""Attention, one head of one sample at a time: its logits stay in a thread's cache between the products."""

import math

import numpy as np
from tinyddpm.kernels.cpu.gemm import gemm, multiply, pack
from tinyddpm.kernels.cpu.jit import compiled, parallel
from tinyddpm.kernels.cpu.simd import LANES, exp, fill, largest, load, store, total
from tinyddpm.ops.attention import check_attention


def attention(q, k, v, heads=1):
    check_attention(q, k, v, heads)
    N, L, C = q.shape
    q, k, v = map(np.ascontiguousarray, (q, k, v))
    p = np.empty((N, heads, L, -(-L // LANES) * LANES), q.dtype)      # its rows fill whole vectors
    y = np.empty_like(q)
    _attention(N * heads, q, k, v, 1 / math.sqrt(C // heads), p, y)
    return y, (q, k, v, p)


def attention_backward(dy, cache):
    q, k, v, p = cache
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    N, heads = p.shape[:2]
    _attention_backward(N * heads, np.ascontiguousarray(dy), q, k, v, p, 1 / math.sqrt(q.shape[2] // heads), dq, dk, dv)
    return dq, dk, dv


@compiled
def _place(i, p, C):
    """The sample and the head with number i, and the head's channels."""
    n, head = divmod(i, p.shape[1])
    d = C // p.shape[1]
    return n, head, slice(head * d, (head + 1) * d)


@parallel
def _attention(i, count, q, k, v, scale, p, y):
    """p = softmax(q k^T scale), y = p v"""
    n, head, own = _place(i, p, q.shape[2])
    q, k, v, p, y = q[n, :, own], k[n, :, own], v[n, :, own], p[n, head], y[n, :, own]
    L = len(p)
    multiply(q, pack(k.T), p, False)
    for i in range(L):
        for j in range(L, p.shape[1]):
            p[i, j] = -np.inf
        _softmax(p, i, scale)
    gemm(p[:, :L], v, y, False)


@compiled
def _softmax(p, i, scale):
    """Row i of p becomes exp(scale p) / sum(exp(scale p))."""
    width = p.shape[1]
    top = load(p, (i, 0))
    for j in range(LANES, width, LANES):
        top = max(load(p, (i, j)), top)
    shift = fill(largest(top)) * scale
    sums = fill(p.dtype.type(0))
    for j in range(0, width, LANES):
        e = exp(load(p, (i, j)) * scale - shift)
        store(p, (i, j), e)
        sums = sums + e
    factor = fill(p.dtype.type(1)) / total(sums)
    for j in range(0, width, LANES):
        store(p, (i, j), load(p, (i, j)) * factor)


@parallel
def _attention_backward(i, count, dy, q, k, v, p, scale, dq, dk, dv):
    """The formulas of ops/attention.py, p cached by the forward; dp and the gradient of the logits share an array."""
    n, head, own = _place(i, p, q.shape[2])
    dy, q, k, v, p = dy[n, :, own], q[n, :, own], k[n, :, own], v[n, :, own], p[n, head]
    dq, dk, dv = dq[n, :, own], dk[n, :, own], dv[n, :, own]
    L = len(p)
    dlogits = np.empty_like(p)
    gemm(p[:, :L].T, dy, dv, False)
    multiply(dy, pack(v.T), dlogits, False)
    for i in range(L):
        sums = fill(p.dtype.type(0))
        for j in range(0, p.shape[1], LANES):
            sums = sums + load(p, (i, j)) * load(dlogits, (i, j))
        mean = fill(total(sums))
        for j in range(0, p.shape[1], LANES):
            store(dlogits, (i, j), load(p, (i, j)) * (load(dlogits, (i, j)) - mean) * scale)
    gemm(dlogits[:, :L], k, dq, False)
    gemm(dlogits[:, :L].T, q, dk, False)
