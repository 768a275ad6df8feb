"""Attention, one head of one sample at a time, so that its logits stay in a thread's cache from product to softmax to product."""

import math

import numpy as np
from numba import njit, prange

from tinyddpm.kernels import FUSED
from tinyddpm.kernels.blas import gemm
from tinyddpm.kernels.simd import LANES, exp, fill, largest, load, store, total
from tinyddpm.ops.attention import check_attention


def attention(q, k, v, heads=1):
    check_attention(q, k, v, heads)
    N, L, C = q.shape
    q, k, v = map(np.ascontiguousarray, (q, k, v))
    p = np.empty((N, heads, L, -(-L // LANES) * LANES), q.dtype)      # its rows fill whole vectors
    y = np.empty_like(q)
    _attention(q, k, v, 1 / math.sqrt(C // heads), p, y)
    return y, (q, k, v, p)


def attention_backward(dy, cache):
    q, k, v, p = cache
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    _attention_backward(np.ascontiguousarray(dy), q, k, v, p, 1 / math.sqrt(q.shape[2] // p.shape[1]), dq, dk, dv)
    return dq, dk, dv


@njit(parallel=True, fastmath=FUSED, cache=True)
def _attention(q, k, v, scale, p, y):
    (N, heads, L, _), d = p.shape, q.shape[2] // p.shape[1]
    for job in prange(N * heads):
        n, head = job // heads, job % heads
        own = slice(head * d, (head + 1) * d)
        logits = p[n, head]
        gemm(q[n, :, own], k[n, :, own], logits[:, :L], False, True, False)
        logits[:, L:] = -np.inf
        for i in range(L):
            _softmax(logits, i, scale)
        gemm(logits[:, :L], v[n, :, own], y[n, :, own], False, False, False)


@njit(fastmath=FUSED, cache=True)
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


@njit(parallel=True, fastmath=FUSED, cache=True)
def _attention_backward(dy, q, k, v, p, scale, dq, dk, dv):
    """dv = p^T dy; with dp = dy v^T, the logits' gradient is p (dp - sum(p dp)), times k for dq, its transpose times q for dk."""
    (N, heads, L, width), d = p.shape, q.shape[2] // p.shape[1]
    for job in prange(N * heads):
        n, head = job // heads, job % heads
        own = slice(head * d, (head + 1) * d)
        gemm(p[n, head, :, :L], dy[n, :, own], dv[n, :, own], True, False, False)
        dlogits = np.zeros((L, width), p.dtype)
        gemm(dy[n, :, own], v[n, :, own], dlogits[:, :L], False, True, False)
        for i in range(L):
            sums = fill(p.dtype.type(0))
            for j in range(0, width, LANES):
                sums = sums + load(p, (n, head, i, j)) * load(dlogits, (i, j))
            mean = fill(total(sums))
            for j in range(0, width, LANES):
                store(dlogits, (i, j), load(p, (n, head, i, j)) * (load(dlogits, (i, j)) - mean) * scale)
        gemm(dlogits[:, :L], k[n, :, own], dq[n, :, own], False, False, False)
        gemm(dlogits[:, :L], q[n, :, own], dk[n, :, own], True, False, False)
