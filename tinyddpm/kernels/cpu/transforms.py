"""The transforms of winograd.py, which has their matrices; the names of its arrays are used here.

Each multiplies a small square of vectors (sixteen channels each) by a matrix from the left, column by column, and then
by its transpose from the right, row by row.
"""

import numpy as np
from numba.extending import register_jitable

from tinyddpm.kernels.cpu.jit import compiled
from tinyddpm.kernels.cpu.simd import LANES, fill, gather, load, load_all, store, store_all


@compiled
def transform_panel(w, rotated, k, panel):
    """U[:, :, k:k + 16], contiguous: panel (36, C, 16)"""
    taps, square = np.empty((3, 3, LANES, LANES), w.dtype), np.empty((18, 1, LANES), w.dtype)
    for first in range(0, panel.shape[1], LANES):
        for p in range(3):                          # a small copy: in w they are far apart and would evict each other
            for q in range(3):
                for i in range(LANES):
                    if rotated:
                        store(taps, (p, q, i, 0), load(w, (2 - p, 2 - q, k + i, first)))
                    else:
                        store(taps, (p, q, i, 0), load(w, (p, q, first + i, k)))
        for i in range(LANES):
            for q in range(3):
                if rotated:
                    column = gather(taps, (0, q, 0, i), 2), gather(taps, (1, q, 0, i), 2), gather(taps, (2, q, 0, i), 2)
                else:
                    column = load(taps, (0, q, i, 0)), load(taps, (1, q, i, 0)), load(taps, (2, q, i, 0))
                store_all(square, (q, 0, 0), 3, _times_G(column))
            for j in range(6):
                store_all(panel, (6 * j, first + i, 0), 1, _times_G(load_all(square, (3 * j, 0, 0), 1, 3)))


@compiled
def transform_channel_gradient(dU, c, first, dw):
    """dU holds the channels of dy from that one on."""
    square, dm = np.empty((18, 1, LANES), dU.dtype), np.empty((36, 1, LANES), dU.dtype)
    for k in range(0, dU.shape[3], LANES):
        for p in range(36):
            total = load(dU, (0, p, c, k))
            for worker in range(1, len(dU)):
                total = total + load(dU, (worker, p, c, k))
            store(dm, (p, 0, 0), total)
        for j in range(6):
            store_all(square, (j, 0, 0), 6, _times_G_transposed(load_all(dm, (j, 0, 0), 6, 6)))
        for i in range(3):
            row = _times_G_transposed(load_all(square, (6 * i, 0, 0), 1, 6))
            for j in range(3):
                at = i, j, c, first + k
                store(dw, at, load(dw, at) + row[j])


@register_jitable
def count_tiles(x):
    """The number of tiles that cover the images."""
    return len(x) * ((x.shape[1] + 3) // 4) * ((x.shape[2] + 3) // 4)


@compiled
def _place(tile, H, W):
    """The image and the top left pixel of the tile with that number."""
    across = (W + 3) // 4
    n, place = divmod(tile, (H + 3) // 4 * across)
    return n, place // across * 4, place % across * 4


@compiled
def _pixel(x, n, i, j, c):
    """Sixteen channels of a pixel; zeros outside the image."""
    if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
        return load(x, (n, i, j, c))
    return fill(x.dtype.type(0))


@compiled
def transform_input(x, first, count, square, V, at):
    """V[:, at + t] = B^T d B for `count` tiles d from the first on, each with a margin of one pixel."""
    for t in range(count):
        n, top, left = _place(first + t, x.shape[1], x.shape[2])
        for c in range(0, x.shape[3], LANES):
            for q in range(6):
                j = left + q - 1
                store_all(square, (q, 0, 0), 6, _times_B(
                    (_pixel(x, n, top - 1, j, c), _pixel(x, n, top, j, c), _pixel(x, n, top + 1, j, c),
                     _pixel(x, n, top + 2, j, c), _pixel(x, n, top + 3, j, c), _pixel(x, n, top + 4, j, c))))
            for i in range(6):
                store_all(V, (6 * i, at + t, c), 1, _times_B(load_all(square, (6 * i, 0, 0), 1, 6)))


@compiled
def transform_output(M, first, count, channel, square, biases, residual, y):
    """y = A^T m A + bias + residual (if there is one) for each tile; pixels outside the image are left out.

    M holds the channels of y from that one on.
    """
    (H, W, K), adds = y.shape[1:], len(residual) > 0
    for t in range(count):
        n, top, left = _place(first + t, H, W)
        for k in range(channel, min(channel + M.shape[2], K), LANES):
            bias = load(biases, (n, k))
            for j in range(6):
                store_all(square, (j, 0, 0), 6, _times_A(load_all(M, (j, t, k - channel), 6, 6)))
            for i in range(min(4, H - top)):
                row = _times_A(load_all(square, (6 * i, 0, 0), 1, 6))
                for j in range(min(4, W - left)):
                    at = n, top + i, left + j, k
                    store(y, at, row[j] + bias + load(residual, at) if adds else row[j] + bias)


@compiled
def transform_gradient(dy, first, count, square, dM, at, sums):
    """dM[:, at + t] = A dy A^T for each tile, the transpose of transform_output; sums[n] sums an image's dy."""
    for t in range(count):
        n, top, left = _place(first + t, dy.shape[1], dy.shape[2])
        for k in range(0, dy.shape[3], LANES):
            total = load(sums, (n, k))
            for q in range(4):
                j = left + q
                column = (_pixel(dy, n, top, j, k), _pixel(dy, n, top + 1, j, k),
                          _pixel(dy, n, top + 2, j, k), _pixel(dy, n, top + 3, j, k))
                total = total + ((column[0] + column[1]) + (column[2] + column[3]))
                store_all(square, (q, 0, 0), 4, _times_A_transposed(column))
            store(sums, (n, k), total)
            for i in range(6):
                row = _times_A_transposed(load_all(square, (4 * i, 0, 0), 1, 4))
                store_all(dM, (6 * i, k // LANES, at + t, 0), 1, row)


@compiled
def _times_B(v):
    """B^T v"""
    a, b, c, d, e, f = v
    even, odd = e - 4 * c, d - 4 * b
    even2, odd2 = e - c, 2 * (d - b)
    return 4 * a - 5 * c + e, even + odd, even - odd, even2 + odd2, even2 - odd2, 4 * b - 5 * d + f


@compiled
def _times_A(v):
    """A^T v"""
    a, b, c, d, e, f = v
    sum1, difference1, sum2, difference2 = b + c, b - c, d + e, d - e
    return a + sum1 + sum2, difference1 + 2 * difference2, sum1 + 4 * sum2, difference1 + 8 * difference2 + f


@compiled
def _times_A_transposed(v):
    """A v"""
    a, b, c, d = v
    even1, odd1, even2, odd2 = a + c, b + d, a + 4 * c, 2 * b + 8 * d
    return a, even1 + odd1, even1 - odd1, even2 + odd2, even2 - odd2, d


@compiled
def _times_G(v):
    """G v"""
    a, b, c = v
    even1, odd1, even2, odd2 = (a + c) / 6, b / 6, a / 24 + c / 6, b / 12
    return a / 4, -1 * (even1 + odd1), odd1 - even1, even2 + odd2, even2 - odd2, c


@compiled
def _times_G_transposed(v):
    """G^T v"""
    a, b, c, d, e, f = v
    sum1, sum2 = (b + c) / 6, d + e
    return a / 4 - sum1 + sum2 / 24, (c - b) / 6 + (d - e) / 12, sum2 / 6 - sum1 + f
