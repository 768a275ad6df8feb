"""Group normalization, alone or with SiLU: a sample stays in a thread's cache for its passes (mean, variance, result).

Backward recomputes the normalized values and SiLU: memory traffic costs more than arithmetic. Where the channels do not
fill whole vectors, several pixels are taken for one with as many times the channels; group g then has channels in each.
"""

import math
from collections import namedtuple
from functools import partial

import numpy as np
from tinyddpm.kernels.cpu.jit import compiled, parallel
from tinyddpm.kernels.cpu.simd import LANES, exp, load, store
from tinyddpm.kernels.fallback import Fallback, fallback
from tinyddpm.ops import norm as readable

Cache = namedtuple("Cache", "x gamma beta group mean rstd silu")        # group: that of each channel


def _normalize(name, x, gamma, beta, groups, eps):
    readable.check_group_norm(x, gamma, beta, groups)
    C = x.shape[-1]
    pixels = LANES // math.gcd(C, LANES)
    if x[0].size % (pixels * C):
        return fallback(readable, name, x, gamma, beta, groups, eps)
    samples = np.ascontiguousarray(x.reshape(len(x), -1, pixels * C))
    gamma, beta = np.tile(gamma, pixels), np.tile(beta, pixels)
    y, silu = np.empty_like(samples), name == "group_norm_silu"
    mean, rstd = np.empty((2, len(x), groups), x.dtype)
    group = np.arange(pixels * C) // (C // groups) % groups
    _group_norm(len(x), samples, gamma, beta, group, eps, silu, y, mean, rstd)
    return y.reshape(x.shape), Cache(samples, gamma, beta, group, mean, rstd, silu)


group_norm, group_norm_silu = (partial(_normalize, name) for name in ("group_norm", "group_norm_silu"))


def group_norm_backward(dy, cache):
    if isinstance(cache, Fallback):
        return cache.backward(dy, cache.cache)
    dx = np.empty_like(cache.x)
    dgamma, dbeta = np.zeros((2, len(dx), len(cache.gamma)), dx.dtype)
    _group_norm_backward(len(dx), np.ascontiguousarray(dy).reshape(dx.shape), *cache, dx, dgamma, dbeta)
    dgamma, dbeta = (a.reshape(-1, dy.shape[-1]).sum(axis=0) for a in (dgamma, dbeta))
    return dx.reshape(dy.shape), dgamma, dbeta


group_norm_silu_backward = group_norm_backward


@parallel
def _group_norm(n, N, x, gamma, beta, group, eps, silu, y, mean, rstd):
    x, y, mean, rstd = x[n], y[n], mean[n], rstd[n]
    (L, C), G = x.shape, len(mean)
    sums, scale, shift = np.zeros(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype)
    for i in range(L):
        for c in range(0, C, LANES):
            store(sums, (c,), load(sums, (c,)) + load(x, (i, c)))
    _means(sums, L, group, mean)
    for c in range(C):
        shift[c], sums[c] = mean[group[c]], 0
    for i in range(L):
        for c in range(0, C, LANES):
            centred = load(x, (i, c)) - load(shift, (c,))
            store(sums, (c,), load(sums, (c,)) + centred * centred)
    _means(sums, L, group, rstd)
    for g in range(G):
        rstd[g] = 1 / math.sqrt(rstd[g] + eps)
    for c in range(C):
        scale[c] = rstd[group[c]] * gamma[c]
        shift[c] = beta[c] - mean[group[c]] * scale[c]
    for i in range(L):
        for c in range(0, C, LANES):
            z = load(x, (i, c)) * load(scale, (c,)) + load(shift, (c,))
            if silu:
                z = z / (1 + exp(-1 * z))
            store(y, (i, c), z)


@parallel
def _group_norm_backward(n, N, dy, x, gamma, beta, group, mean, rstd, silu, dx, dgamma, dbeta):
    """The formula of ops/norm.py; dz, the gradient between the norm and SiLU, is stored in dx temporarily."""
    dy, x, mean, rstd, dx, dgamma, dbeta = dy[n], x[n], mean[n], rstd[n], dx[n], dgamma[n], dbeta[n]
    L, C = x.shape
    m, r = np.empty(C, x.dtype), np.empty(C, x.dtype)
    for c in range(C):
        m[c], r[c] = mean[group[c]], rstd[group[c]]
    for i in range(L):
        for c in range(0, C, LANES):
            dz = load(dy, (i, c))
            normal = (load(x, (i, c)) - load(m, (c,))) * load(r, (c,))
            if silu:
                z = normal * load(gamma, (c,)) + load(beta, (c,))
                s = 1 / (1 + exp(-1 * z))
                dz = dz * s * (1 + z * (1 - s))
            store(dx, (i, c), dz)
            store(dbeta, (c,), load(dbeta, (c,)) + dz)
            store(dgamma, (c,), load(dgamma, (c,)) + dz * normal)
    mean_dn, mean_dn_n = np.empty_like(mean), np.empty_like(mean)
    offset, slope = np.empty(C, x.dtype), np.empty(C, x.dtype)
    _means(dbeta * gamma, L, group, mean_dn)
    _means(dgamma * gamma, L, group, mean_dn_n)
    for c in range(C):
        offset[c], slope[c] = mean_dn[group[c]], mean_dn_n[group[c]]
    for i in range(L):
        for c in range(0, C, LANES):
            dn = load(dx, (i, c)) * load(gamma, (c,))
            normal = (load(x, (i, c)) - load(m, (c,))) * load(r, (c,))
            store(dx, (i, c), load(r, (c,)) * (dn - load(offset, (c,)) - normal * load(slope, (c,))))


@compiled
def _means(sums, L, group, means):
    """From the sums over L pixels of each channel, the means over each group's pixels and channels."""
    means[:] = 0
    for c in range(len(sums)):
        means[group[c]] += sums[c]
    means /= L * len(sums) // len(means)
