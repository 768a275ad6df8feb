"""The 3x3 convolution with a quarter of the multiplications: Winograd's F(4x4, 3x3).

To multiply two polynomials, evaluate both at enough points, multiply the values, and interpolate. A
convolution is such a product. Four outputs of a filter of three taps need six points; with 0, 1, -1,
2, -2 and infinity, evaluation and interpolation are the small matrices below (Lavin and Gray 2016):

    y = A^T [(G w G^T) * (B^T d B)] A     for a 6x6 tile d of the input and a 4x4 tile y of the output

Over channels, the product * of the 36 values is 36 matrix products. A thread takes TILES tiles at a
time through the three stages, so that everything stays in its cache; where there are few tiles, it
takes sixteen channels after the other. The float32 error is about 5e-6 of the largest output, five
times that of the direct sum.

    B^T = [4  0 -5  0  1  0]     A^T = [1  1  1  1  1  0]    G = [ 1/4     0     0 ]
          [0 -4 -4  1  1  0]           [0  1 -1  2 -2  0]        [-1/6  -1/6  -1/6 ]
          [0  4 -4 -1  1  0]           [0  1  1  4  4  0]        [-1/6   1/6  -1/6 ]
          [0 -2 -1  2  1  0]           [0  1 -1  8 -8  1]        [1/24  1/12   1/6 ]
          [0  2 -1 -2  1  0]                                     [1/24 -1/12   1/6 ]
          [0  4  0 -5  0  1]                                     [  0     0     1  ]

Each transform multiplies a small square of vectors (sixteen channels each) by such a matrix from the left, column by
column, and then by its transpose from the right, row by row. V[p, t, c] and M[p, t, k] hold the point p of
the 36, tile t, and the channels; U and dM are in the panels of gemm.py, U[p, k // 16, c, k % 16].
_load6(a, first, step, t, c) takes six of the points, step apart.
"""

import numba
import numpy as np
from numba import prange
from numba.extending import register_jitable

from tinyddpm.kernels.cpu.gemm import multiply
from tinyddpm.kernels.cpu.jit import compiled, parallel
from tinyddpm.kernels.cpu.simd import LANES, fill, gather, load, store

TILES = 36                      # tiles at a time, for each thread: whole blocks of rows of the product
OF_GRADIENT = 2 * TILES         # for weight gradients, which read and write their result once for each of them
PANELS = 2                      # of sixteen columns of the product at a time, which the output's transform follows
FEW = 64                        # tiles for which the threads divide up the channels instead
SMALL = 2**20                   # elements of transformed filters, one filter for each thread, that fit the caches
MANY = 256                      # tiles at a time, for all threads together, where they do not


def pays(w, stride, padding):
    """Whether the convolution can be done this way.

    More than 512 channels would raise the float32 error above 2e-5 of the largest output.
    """
    return w.shape[:2] == (3, 3) and stride == 1 and padding in (None, (1, 1)) and max(w.shape[2:]) <= 512


