"""Group normalization, alone or with SiLU."""

from collections import namedtuple

import cupy

from tinyddpm.kernels.gpu.launch import launch
from tinyddpm.kernels.gpu.product import column_sums
from tinyddpm.ops import norm as readable

Cache = namedtuple("Cache", "x gamma beta mean rstd silu")


def group_norm(x, gamma, beta, groups, eps):
    return _normalize(readable.group_norm, x, gamma, beta, groups, eps, 0)


def group_norm_silu(x, gamma, beta, groups, eps):
    return _normalize(readable.group_norm_silu, x, gamma, beta, groups, eps, 1)


def _normalize(fallback, x, gamma, beta, groups, eps, silu):
    readable.check_group_norm(x, gamma, beta, groups)
    if x.shape[-1] // groups > 1024:                        # more channels in a group than a block has threads
        return fallback(x, gamma, beta, groups, eps)
    x = cupy.ascontiguousarray(x)
    y, (mean, rstd) = cupy.empty_like(x), cupy.empty((2, len(x), groups), x.dtype)
    width, grid, block = _blocks(x, groups)
    launch("group_norm", x.dtype, grid, block, x, gamma, beta, y, mean, rstd, y[0].size // y.shape[-1], y.shape[-1], width, eps, silu)
    return y, Cache(x, gamma, beta, mean, rstd, silu)


def group_norm_backward(dy, cache):
    return _normalize_backward(readable.group_norm_backward, dy, cache)


def group_norm_silu_backward(dy, cache):
    return _normalize_backward(readable.group_norm_silu_backward, dy, cache)


def _normalize_backward(fallback, dy, cache):
    if not isinstance(cache, Cache):
        return fallback(dy, cache)
    x, C = cache.x, cache.x.shape[-1]
    dx, (dgamma, dbeta) = cupy.empty_like(x), cupy.empty((2, len(x), C), x.dtype)
    width, grid, block = _blocks(x, cache.mean.shape[1])
    launch("group_norm_backward", x.dtype, grid, block, cupy.ascontiguousarray(dy), *cache[:5], dx, dgamma, dbeta,
           x[0].size // C, C, width, cache.silu)
    return dx, column_sums(dgamma[None])[0], column_sums(dbeta[None])[0]


def _blocks(x, groups):
    """The channels of a group, and the grid and the block of threads: whole groups, of some 32 channels, by 8 lanes."""
    C = x.shape[-1]
    width = C // groups
    channels = width * max(1, 32 // width)
    return width, (-(-C // channels), len(x)), (channels, max(1, 256 // channels))
