"""Convolution and linear maps by the kernels of conv.cu; small maps, and the gradients of linear ones, by cuBLAS."""

import functools
from collections import namedtuple

import cupy
import numpy as np

from tinyddpm.backend import state
from tinyddpm.kernels.gpu.launch import contiguous, kernel, shared_memory
from tinyddpm.kernels.gpu.product import add_sums, column_sums, filters, multiply, padded
from tinyddpm.ops.accumulate import Accumulating
from tinyddpm.ops.conv import check_conv2d, check_conv2d_add

BLOCKS = 264                # of threads for the gradient with respect to w: two for each multiprocessor of a large GPU
LINE = 128                  # bytes of a slab's line
ENOUGH = 120                # tiles of 128 by 128; where there are fewer, the GPU fills better with tiles of 64
GRADIENT_STAGES = 3         # slabs of both operands in shared memory
LEAST = 8                   # the fewest slabs of pixels that are summed into one part of that gradient
FEW = 1024                  # rows of a linear map that cuBLAS divides up better
NOTHING = np.uintp(0)       # an array that is absent


def conv2d(x, w, b, stride=1, padding=None):
    return _conv2d(x, w, b, None, stride, check_conv2d(x, w, b, padding))


def conv2d_add(x, w, b, other):
    check_conv2d_add(x, w, other)
    return _conv2d(x, w, b, other, 1, check_conv2d(x, w, b, None))


def linear(x, w, b):
    shape, x = x.shape, x.reshape(len(x) if x.ndim > 1 else 1, 1, -1, len(w))           # images of one line
    if w.dtype == x.dtype and x.size <= FEW * len(w):       # as in the path of the time, which has a row for each image
        x, y = contiguous(x), cupy.empty((*shape[:-1], len(b)), x.dtype)
        y[...] = b
        multiply(x.reshape(-1, len(w)), w, y.reshape(-1, len(b)), add=True)
        return y, (x, w, w, shape)
    y, cache = convolve(x, w, b)
    return y.reshape(*shape[:-1], len(b)), (*cache, shape)


@Accumulating
def conv2d_backward(dy, cache, dw, db):
    return _conv2d_backward(dy, cache, dw, db)[0]


@Accumulating
def conv2d_add_backward(dy, cache, dw, db):
    dx, dy, sums = _conv2d_backward(dy, cache, dw, db)
    return dx, sums if sums is not None else dy


@Accumulating
def linear_backward(dy, cache, dw, db):
    x, w, weights, shape = cache
    dy = contiguous(dy).reshape(len(x), -1, len(db))
    if weights.shape == w.shape:                            # nothing is padded
        rows, dx = dy.reshape(-1, len(db)), cupy.empty(shape, dy.dtype)
        multiply(rows, weights, dx.reshape(-1, shape[-1]), transpose_b=True)
        multiply(x.reshape(-1, shape[-1]), rows, dw, transpose_a=True, add=True)
        add_sums(db, column_sums(dy))
        return dx
    return gradients(dy[:, None], cache[:3], dw, db)[0].reshape(shape)


Cut = namedtuple("Cut", "shape inner outer")


def _conv2d(x, w, b, other, stride, pads):
    """The kernels make results as large as the source. Others are cut out of one of the source, padded if need be."""
    per_image = other is not None and (other.dtype != x.dtype or other.size != x[..., 0].size * len(b))
    cut = _cut(x.shape, w.shape[:2], stride, pads)
    if cut is None:
        y, cache = convolve(x, w, b, *((other, None) if per_image else (None, other)))
        return y, (*cache, cut, per_image)
    if cut.shape != x.shape:
        source, x = x, cupy.zeros(cut.shape, x.dtype)
        x[cut.inner] = source
    y, cache = convolve(x, w, b)
    return y[cut.outer], (*cache, cut, per_image)


def _conv2d_backward(dy, cache, dw, db):
    """Returns dx, dy, and if the forward added a number for each image, their gradients. Adds to dw and db."""
    *conv_cache, cut, per_image = cache
    if cut is None:
        dx, sums = gradients(dy, conv_cache, dw, db)
        return dx, dy, sums[:, None, None] if per_image else None
    whole = cupy.zeros((*cut.shape[:3], dy.shape[3]), dy.dtype)
    whole[cut.outer] = dy
    return gradients(whole, conv_cache, dw, db)[0][cut.inner], dy, None


@functools.cache
def _cut(shape, sides, stride, pads):
    """The padded shape, where the source lies in it, and where the result lies; None if both are the source's."""
    N, H, W, C = shape
    inner, outer, sizes = [], [], []
    for side, k, (before, after) in zip((H, W), sides, pads):
        first, count = k // 2 - before, (side + before + after - k) // stride + 1       # the kernel's centres
        if first < 0 or first + (count - 1) * stride >= side:
            first, padding = k // 2, before + after
        else:
            before = padding = 0
        sizes.append(side + padding)
        inner.append(slice(before, before + side))
        outer.append(slice(first, first + (count - 1) * stride + 1, stride))
    if sizes == [H, W] and all(len(range(side)[z]) == side for side, z in zip((H, W), outer)):
        return None
    return Cut((N, *sizes, C), (slice(None), *inner), (slice(None), *outer))