def convolve(x, w, b, other=None, rotated=False):
    """conv2d of stride 1 and "same" padding. x (N, H, W, C), w (3, 3, C, K), b (K,) -> y (N, H, W, K)

    All arrays are contiguous, and their channels fill whole vectors.
    other: added in the same pass, shaped like y or (N, 1, 1, K)
    rotated: use w rotated by 180 degrees, with its two channel axes swapped; this takes dy to dx.
    """
    C, K = w.shape[2:] if not rotated else w.shape[:1:-1]
    y = np.empty((*x.shape[:3], K), x.dtype)
    biases, residual = np.empty((len(x), K), x.dtype), np.empty((0, 0, 0, 0), x.dtype)
    biases[...] = b
    if other is not None and other.shape == y.shape:
        residual = other
    elif other is not None:
        biases += other.reshape(-1, K)
    w = np.ascontiguousarray(w)
    if _tiles(x) <= FEW:
        _convolve_by_channels(x, w, rotated, biases, residual, y)
    else:
        U = np.empty((36, K // LANES, C, LANES), x.dtype)
        _transform_filter(w, rotated, U)
        _convolve(x, U, biases, residual, y, numba.get_num_threads())
    return y


def weight_gradient(x, dy, dw):
    """Add the gradient to dw (3, 3, C, K). x (N, H, W, C), dy (N, H, W, K). In the transformed domain, dU = V^T dM.

    Returns the sums (N, K) of dy over each image, which the bias and a time embedding need.
    """
    N, C, K = len(x), x.shape[3], dy.shape[3]
    workers = min(numba.get_num_threads(), _tiles(x))                           # each has at least one tile
    sums = np.zeros((workers, N, K), x.dtype)
    if workers * 36 * C * K <= SMALL:
        dU = np.empty((workers, 36, C, K), x.dtype)
        _weight_gradient(x, dy, dU, sums)
        _transform_filter_gradient(dU, dw)
    else:
        _weight_gradient_by_channels(x, dy, dw, sums)
    return sums.sum(axis=0)


@parallel
def _convolve(x, U, biases, residual, y, workers):
    """The three stages and the sum with biases and residual, fused: V and M hold only a few tiles."""
    C, tiles = x.shape[3], _tiles(x)
    for worker in prange(workers):
        V, M = np.empty((36, TILES + 1, C), x.dtype), np.empty((36, TILES + 1, PANELS * LANES), x.dtype)
        square = np.empty((36, 1, LANES), x.dtype)
        stop = tiles * (worker + 1) // workers
        for first in range(tiles * worker // workers, stop, TILES):
            count = min(TILES, stop - first)
            _transform_input(x, first, count, square, V, 0)
            for block in range(0, U.shape[1], PANELS):
                for p in range(36):
                    multiply(V[p, :count], U[p, block:block + PANELS], M[p, :count], False)
                _transform_output(M, first, count, block * LANES, square, biases, residual, y)


@parallel
def _weight_gradient(x, dy, dU, sums):
    """dU = V^T dM, one for each thread; the tiles of dy are read once, for dM and for their sums."""
    C, K, tiles, workers = x.shape[3], dy.shape[3], _tiles(x), len(dU)
    for worker in prange(workers):
        V, dM = np.empty((36, OF_GRADIENT + 1, C), x.dtype), np.empty((36, K // LANES, OF_GRADIENT, LANES), x.dtype)
        square = np.empty((36, 1, LANES), x.dtype)
        start, stop = tiles * worker // workers, tiles * (worker + 1) // workers
        for first in range(start, stop, OF_GRADIENT):
            count = min(OF_GRADIENT, stop - first)
            _transform_input(x, first, count, square, V, 0)
            _transform_gradient(dy, first, count, square, dM, 0, sums[worker])
            for p in range(36):
                multiply(V[p, :count].T, dM[p, :, :count], dU[worker, p], first > start)


@parallel
def _convolve_by_channels(x, w, rotated, biases, residual, y):
    """The same for few tiles: the threads divide up the channels of y, whose filters never leave the cache."""
    C, tiles = x.shape[3], _tiles(x)
    V = np.empty((36, tiles + 1, C), x.dtype)
    for t in prange(tiles):
        _transform_input(x, t, 1, np.empty((36, 1, LANES), x.dtype), V, t)
    for block in prange(y.shape[3] // LANES):
        U, M = np.empty((36, 1, C, LANES), x.dtype), np.empty((36, tiles + 1, LANES), x.dtype)
        _transform_panel(w, rotated, block * LANES, U[:, 0])
        for p in range(36):
            multiply(V[p, :tiles], U[p], M[p, :tiles], False)
        _transform_output(M, 0, tiles, block * LANES, np.empty((36, 1, LANES), x.dtype), biases, residual, y)


@parallel
def _weight_gradient_by_channels(x, dy, dw, sums):
    """The same for large filters: the threads divide up many tiles, then the channels of dy."""
    C, K, tiles, workers = x.shape[3], dy.shape[3], _tiles(x), len(sums)
    size = min(tiles, MANY)
    V, dM = np.empty((36, size + 1, C), x.dtype), np.empty((36, K // LANES, size, LANES), x.dtype)
    for start in range(0, tiles, MANY):
        many = min(MANY, tiles - start)
        for worker in prange(workers):
            square = np.empty((36, 1, LANES), x.dtype)
            first, stop = many * worker // workers, many * (worker + 1) // workers
            _transform_input(x, start + first, stop - first, square, V, first)
            _transform_gradient(dy, start + first, stop - first, square, dM, first, sums[worker])
        for block in prange(K // LANES):
            dU = np.empty((1, 36, C, LANES), x.dtype)
            for p in range(36):
                multiply(V[p, :many].T, dM[p, block:block + 1, :many], dU[0, p], False)
            for c in range(C):
                _transform_channel_gradient(dU, c, block * LANES, dw)


@parallel
def _transform_filter(w, rotated, U):
    """U = G w G^T in panels; rotated: of w rotated by 180 degrees with its channel axes swapped."""
    for block in prange(U.shape[1]):
        _transform_panel(w, rotated, block * LANES, U[:, block])


@compiled
def _transform_panel(w, rotated, k, panel):
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
                _store6(square, q, 3, 0, 0, _times_G(column))
            for j in range(6):
                _store6(panel, 6 * j, 1, first + i, 0, _times_G(_load3(square, 3 * j, 1, 0, 0)))


@parallel
def _transform_filter_gradient(dU, dw):
    """dw += G^T dU G, dU summed over the threads."""
    for c in prange(dU.shape[2]):
        _transform_channel_gradient(dU, c, 0, dw)


@compiled
def _transform_channel_gradient(dU, c, first, dw):
    """dU holds the channels of dy from that one on."""
    square, dm = np.empty((18, 1, LANES), dU.dtype), np.empty((36, 1, LANES), dU.dtype)
    for k in range(0, dU.shape[3], LANES):
        for p in range(36):
            total = load(dU, (0, p, c, k))
            for worker in range(1, len(dU)):
                total = total + load(dU, (worker, p, c, k))
            store(dm, (p, 0, 0), total)
        for j in range(6):
            column = _times_G_transposed(_load6(dm, j, 6, 0, 0))
            for i in range(3):
                store(square, (6 * i + j, 0, 0), column[i])
        for i in range(3):
            row = _times_G_transposed(_load6(square, 6 * i, 1, 0, 0))
            for j in range(3):
                at = i, j, c, first + k
                store(dw, at, load(dw, at) + row[j])


@register_jitable
def _tiles(x):
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
def _transform_input(x, first, count, square, V, at):
    """V[:, at + t] = B^T d B for `count` tiles d from the first on, each with a margin of one pixel."""
    for t in range(count):
        n, top, left = _place(first + t, x.shape[1], x.shape[2])
        for c in range(0, x.shape[3], LANES):
            for q in range(6):
                j = left + q - 1
                _store6(square, q, 6, 0, 0, _times_B(
                    (_pixel(x, n, top - 1, j, c), _pixel(x, n, top, j, c), _pixel(x, n, top + 1, j, c),
                     _pixel(x, n, top + 2, j, c), _pixel(x, n, top + 3, j, c), _pixel(x, n, top + 4, j, c))))
            for i in range(6):
                _store6(V, 6 * i, 1, at + t, c, _times_B(_load6(square, 6 * i, 1, 0, 0)))


@compiled
def _transform_output(M, first, count, channel, square, biases, residual, y):
    """y = A^T m A + bias + residual (if there is one) for each tile; pixels outside the image are left out.

    M holds the channels of y from that one on.
    """
    (H, W, K), adds = y.shape[1:], len(residual) > 0
    for t in range(count):
        n, top, left = _place(first + t, H, W)
        for k in range(channel, min(channel + M.shape[2], K), LANES):
            bias = load(biases, (n, k))
            for j in range(6):
                _store4(square, j, 6, 0, 0, _times_A(_load6(M, j, 6, t, k - channel)))
            for i in range(min(4, H - top)):
                row = _times_A(_load6(square, 6 * i, 1, 0, 0))
                for j in range(min(4, W - left)):
                    at = n, top + i, left + j, k
                    store(y, at, row[j] + bias + load(residual, at) if adds else row[j] + bias)


@compiled
def _transform_gradient(dy, first, count, square, dM, at, sums):
    """dM[:, at + t] = A dy A^T for each tile, the transpose of _transform_output; sums[n] sums an image's dy."""
    for t in range(count):
        n, top, left = _place(first + t, dy.shape[1], dy.shape[2])
        for k in range(0, dy.shape[3], LANES):
            total = load(sums, (n, k))
            for q in range(4):
                j = left + q
                column = (_pixel(dy, n, top, j, k), _pixel(dy, n, top + 1, j, k),
                          _pixel(dy, n, top + 2, j, k), _pixel(dy, n, top + 3, j, k))
                total = total + ((column[0] + column[1]) + (column[2] + column[3]))
                _store6(square, q, 4, 0, 0, _times_A_transposed(column))
            store(sums, (n, k), total)
            for i in range(6):
                row = _times_A_transposed(_load4(square, 4 * i, 1, 0, 0))
                _store6(dM[:, k // LANES], 6 * i, 1, at + t, 0, row)


@compiled
def _load3(a, first, step, t, c):
    return load(a, (first, t, c)), load(a, (first + step, t, c)), load(a, (first + 2 * step, t, c))


@compiled
def _load4(a, first, step, t, c):
    return *_load3(a, first, step, t, c), load(a, (first + 3 * step, t, c))


@compiled
def _load6(a, first, step, t, c):
    return *_load3(a, first, step, t, c), *_load3(a, first + 3 * step, step, t, c)


@compiled
def _store4(a, first, step, t, c, v):
    store(a, (first, t, c), v[0])
    store(a, (first + step, t, c), v[1])
    store(a, (first + 2 * step, t, c), v[2])
    store(a, (first + 3 * step, t, c), v[3])


@compiled
def _store6(a, first, step, t, c, v):
    _store4(a, first, step, t, c, v)
    store(a, (first + 4 * step, t, c), v[4])
    store(a, (first + 5 * step, t, c), v[5])


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
