"""Convolution: Winograd's algorithm where it is faster, else the linear map of all pixels that an output pixel sees."""

import numpy as np
from tinyddpm.kernels.cpu import winograd
from tinyddpm.kernels.cpu.jit import parallel
from tinyddpm.kernels.cpu.linear import linear, linear_backward
from tinyddpm.kernels.cpu.simd import LANES
from tinyddpm.ops.accumulate import Accumulating
from tinyddpm.ops.conv import check_conv2d, check_conv2d_add


def conv2d(x, w, b, stride=1, padding=None):
    pads = check_conv2d(x, w, b, padding)
    x = np.ascontiguousarray(x)
    if winograd.pays(w, stride, padding):
        return _winograd(x, w, b), (x, w, None)
    (top, bottom), (left, right) = pads
    (N, H, W, _), (kh, kw, _, K) = x.shape, w.shape
    shape = N, (H + top + bottom - kh) // stride + 1, (W + left + right - kw) // stride + 1
    y, _ = linear(_rows(x, w, (stride, top, left), shape), w.reshape(-1, K), b)
    return y.reshape(*shape, K), (x, w, (stride, top, left))


def _rows(x, w, geometry, shape):
    """For each pixel of the output, of that shape (N, H', W'), the kh kw C inputs that it depends on."""
    rows = np.empty((*shape, w[..., 0].size), x.dtype)
    _im2col(len(x), x.reshape(*x.shape[:2], -1), *w.shape[:3], *geometry, rows)
    return rows.reshape(-1, rows.shape[3])


def conv2d_add(x, w, b, other):
    check_conv2d_add(x, w, other)
    if winograd.pays(w, 1, None):
        check_conv2d(x, w, b, None)
        x = np.ascontiguousarray(x)
        return _winograd(x, w, b, _whole(np.ascontiguousarray(other))), (x, w, None, other.shape)
    y, cache = conv2d(x, w, b)
    return y + other, (*cache, other.shape)


def _winograd(x, w, b, other=None):
    y = winograd.convolve(_whole(x), _whole(w, 2), _whole(b), other)
    return np.ascontiguousarray(y[..., :len(b)])


@Accumulating
def conv2d_backward(dy, cache, dw, db):
    dx, sums = _backward(dy, *cache, dw)
    db += sums.sum(axis=0)
    return dx


@Accumulating
def conv2d_add_backward(dy, cache, dw, db):
    *conv_cache, shape = cache
    dx, sums = _backward(dy, *conv_cache, dw)
    db += sums.sum(axis=0)
    return dx, dy if shape == dy.shape else sums.reshape(shape)


def _backward(dy, x, w, geometry, dw):
    """Returns dx and the sums (N, K) of dy over each image; adds to dw."""
    dy = np.ascontiguousarray(dy)
    kh, kw, C, K = w.shape
    if geometry is None:
        x, dy, w = _whole(x), _whole(dy), _whole(w, 2)
        dx = winograd.convolve(dy, w, np.zeros(x.shape[3], x.dtype), rotated=True)
        whole_dw = dw if dw.shape == w.shape else np.zeros_like(w)
        sums = winograd.weight_gradient(x, dy, whole_dw)
        if whole_dw is not dw:
            dw += whole_dw[:, :, :C, :K]
        return np.ascontiguousarray(dx[..., :C]), sums[:, :K]
    drows, dw_rows, _ = linear_backward(dy.reshape(-1, K), (_rows(x, w, geometry, dy.shape[:3]), w.reshape(-1, K)))
    dw += dw_rows.reshape(w.shape)
    dx = np.zeros_like(x)
    _col2im(len(x), drows.reshape(*dy.shape[:3], -1), kh, kw, C, *geometry, dx.reshape(*x.shape[:2], -1))
    return dx, dy.sum(axis=(1, 2))


def _whole(a, axes=1):
    """The array with zeros appended to its last axis, or to a filter's two channel axes, to fill whole vectors."""
    shape = *a.shape[:-axes], *(-(-size // LANES) * LANES for size in a.shape[-axes:])
    if shape == a.shape:
        return a
    whole = np.zeros(shape, a.dtype)
    whole[tuple(map(slice, a.shape))] = a
    return whole


@parallel
def _im2col(n, N, x, kh, kw, C, stride, top, left, rows):
    """x (N, H, W C), rows (N, H', W', kh kw C): the kw pixels of a line of the kernel are contiguous."""
    H, width = x.shape[1:]
    for i in range(rows.shape[1]):
        for j in range(rows.shape[2]):
            start = (j * stride - left) * C
            for p in range(kh):
                line, at = i * stride + p - top, p * kw * C
                for k in range(kw * C):
                    inside = 0 <= line < H and 0 <= start + k < width
                    rows[n, i, j, at + k] = x[n, line, start + k] if inside else 0


@parallel
def _col2im(n, N, rows, kh, kw, C, stride, top, left, x):
    """The transpose of _im2col: every pixel of x receives the sum of its copies."""
    H, width = x.shape[1:]
    for i in range(rows.shape[1]):
        for j in range(rows.shape[2]):
            start = (j * stride - left) * C
            for p in range(max(0, top - i * stride), min(kh, H + top - i * stride)):
                line, at = i * stride + p - top, p * kw * C
                for k in range(max(0, -start), min(kw * C, width - start)):
                    x[n, line, start + k] += rows[n, i, j, at + k]
