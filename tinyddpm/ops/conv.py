"""Two-dimensional convolution (cross-correlation, as in every deep-learning paper)."""

import numpy as np

from tinyddpm import ops
from tinyddpm.backend import array_module


def conv2d(x, w, b, stride=1, padding=None):
    """y[n, i, j] = b + sum over p, q of x[n, i stride + p, j stride + q] w[p, q], x padded with zeros.

    Each of the kh kw positions of the kernel is one matrix product of a shifted view of x.
    x (N, H, W, C), w (kh, kw, C, K), b (K,) -> y (N, H', W', K)
    padding: rows and columns of zeros (before, after); None means "same", k // 2 on both sides,
        which keeps H and W at stride 1. The paper's downsampling is stride 2, padding (0, 1).
    Raises ValueError for shapes that do not fit, and for an even kernel without a padding.
    """
    pads = check_conv2d(x, w, b, padding)
    padded = array_module(x).pad(x, ((0, 0), *pads, (0, 0)))
    y = 0
    for p, q, window in windows(padded, w, stride):
        y = y + window @ w[p, q]
    return y + b, (x, w, stride, pads)


def conv2d_backward(dy, cache):
    """dy (N, H', W', K) -> dx (N, H, W, C), dw (kh, kw, C, K), db (K,)"""
    x, w, stride, pads = cache
    xp = array_module(x)
    (top, _), (left, _) = pads
    padded = xp.pad(x, ((0, 0), *pads, (0, 0)))
    dpadded, dw = xp.zeros_like(padded), xp.empty_like(w)
    drows = dy.reshape(-1, dy.shape[-1])
    dwindows = windows(dpadded, w, stride)
    for (p, q, window), (_, _, dwindow) in zip(windows(padded, w, stride), dwindows):
        dw[p, q] = window.reshape(len(drows), -1).T @ drows
        dwindow += dy @ w[p, q].T
    dx = dpadded[:, top:top + x.shape[1], left:left + x.shape[2]]
    return dx, dw, drows.sum(axis=0)


def conv2d_add(x, w, b, other):
    """conv2d(x, w, b) + other, with which a residual block adds its shortcut and its time embedding. The twins fuse it.

    x (N, H, W, C), w (kh, kw, C, K), b (K,), other (N, H, W, K) or (N, 1, 1, K) -> y (N, H, W, K)
    """
    check_conv2d_add(x, w, other)
    y, cache = ops.conv2d(x, w, b)
    return y + other, (cache, other.shape)


def conv2d_add_backward(dy, cache):
    """dy (N, H, W, K) -> dx, dw, db as conv2d_backward, dother (N, H, W, K) or (N, 1, 1, K)"""
    conv_cache, shape = cache
    dother = dy if shape == dy.shape else dy.sum(axis=(1, 2), keepdims=True)
    return *ops.conv2d_backward(dy, conv_cache), dother


def windows(padded, w, stride):
    """Yield (p, q, view) for each kernel position (p, q), with its view of the padded input, (N, H', W', C)."""
    kh, kw = w.shape[:2]
    H, W = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
    for p in range(kh):
        for q in range(kw):
            yield p, q, padded[:, p:p + H:stride, q:q + W:stride]


def check_conv2d(x, w, b, padding):
    """Return the padding, ((top, bottom), (left, right)). Raise ValueError for shapes that do not fit."""
    kh, kw, C, K = w.shape
    if x.ndim != 4 or x.shape[3] != C or b.shape != (K,):
        raise ValueError(f"conv2d: x is {x.shape}, w {w.shape}, b {b.shape}; "
                         "expected x (N, H, W, C), w (kh, kw, C, K), b (K,)")
    if padding is None and not (kh % 2 and kw % 2):
        raise ValueError(f"conv2d: the kernel is {kh}x{kw}; 'same' padding needs odd sizes")
    pads = ((kh // 2, kh // 2), (kw // 2, kw // 2)) if padding is None else (padding, padding)
    if x.shape[1] + sum(pads[0]) < kh or x.shape[2] + sum(pads[1]) < kw:
        raise ValueError(f"conv2d: x is {x.shape}, smaller than the {kh}x{kw} kernel even when padded")
    return pads


def check_conv2d_add(x, w, other):
    """Raise ValueError unless other has the shape of the convolution, or one number for each image and channel."""
    if other.shape not in ((*x.shape[:3], w.shape[3]), (len(x), 1, 1, w.shape[3])):
        raise ValueError(f"conv2d_add: x is {x.shape}, w {w.shape}, other {other.shape}; "
                         "expected other (N, H, W, K) or (N, 1, 1, K)")


def conv2d_loops(x, w, b, stride=1, padding=None):
    """conv2d as seven plain loops: far too slow to use, but the reference for the tests. Returns only y."""
    (top, bottom), (left, right) = check_conv2d(x, w, b, padding)
    (N, H, W, C), (kh, kw, _, K) = x.shape, w.shape
    y = np.zeros((N, (H + top + bottom - kh) // stride + 1, (W + left + right - kw) // stride + 1, K), x.dtype)
    for n, i, j, k in np.ndindex(y.shape):
        total = b[k]
        for p in range(kh):
            for q in range(kw):
                row, column = i * stride + p - top, j * stride + q - left
                if 0 <= row < H and 0 <= column < W:
                    for c in range(C):
                        total += x[n, row, column, c] * w[p, q, c, k]
        y[n, i, j, k] = total
    return y
