"""Convolution as a linear map of the pixels that each output pixel sees, gathered into rows."""

from collections import namedtuple

import cupy
import numpy as np

from tinyddpm.kernels.gpu.launch import launch_each
from tinyddpm.kernels.gpu.product import column_sums, multiply, operands, start
from tinyddpm.ops.accumulate import Accumulating
from tinyddpm.ops.conv import check_conv2d, check_conv2d_add

ROWS_BYTES = 2**28          # limit for the gathered rows of a convolution: images are taken in parts that fit

Geometry = namedtuple("Geometry", "shape stride top left")          # shape: of the result, (H', W')


def conv2d(x, w, b, stride=1, padding=None):
    return _convolve(x, w, b, None, stride, check_conv2d(x, w, b, padding))


def conv2d_add(x, w, b, other):
    check_conv2d_add(x, w, other)
    y, cache = _convolve(x, w, b, cupy.ascontiguousarray(other), 1, check_conv2d(x, w, b, None))
    return y, (*cache, other.shape)


def _convolve(x, w, b, other, stride, pads):
    (N, H, W, _), (kh, kw, _, K), ((top, bottom), (left, right)) = x.shape, w.shape, pads
    g = Geometry(((H + top + bottom - kh) // stride + 1, (W + left + right - kw) // stride + 1), stride, top, left)
    y, x, filters = start((N, *g.shape, K), b, other), operands(x), operands(w).reshape(-1, K)
    for part, rows in _parts(x, g.shape, kh, kw, stride, 1, 1, -top, -left):
        multiply(rows, filters, y[part].reshape(-1, K), add=True)
    return y, (x, w, g)


@Accumulating
def conv2d_backward(dy, cache, dw, db):
    dx, sums = _backward(dy, *cache, dw)
    db += column_sums(sums[None])[0]
    return dx


@Accumulating
def conv2d_add_backward(dy, cache, dw, db):
    *conv_cache, shape = cache
    dx, sums = _backward(dy, *conv_cache, dw)
    db += column_sums(sums[None])[0]
    return dx, dy if shape == dy.shape else sums.reshape(shape)


def _backward(dy, x, w, g, dw):
    """Returns dx and the sums (N, K) of dy over each image; adds to dw."""
    (kh, kw, C, K), dy = w.shape, cupy.ascontiguousarray(dy)
    sums, dx, dy = column_sums(dy.reshape(len(dy), -1, K)), cupy.empty(x.shape, dy.dtype), operands(dy)
    filters = operands(w.swapaxes(2, 3)).reshape(-1, C)
    for part, rows in _parts(dy, x.shape[1:3], kh, kw, 1, -1, g.stride, g.top, g.left):
        multiply(rows, filters, dx[part].reshape(-1, C))
    for part, rows in _parts(x, g.shape, kh, kw, g.stride, 1, 1, -g.top, -g.left):
        multiply(rows, dy[part].reshape(-1, K), dw.reshape(-1, K), transpose_a=True, add=True)
    return dx, sums


def _parts(source, shape, kh, kw, mul, sign, div, top, left):
    """Yield some images at a time: their slice, and for each pixel (i, j) of that shape a row of the kh kw C numbers
    seen in the source, at ((mul i + sign p + top) / div, (mul j + sign q + left) / div) for the kernel's (p, q)."""
    N, H, W, C = source.shape
    each = max(1, ROWS_BYTES // (shape[0] * shape[1] * kh * kw * C * source.itemsize))
    pack = 16 // source.itemsize
    real = np.dtype(np.float32) if source.dtype != np.float64 else source.dtype
    for first in range(0, N, each):
        part = slice(first, min(N, first + each))
        rows = cupy.empty(((part.stop - first) * shape[0] * shape[1], kh * kw * C), source.dtype)
        width, name = (pack, "gather_pack") if C % pack == 0 else (1, "gather_one")
        launch_each(name, real, rows.size // (kh * kw * width), source[part], rows, H, W, C, *shape, kh, kw,
                    mul, sign, div, top, left)
        yield part, rows
