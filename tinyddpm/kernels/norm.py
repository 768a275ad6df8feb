"""Group normalization, alone or with SiLU: a sample stays in a thread's cache for its passes (mean, variance, result).

Backward computes the normalized values and SiLU again: memory traffic costs more than arithmetic.
"""

import math
from collections import namedtuple

import numpy as np
from numba import njit, prange

from tinyddpm import ops
from tinyddpm.kernels import FUSED
from tinyddpm.kernels.simd import LANES, exp, load, store

Cache = namedtuple("Cache", "x gamma beta mean rstd silu")


def group_norm(x, gamma, beta, groups, eps=1e-6):
    return _normalize(ops.group_norm, x, gamma, beta, groups, eps, silu=False)


def group_norm_silu(x, gamma, beta, groups, eps=1e-6):
    return _normalize(ops.group_norm_silu, x, gamma, beta, groups, eps, silu=True)


def group_norm_backward(dy, cache):
    return _backward(ops.group_norm_backward, dy, cache)


def group_norm_silu_backward(dy, cache):
    return _backward(ops.group_norm_silu_backward, dy, cache)


def _normalize(readable, x, gamma, beta, groups, eps, silu):
    if x.shape[-1] % LANES:                             # channels that leave a vector half full
        return readable(x, gamma, beta, groups, eps)
    ops.norm.check_group_norm(x, gamma, beta, groups)
    samples = np.ascontiguousarray(x).reshape(len(x), -1, x.shape[-1])
    y = np.empty_like(samples)
    mean, rstd = np.empty((2, len(x), groups), x.dtype)
    _group_norm(samples, gamma, beta, eps, silu, y, mean, rstd)
    return y.reshape(x.shape), Cache(samples, gamma, beta, mean, rstd, silu)


def _backward(readable, dy, cache):
    if not isinstance(cache, Cache):
        return readable(dy, cache)
    dx = np.empty_like(cache.x)
    dgamma, dbeta = np.zeros((2, len(dx), len(cache.gamma)), dx.dtype)
    _group_norm_backward(np.ascontiguousarray(dy).reshape(dx.shape), *cache, dx, dgamma, dbeta)
    return dx.reshape(dy.shape), dgamma.sum(axis=0), dbeta.sum(axis=0)


@njit(parallel=True, fastmath=FUSED, cache=True)
def _group_norm(x, gamma, beta, eps, silu, y, mean, rstd):
    (N, L, C), G = x.shape, mean.shape[1]
    width = C // G
    for n in prange(N):
        sums, shift, scale = np.zeros(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype)
        for i in range(L):
            for c in range(0, C, LANES):
                store(sums, (c,), load(sums, (c,)) + load(x, (n, i, c)))
        for g in range(G):
            mean[n, g] = sums[g * width:(g + 1) * width].sum() / (L * width)
            shift[g * width:(g + 1) * width] = mean[n, g]
        sums[:] = 0
        for i in range(L):
            for c in range(0, C, LANES):
                centred = load(x, (n, i, c)) - load(shift, (c,))
                store(sums, (c,), load(sums, (c,)) + centred * centred)
        for g in range(G):
            rstd[n, g] = 1 / math.sqrt(sums[g * width:(g + 1) * width].sum() / (L * width) + eps)
            for c in range(g * width, (g + 1) * width):
                scale[c] = rstd[n, g] * gamma[c]
                shift[c] = beta[c] - mean[n, g] * scale[c]
        for i in range(L):
            for c in range(0, C, LANES):
                z = load(x, (n, i, c)) * load(scale, (c,)) + load(shift, (c,))
                if silu:
                    z = z / (1 + exp(-1 * z))
                store(y, (n, i, c), z)


@njit(parallel=True, fastmath=FUSED, cache=True)
def _group_norm_backward(dy, x, gamma, beta, mean, rstd, silu, dx, dgamma, dbeta):
    """The formula of ops/norm.py; dz, the gradient between the norm and SiLU, is kept in dx on the way."""
    (N, L, C), G = x.shape, mean.shape[1]
    width = C // G
    for n in prange(N):
        m, r = np.empty(C, x.dtype), np.empty(C, x.dtype)
        for c in range(C):
            m[c], r[c] = mean[n, c // width], rstd[n, c // width]
        for i in range(L):
            for c in range(0, C, LANES):
                dz, normal = load(dy, (n, i, c)), (load(x, (n, i, c)) - load(m, (c,))) * load(r, (c,))
                if silu:
                    z = normal * load(gamma, (c,)) + load(beta, (c,))
                    s = 1 / (1 + exp(-1 * z))
                    dz = dz * s * (1 + z * (1 - s))
                store(dx, (n, i, c), dz)
                store(dbeta, (n, c), load(dbeta, (n, c)) + dz)
                store(dgamma, (n, c), load(dgamma, (n, c)) + dz * normal)
        mean_dn, mean_dn_n = np.empty(C, x.dtype), np.empty(C, x.dtype)
        for g in range(G):
            group = slice(g * width, (g + 1) * width)
            mean_dn[group] = (dbeta[n, group] * gamma[group]).sum() / (L * width)
            mean_dn_n[group] = (dgamma[n, group] * gamma[group]).sum() / (L * width)
        for i in range(L):
            for c in range(0, C, LANES):
                dn, normal = load(dx, (n, i, c)) * load(gamma, (c,)), (load(x, (n, i, c)) - load(m, (c,))) * load(r, (c,))
                store(dx, (n, i, c), load(r, (c,)) * (dn - load(mean_dn, (c,)) - normal * load(mean_dn_n, (c,))))
