"""The convolution: Winograd's where it pays, else im2col, for a block of pixels that stays in a thread's cache."""

import numba
import numpy as np
from numba import njit, prange

from tinyddpm.kernels import FUSED, winograd
from tinyddpm.kernels.blas import gemm
from tinyddpm.kernels.simd import LANES
from tinyddpm.ops.conv import check_conv2d, check_conv2d_add

PIXELS = 128        # in a block: the rows of one matrix product


def conv2d(x, w, b, stride=1, padding=None):
    pads = check_conv2d(x, w, b, padding)
    x = np.ascontiguousarray(x)
    if winograd.pays(w, stride, padding):
        y = winograd.convolve(_whole(x), _whole(w, 2), _whole(b))
        return np.ascontiguousarray(y[..., :len(b)]), (x, w, None)
    (top, bottom), (left, right) = pads
    (N, H, W, _), (kh, kw, _, K) = x.shape, w.shape
    y = np.empty((N, (H + top + bottom - kh) // stride + 1, (W + left + right - kw) // stride + 1, K), x.dtype)
    _conv(x, w.reshape(-1, K), b, kh, kw, stride, top, left, y, numba.get_num_threads())
    return y, (x, w, (stride, top, left))


def conv2d_add(x, w, b, other):
    check_conv2d_add(x, w, other)
    if winograd.pays(w, 1, None) and w.shape[2] % LANES == w.shape[3] % LANES == 0:
        check_conv2d(x, w, b, None)
        x = np.ascontiguousarray(x)
        return winograd.convolve(x, w, b, np.ascontiguousarray(other)), ((x, w, None), other.shape)
    y, cache = conv2d(x, w, b)
    return y + other, (cache, other.shape)


def conv2d_backward(dy, cache):
    dw, db = np.zeros_like(cache[1]), np.zeros(dy.shape[3], dy.dtype)
    return _accumulate(dy, cache, dw, db), dw, db


def conv2d_add_backward(dy, cache):
    dw, db = np.zeros_like(cache[0][1]), np.zeros(dy.shape[3], dy.dtype)
    dx, dother = _accumulate_add(dy, cache, dw, db)
    return dx, dw, db, dother


def _accumulate(dy, cache, dw, db):
    """The backward with dw and db added to arrays: the gradients of the paper's model are 143 MB."""
    dx, sums = _backward(dy, cache, dw)
    db += sums.sum(axis=0)
    return dx


def _accumulate_add(dy, cache, dw, db):
    conv_cache, shape = cache
    dx, sums = _backward(dy, conv_cache, dw)
    db += sums.sum(axis=0)
    return dx, dy if shape == dy.shape else sums.reshape(shape)


conv2d_backward.accumulate, conv2d_add_backward.accumulate = _accumulate, _accumulate_add


def _backward(dy, cache, dw):
    """Returns dx and the sums (N, K) of dy over each image; adds to dw."""
    x, w, geometry = cache
    dy = np.ascontiguousarray(dy)
    kh, kw, C, K = w.shape
    if geometry is None:
        x, dy, w = _whole(x), _whole(dy), _whole(w, 2)
        dx, whole_dw = winograd.convolve(dy, w, np.zeros(x.shape[3], x.dtype), rotated=True), dw if dw.shape == w.shape else np.zeros_like(w)
        sums = winograd.weight_gradient(x, dy, whole_dw)
        if whole_dw is not dw:
            dw += whole_dw[:, :, :C, :K]
        return np.ascontiguousarray(dx[..., :C]), sums[:, :K]
    workers = min(numba.get_num_threads(), len(x))
    dx, sums = np.zeros_like(x), np.zeros((len(x), K), dy.dtype)
    parts = np.zeros((workers, kh * kw * C, K), w.dtype)
    _conv_backward(x, w.reshape(-1, K), kh, kw, *geometry, dy, dx, parts, sums)
    dw += parts.sum(axis=0).reshape(w.shape)
    return dx, sums


def _whole(a, axes=1):
    """The array with zeros after its last axes (one, or the two of a filter's channels), so that these fill whole vectors."""
    return a if not any(size % LANES for size in a.shape[-axes:]) else np.pad(
        a, [(0, 0)] * (a.ndim - axes) + [(0, -size % LANES) for size in a.shape[-axes:]])


@njit(fastmath=FUSED, cache=True)
def _im2col(x, kh, kw, stride, top, left, across, first, rows):
    """rows[m] = the kh kw C inputs of output pixel first + m, zero outside of the image; `across` pixels make a line.

    The kw pixels that lie side by side are one run of memory.
    """
    N, H, W, C = x.shape
    for m in range(len(rows)):
        line, j = divmod(first + m, across[1])
        n, i = divmod(line, across[0])
        column = j * stride - left
        begin, end = max(0, -column), min(kw, W - column)
        for p in range(kh):
            row, at = i * stride + p - top, p * kw * C
            if 0 <= row < H:
                source = x[n, row, column + begin:column + end].reshape(-1)
                rows[m, at:at + begin * C] = 0
                for k in range(len(source)):
                    rows[m, at + begin * C + k] = source[k]
                rows[m, at + end * C:at + kw * C] = 0
            else:
                rows[m, at:at + kw * C] = 0


@njit(fastmath=FUSED, cache=True)
def _col2im(rows, kh, kw, stride, top, left, across, first, x):
    """The transpose of _im2col: every pixel of x collects what its copies hold."""
    N, H, W, C = x.shape
    for m in range(len(rows)):
        line, j = divmod(first + m, across[1])
        n, i = divmod(line, across[0])
        column = j * stride - left
        begin, end = max(0, -column), min(kw, W - column)
        for p in range(max(0, top - i * stride), min(kh, H + top - i * stride)):
            target = x[n, i * stride + p - top, column + begin:column + end].reshape(-1)
            for k in range(len(target)):
                target[k] += rows[m, (p * kw + begin) * C + k]


@njit(parallel=True, fastmath=FUSED, cache=True)
def _conv(x, w, b, kh, kw, stride, top, left, y, workers):
    N, down, across, K = y.shape
    pixels = y.reshape(-1, K)
    for worker in prange(workers):
        buffer = np.empty((PIXELS, len(w)), x.dtype)
        stop = len(pixels) * (worker + 1) // workers
        for first in range(len(pixels) * worker // workers, stop, PIXELS):
            out = pixels[first:min(first + PIXELS, stop)]
            rows = buffer[:len(out)]
            _im2col(x, kh, kw, stride, top, left, (down, across), first, rows)
            for m in range(len(out)):
                for k in range(K):
                    out[m, k] = b[k]
            gemm(rows, w, out, False, False, True)


@njit(parallel=True, fastmath=FUSED, cache=True)
def _conv_backward(x, w, kh, kw, stride, top, left, dy, dx, dw, sums):
    """A thread takes whole images, so that no two write to one pixel of dx."""
    N, down, across, K = dy.shape
    pixels, workers = dy.reshape(-1, K), len(dw)
    for worker in prange(workers):
        buffer = np.empty((PIXELS, len(w)), x.dtype)
        stop = N * (worker + 1) // workers * down * across
        for first in range(N * worker // workers * down * across, stop, PIXELS):
            dout = pixels[first:min(first + PIXELS, stop)]
            rows = buffer[:len(dout)]
            _im2col(x, kh, kw, stride, top, left, (down, across), first, rows)
            gemm(rows, dout, dw[worker], True, False, True)
            gemm(dout, w, rows, False, True, False)
            _col2im(rows, kh, kw, stride, top, left, (down, across), first, dx)
            for m in range(len(dout)):
                n = (first + m) // (down * across)
                for k in range(K):
                    sums[n, k] += dout[m, k]
