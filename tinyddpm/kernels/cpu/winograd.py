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

V[p, t, c] and M[p, t, k] hold the point p of the 36, tile t, and the channels; U and dM are in the panels of gemm.py,
U[p, k // 16, c, k % 16].
"""

import numpy as np
from numba import get_num_threads

from tinyddpm.kernels.cpu.gemm import multiply
from tinyddpm.kernels.cpu.jit import parallel, part, threads
from tinyddpm.kernels.cpu.simd import LANES
from tinyddpm.kernels.cpu.transforms import (
    count_tiles, transform_channel_gradient, transform_gradient, transform_input, transform_output, transform_panel)

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
    if count_tiles(x) <= FEW:
        V = np.empty((36, count_tiles(x) + 1, C), x.dtype)
        _transform_input(threads(V.size), x, V)
        _convolve_by_channels(K // LANES, V, w, rotated, biases, residual, y)
    else:
        U = np.empty((36, K // LANES, C, LANES), x.dtype)
        _transform_filter(threads(U.size), w, rotated, U)
        _convolve(get_num_threads(), x, U, biases, residual, y)
    return y


def weight_gradient(x, dy, dw):
    """Add the gradient to dw (3, 3, C, K). x (N, H, W, C), dy (N, H, W, K). In the transformed domain, dU = V^T dM.

    Returns the sums (N, K) of dy over each image, which the bias and a time embedding need.
    """
    N, C, K = len(x), x.shape[3], dy.shape[3]
    tiles = count_tiles(x)
    workers = min(get_num_threads(), tiles)                         # each has at least one tile
    sums = np.zeros((workers, N, K), x.dtype)
    if workers * 36 * C * K <= SMALL:
        dU = np.empty((workers, 36, C, K), x.dtype)
        _weight_gradient(workers, x, dy, dU, sums)
        _transform_filter_gradient(threads(dU.size), dU, dw)
    else:
        size = min(tiles, MANY)
        V, dM = np.empty((36, size + 1, C), x.dtype), np.empty((36, K // LANES, size, LANES), x.dtype)
        for start in range(0, tiles, MANY):
            many = min(MANY, tiles - start)
            _transform_tiles(workers, x, dy, start, many, V, dM, sums)
            _weight_gradient_by_channels(K // LANES, V, dM, many, dw)
    return sums.sum(axis=0)


@parallel
def _transform_filter(worker, workers, w, rotated, U):
    """U = G w G^T in panels; rotated: of w rotated by 180 degrees with its channel axes swapped."""
    start, stop = part(worker, workers, U.shape[1])
    for block in range(start, stop):
        transform_panel(w, rotated, block * LANES, U[:, block])


@parallel
def _convolve(worker, workers, x, U, biases, residual, y):
    """The three stages and the sum with biases and residual, fused: V and M hold only a few tiles."""
    V, M = np.empty((36, TILES + 1, x.shape[3]), x.dtype), np.empty((36, TILES + 1, PANELS * LANES), x.dtype)
    square = np.empty((36, 1, LANES), x.dtype)
    start, stop = part(worker, workers, count_tiles(x))
    for first in range(start, stop, TILES):
        count = min(TILES, stop - first)
        transform_input(x, first, count, square, V, 0)
        for block in range(0, U.shape[1], PANELS):
            for p in range(36):
                multiply(V[p, :count], U[p, block:block + PANELS], M[p, :count], False)
            transform_output(M, first, count, block * LANES, square, biases, residual, y)


@parallel
def _transform_input(worker, workers, x, V):
    start, stop = part(worker, workers, count_tiles(x))
    transform_input(x, start, stop - start, np.empty((36, 1, LANES), x.dtype), V, start)


@parallel
def _convolve_by_channels(block, blocks, V, w, rotated, biases, residual, y):
    """The second and third stage for few tiles: the filters of sixteen channels of y never leave the cache."""
    tiles, C = V.shape[1] - 1, V.shape[2]
    U, M = np.empty((36, 1, C, LANES), V.dtype), np.empty((36, tiles + 1, LANES), V.dtype)
    transform_panel(w, rotated, block * LANES, U[:, 0])
    for p in range(36):
        multiply(V[p, :tiles], U[p], M[p, :tiles], False)
    transform_output(M, 0, tiles, block * LANES, np.empty((36, 1, LANES), V.dtype), biases, residual, y)


@parallel
def _weight_gradient(worker, workers, x, dy, dU, sums):
    """dU = V^T dM, one for each thread; the tiles of dy are read once, for dM and for their sums."""
    C, K = x.shape[3], dy.shape[3]
    V, dM = np.empty((36, OF_GRADIENT + 1, C), x.dtype), np.empty((36, K // LANES, OF_GRADIENT, LANES), x.dtype)
    square = np.empty((36, 1, LANES), x.dtype)
    start, stop = part(worker, workers, count_tiles(x))
    for first in range(start, stop, OF_GRADIENT):
        count = min(OF_GRADIENT, stop - first)
        transform_input(x, first, count, square, V, 0)
        transform_gradient(dy, first, count, square, dM, 0, sums[worker])
        for p in range(36):
            multiply(V[p, :count].T, dM[p, :, :count], dU[worker, p], first > start)


@parallel
def _transform_filter_gradient(worker, workers, dU, dw):
    """dw += G^T dU G, dU summed over the threads."""
    start, stop = part(worker, workers, dU.shape[2])
    for c in range(start, stop):
        transform_channel_gradient(dU, c, 0, dw)


@parallel
def _transform_tiles(worker, workers, x, dy, start, many, V, dM, sums):
    square = np.empty((36, 1, LANES), x.dtype)
    first, stop = part(worker, workers, many)
    transform_input(x, start + first, stop - first, square, V, first)
    transform_gradient(dy, start + first, stop - first, square, dM, first, sums[worker])


@parallel
def _weight_gradient_by_channels(block, blocks, V, dM, many, dw):
    """For large filters: that of sixteen channels of dy from many tiles, of which dw becomes the sum."""
    C = V.shape[2]
    dU = np.empty((1, 36, C, LANES), V.dtype)
    for p in range(36):
        multiply(V[p, :many].T, dM[p, block:block + 1, :many], dU[0, p], False)
    for c in range(C):
        transform_channel_gradient(dU, c, block * LANES, dw)