# ---- of equal size: x (N, H, W, C), w (kh, kw, C, K) or (C, K), y (N, H, W, K) ----

def convolve(x, w, b, shift=None, other=None):
    """The result, with shift (N, 1, 1, K) and other (N, H, W, K) added, and the cache."""
    source, weights = padded(x), filters(w, x.dtype)
    y = _products("convolve", source, weights, len(b), weights.shape[-1], b, shift, other)
    return y, (source, w, weights)


def gradients(dy, cache, dw, db):
    """dx, and the sums (N, K) of dy over each image. Adds to dw and db."""
    (x, w, weights), dy = cache, contiguous(dy)
    source = padded(dy)
    dx = _products("convolve_backward", source, weights, w.shape[-2], weights.shape[-2])
    plan = _gradient_plan(state.precision, x.dtype, x.shape, w.shape, source.shape[-1])
    parts = cupy.empty((plan.grid[1], *w.shape), w.dtype)
    plan.launch(x, source, parts)
    sums = column_sums(dy.reshape(len(dy), -1, w.shape[-1]))
    add_sums(dw, parts, db, sums)
    return dx, sums


def _products(name, source, weights, K, width, *added):
    """An array (N, H, W, K) from a kernel of that name. added: what the kernel adds to its products"""
    added = [NOTHING if z is None else contiguous(z) for z in added] or [NOTHING] * 3
    y = cupy.empty((*source.shape[:3], K), source.dtype)
    plan = _plan(name, state.precision, source.dtype, source.shape, weights.shape[:-2], K, width)
    plan.launch(source, weights, *added, y)
    return y


class Plan(namedtuple("Plan", "kernel grid block shared numbers")):
    """What a launch repeats: the kernel, its shape, bytes of shared memory, and the numbers among its arguments."""

    def launch(self, *arrays):
        self.kernel(self.grid, self.block, [*arrays, *self.numbers], shared_mem=self.shared)


@functools.cache
def _plan(name, precision, dtype, shape, sides, K, width):
    (N, H, W, C), (kh, kw) = shape, sides or (1, 1)
    tile = _tile(N * H * W, K, dtype, _shared(128, kw), ENOUGH)
    function, _ = kernel(name, dtype, precision, TILE=tile, STAGES=_stages(kw))
    return Plan(function, (-(-N * H * W // tile) * -(-K // tile),), _threads(tile, dtype), _shared(tile, kw),
                [np.int32(n) for n in (N * H * W, H, W, C, K, width, kh, kw)])


@functools.cache
def _gradient_plan(precision, dtype, shape, w_shape, width):
    (N, H, W, C), (channels, K), (kh, kw) = shape, w_shape[-2:], w_shape[:-2] or (1, 1)
    F, slabs = kh * kw * C, -(-N * H * W * dtype.itemsize // LINE)
    tile = _tile(F, K, dtype, 2 * GRADIENT_STAGES * 128 * LINE + 1024, 1)
    tiles = -(-F // tile) * -(-K // tile)
    each = -(-slabs // max(1, min(BLOCKS // tiles, slabs // LEAST)))
    function, _ = kernel("weight_gradient", dtype, precision, TILE=tile, STAGES=GRADIENT_STAGES)
    return Plan(function, (tiles, -(-slabs // each)), _threads(tile, dtype), 2 * GRADIENT_STAGES * tile * LINE + 1024,
                [np.int32(n) for n in (N * H * W, H, W, C, K, width, channels, kh, kw, each)])


def _stages(kw):
    """Slabs of w in shared memory, so that two blocks fit on a multiprocessor of a large GPU."""
    return 4 if kw > 1 else 3


def _shared(tile, kw):
    """Bytes of shared memory: the slabs of w, a ring of patches, a line of zeros, and what aligns them."""
    patch, ring = -(-(tile + kw - 1) * LINE // 1024) * 1024, (_stages(kw) - 2 + kw) // kw + 1
    return _stages(kw) * tile * LINE + ring * patch + LINE + 1024


def _threads(tile, dtype):
    return (256 if tile == 128 and dtype.itemsize == 2 else 128,)


def _tile(rows, columns, dtype, shared, least):
    """128, if that gives enough tiles, of which little is wasted, and fits in registers and shared memory; else 64."""
    fits = shared <= shared_memory() and dtype != np.float64
    return 128 if fits and min(rows, columns) > 64 and -(-rows // 128) * -(-columns // 128) >= least else 64
