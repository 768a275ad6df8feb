"""Group normalization, alone or with SiLU."""

import functools
import math
from collections import namedtuple
from functools import partial

import cupy

from tinyddpm.kernels.gpu.launch import contiguous, launch, pack
from tinyddpm.kernels.gpu.product import add_sums
from tinyddpm.ops.accumulate import Accumulating
from tinyddpm.ops.norm import check_group_norm

THREADS = 256               # of a block, and the packs that it has at most

Cache = namedtuple("Cache", "x gamma beta mean rstd silu")


def _normalize(silu, x, gamma, beta, groups, eps):
    check_group_norm(x, gamma, beta, groups)
    x = contiguous(x)
    y, (mean, rstd) = cupy.empty_like(x), cupy.empty((2, len(x), groups), gamma.dtype)
    C, (width, grid, block, V) = x.shape[-1], _blocks(x.shape, groups, x.dtype)
    launch("group_norm", x.dtype, grid, block, x, gamma, beta, y, mean, rstd, x[0].size // C, C, width, eps, silu, V=V)
    return y, Cache(x, gamma, beta, mean, rstd, silu)


group_norm, group_norm_silu = partial(_normalize, False), partial(_normalize, True)


@Accumulating
def group_norm_backward(dy, cache, dgamma, dbeta):
    x, C = cache.x, cache.x.shape[-1]
    dx, (gammas, betas) = cupy.empty_like(x), cupy.empty((2, len(x), C), cache.gamma.dtype)
    width, grid, block, V = _blocks(x.shape, cache.mean.shape[1], x.dtype)
    launch("group_norm_backward", x.dtype, grid, block, contiguous(dy), *cache[:5], dx, gammas, betas,
           x[0].size // C, C, width, cache.silu, V=V)
    add_sums(dgamma, gammas, dbeta, betas)
    return dx


group_norm_silu_backward = group_norm_backward


@functools.cache
def _blocks(shape, groups, dtype):
    """The channels of a group; grid and block of threads (packs, lanes), for whole groups, about 32 channels; V.

    Raises ValueError for a group of more packs than a block can have threads.
    """
    N, C = shape[0], shape[-1]
    width, V = C // groups, pack(dtype, C)
    unit = math.lcm(width, V)
    packs = unit * max(1, 32 // unit) // V
    if packs > THREADS:
        raise ValueError(f"group_norm: x is {shape}, groups {groups}; a GPU takes up to {THREADS * V} channels in one")
    return width, (-(-C // (packs * V)), N), (packs, THREADS // packs), V
