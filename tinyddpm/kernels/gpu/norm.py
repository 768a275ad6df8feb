"""Group normalization, alone or with SiLU."""

from collections import namedtuple
from functools import partial

import cupy

from tinyddpm.kernels.fallback import Fallback, fallback
from tinyddpm.kernels.gpu.launch import launch
from tinyddpm.kernels.gpu.product import column_sums
from tinyddpm.ops import norm as readable

Cache = namedtuple("Cache", "x gamma beta mean rstd silu")


def _normalize(name, x, gamma, beta, groups, eps):
    readable.check_group_norm(x, gamma, beta, groups)
    if x.shape[-1] // groups > 1024:                        # more channels in a group than a block has threads
        return fallback(readable, name, x, gamma, beta, groups, eps)
    x, silu = cupy.ascontiguousarray(x), name == "group_norm_silu"
    y, (mean, rstd) = cupy.empty_like(x), cupy.empty((2, len(x), groups), x.dtype)
    C, (width, grid, block) = x.shape[-1], _blocks(x, groups)
    launch("group_norm", x.dtype, grid, block, x, gamma, beta, y, mean, rstd, x[0].size // C, C, width, eps, silu)
    return y, Cache(x, gamma, beta, mean, rstd, silu)


group_norm, group_norm_silu = (partial(_normalize, name) for name in ("group_norm", "group_norm_silu"))


def group_norm_backward(dy, cache):
    if isinstance(cache, Fallback):
        return cache.backward(dy, cache.cache)
    x, C = cache.x, cache.x.shape[-1]
    dx, (dgamma, dbeta) = cupy.empty_like(x), cupy.empty((2, len(x), C), x.dtype)
    width, grid, block = _blocks(x, cache.mean.shape[1])
    launch("group_norm_backward", x.dtype, grid, block, cupy.ascontiguousarray(dy), *cache[:5], dx, dgamma, dbeta,
           x[0].size // C, C, width, cache.silu)
    return dx, column_sums(dgamma[None])[0], column_sums(dbeta[None])[0]


group_norm_silu_backward = group_norm_backward


def _blocks(x, groups):
    """The channels of a group, and the grid and the block of threads: whole groups, about 32 channels, by 8 lanes."""
    C = x.shape[-1]
    width = C // groups
    channels = width * max(1, 32 // width)
    return width, (-(-C // channels), len(x)), (channels, max(1, 256 // channels))
