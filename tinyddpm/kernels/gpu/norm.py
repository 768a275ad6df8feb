"""Group normalization, alone or with SiLU."""

import functools
import math
from collections import namedtuple
from functools import partial

import cupy

from tinyddpm.kernels.gpu.launch import contiguous, launch, pack, shared_memory
from tinyddpm.kernels.gpu.product import add_sums
from tinyddpm.ops.accumulate import Accumulating
from tinyddpm.ops.norm import check_group_norm

THREADS = 256               # of a block, and the packs that it has at most
CHANNELS = 32, 64           # about as many for a block: of a large image, and of one of up to SMALL pixels
SMALL = 256
KEPT = 2**16                # bytes of shared memory for what a block keeps of its arrays: three blocks fit on an H100

Cache = namedtuple("Cache", "x gamma beta mean rstd silu")
Blocks = namedtuple("Blocks", "sizes grid block shared V")


def _normalize(silu, x, gamma, beta, groups, eps):
    check_group_norm(x, gamma, beta, groups)
    x = contiguous(x)
    y, (mean, rstd) = cupy.empty_like(x), cupy.empty((2, len(x), groups), gamma.dtype)
    b = _blocks(x.shape, groups, x.dtype, 1)
    launch("group_norm", x.dtype, b.grid, b.block, x, gamma, beta, y, mean, rstd, *b.sizes, eps, silu, shared=b.shared,
           V=b.V)
    return y, Cache(x, gamma, beta, mean, rstd, silu)


group_norm, group_norm_silu = partial(_normalize, False), partial(_normalize, True)


@Accumulating
def group_norm_backward(dy, cache, dgamma, dbeta):
    x = cache.x
    dx, (gammas, betas) = cupy.empty_like(x), cupy.empty((2, len(x), x.shape[-1]), cache.gamma.dtype)
    b = _blocks(x.shape, cache.mean.shape[1], x.dtype, 2)
    launch("group_norm_backward", x.dtype, b.grid, b.block, contiguous(dy), *cache[:5], dx, gammas, betas, *b.sizes,
           cache.silu, shared=b.shared, V=b.V)
    add_sums(dgamma, gammas, dbeta, betas)
    return dx


group_norm_silu_backward = group_norm_backward


@functools.cache
def _blocks(shape, groups, dtype, arrays):
    """How to launch a kernel that reads so many arrays more than once.

    sizes: pixels, channels, channels of a group, and how many pixels are kept in shared memory
    block: (packs, lanes) of threads, for whole groups, and no more lanes than pixels
    shared: the bytes that struct Shared has; V: numbers in a pack
    Raises ValueError for a group of more packs than a block can have threads.
    """
    N, L, C = shape[0], math.prod(shape[1:-1]), shape[-1]
    width, V = C // groups, pack(dtype, C)
    unit = math.lcm(width, V)
    packs = unit * max(1, CHANNELS[L <= SMALL] // unit) // V
    if packs > THREADS:
        raise ValueError(f"group_norm: x is {shape}, groups {groups}; a GPU takes up to {THREADS * V} channels in one")
    lanes = max(1, min(THREADS // packs, L))
    reals = packs * (lanes + 2) * V * max(4, dtype.itemsize)
    pixel = arrays * packs * V * dtype.itemsize                     # bytes of a pixel
    held = min(L, max(0, min(KEPT, shared_memory() - reals)) // pixel)
    return Blocks((L, C, width, held), (-(-C // (packs * V)), N), (packs, lanes), reals + held * pixel, V)
