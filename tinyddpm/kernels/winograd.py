"""The 3x3 convolution with a quarter of the multiplications: Winograd's F(4x4, 3x3).

To multiply two polynomials, evaluate both at enough points, multiply the values, and interpolate. A
convolution is such a product. Four outputs of a filter of three taps need six points; with 0, 1, -1,
2, -2 and infinity, evaluation and interpolation are the small matrices below (Lavin and Gray 2016):

    y = A^T [(G w G^T) * (B^T d B)] A     for a 6x6 tile d of the input and a 4x4 tile y of the output

Over channels, the product * of the 36 values is 36 matrix products. A thread takes TILES tiles at a
time through the three stages, so that all of it stays in its cache. The float32 error is about 5e-6
of the largest output, five times that of the direct sum.

    B^T = [4  0 -5  0  1  0]     A^T = [1  1  1  1  1  0]    G = [ 1/4     0     0 ]
          [0 -4 -4  1  1  0]           [0  1 -1  2 -2  0]        [-1/6  -1/6  -1/6 ]
          [0  4 -4 -1  1  0]           [0  1  1  4  4  0]        [-1/6   1/6  -1/6 ]
          [0 -2 -1  2  1  0]           [0  1 -1  8 -8  1]        [1/24  1/12   1/6 ]
          [0  2 -1 -2  1  0]                                     [1/24 -1/12   1/6 ]
          [0  4  0 -5  0  1]                                     [  0     0     1  ]
"""

import numba
import numpy as np
from numba import njit, prange

from tinyddpm.kernels import FUSED
from tinyddpm.kernels.blas import gemm

G = np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
              [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]])
GG = np.kron(G, G)          # G w G^T, with w and the result as vectors
TILES = 32
TWO, FOUR, FIVE, EIGHT = np.float32(2), np.float32(4), np.float32(5), np.float32(8)


def pays(w, stride, padding):
    """Whether the convolution can be done this way, with channels enough to fill the vectors.

    More than 512 would take the float32 error, which grows with them, past 2e-5 of the largest output.
    """
    channels = w.shape[2:]
    return w.shape[:2] == (3, 3) and stride == 1 and padding in (None, (1, 1)) and 16 <= min(channels) and max(channels) <= 512


def convolve(x, w, b):
    """conv2d of stride 1 and "same" padding. x (N, H, W, C), w (3, 3, C, K), b (K,) -> y (N, H, W, K)"""
    U = (GG.astype(w.dtype) @ w.reshape(9, -1)).reshape(36, *w.shape[2:])
    y = np.empty((*x.shape[:3], w.shape[3]), x.dtype)
    _convolve(np.ascontiguousarray(x), U, b, y, numba.get_num_threads())
    return y


def weight_gradient(x, dy):
    """x (N, H, W, C), dy (N, H, W, K) -> dw (3, 3, C, K), db (K,): in the transformed domain dU = V^T dM."""
    workers, C, K = numba.get_num_threads(), x.shape[3], dy.shape[3]
    dU, db = np.zeros((workers, 36, C, K), x.dtype), np.zeros((workers, K), x.dtype)
    _weight_gradient(np.ascontiguousarray(x), dy, dU, db)
    dw = GG.T.astype(x.dtype) @ dU.sum(axis=0).reshape(36, -1)
    return dw.reshape(3, 3, C, K), db.sum(axis=0)


@njit(parallel=True, fastmath=FUSED, cache=True)
def _convolve(x, U, b, y, workers):
    (N, H, W, C), K = x.shape, y.shape[3]
    tiles = N * ((H + 3) // 4) * ((W + 3) // 4)
    for worker in prange(workers):
        V, M = np.empty((36, TILES + 1, C), x.dtype), np.empty((36, TILES + 1, K), x.dtype)
        tile, half, out = np.empty((6, 6 * C), x.dtype), np.empty((6, 6 * C), x.dtype), np.empty((4, 6, K), x.dtype)
        stop = tiles * (worker + 1) // workers
        for first in range(tiles * worker // workers, stop, TILES):
            count = min(TILES, stop - first)
            _transform_input(x, first, count, tile, half, V)
            for p in range(36):
                gemm(V[p, :count], U[p], M[p, :count], False, False, False)
            _transform_output(M, first, count, b, out, y)


@njit(parallel=True, fastmath=FUSED, cache=True)
def _weight_gradient(x, dy, dU, db):
    (N, H, W, C), K, workers = x.shape, dy.shape[3], len(dU)
    tiles = N * ((H + 3) // 4) * ((W + 3) // 4)
    for worker in prange(workers):
        V, dM = np.empty((36, TILES + 1, C), x.dtype), np.empty((36, TILES + 1, K), x.dtype)
        tile, half = np.empty((6, 6 * C), x.dtype), np.empty((6, 6 * C), x.dtype)
        dtile, dhalf = np.empty((4, 4 * K), x.dtype), np.empty((6, 4 * K), x.dtype)
        stop = tiles * (worker + 1) // workers
        for first in range(tiles * worker // workers, stop, TILES):
            count = min(TILES, stop - first)
            _transform_input(x, first, count, tile, half, V)
            _transform_gradient(dy, first, count, dtile, dhalf, dM, db[worker])
            for p in range(36):
                gemm(V[p, :count], dM[p, :count], dU[worker, p], True, False, True)


@njit(fastmath=FUSED, cache=True)
def _load(x, index, margin, tile):
    """The tile of that index with a margin of pixels around it, zero outside of the image."""
    N, H, W, C = x.shape
    across = (W + 3) // 4
    n, place = divmod(index, ((H + 3) // 4) * across)
    top, left, size = place // across * 4 - margin, place % across * 4 - margin, len(tile)
    begin, end = max(0, -left), min(size, W - left)
    for i in range(size):
        if 0 <= top + i < H:
            source, target = x[n, top + i, left + begin:left + end].reshape(-1), tile[i, begin * C:end * C]
            for k in range(len(source)):
                target[k] = source[k]
            tile[i, :begin * C] = 0
            tile[i, end * C:] = 0
        else:
            tile[i] = 0


@njit(fastmath=FUSED, cache=True)
def _transform_input(x, first, count, tile, half, V):
    """V[:, t] = B^T d B for each tile d."""
    C = x.shape[3]
    columns = half.reshape(6, 6, C)
    for t in range(count):
        _load(x, first + t, 1, tile)
        for i in range(6 * C):
            half[0, i], half[1, i], half[2, i], half[3, i], half[4, i], half[5, i] = _times_B(
                tile[0, i], tile[1, i], tile[2, i], tile[3, i], tile[4, i], tile[5, i])
        for i in range(6):
            rows = V[6 * i:6 * i + 6]
            for c in range(C):
                rows[0, t, c], rows[1, t, c], rows[2, t, c], rows[3, t, c], rows[4, t, c], rows[5, t, c] = _times_B(
                    columns[i, 0, c], columns[i, 1, c], columns[i, 2, c], columns[i, 3, c], columns[i, 4, c], columns[i, 5, c])


@njit(fastmath=FUSED, cache=True)
def _transform_output(M, first, count, b, out, y):
    """y = A^T m A + b for each tile; what hangs over the image's edge is left out."""
    N, H, W, K = y.shape
    across = (W + 3) // 4
    for t in range(count):
        n, place = divmod(first + t, ((H + 3) // 4) * across)
        top, left = place // across * 4, place % across * 4
        for j in range(6):
            for k in range(K):
                out[0, j, k], out[1, j, k], out[2, j, k], out[3, j, k] = _times_A(
                    M[j, t, k], M[6 + j, t, k], M[12 + j, t, k], M[18 + j, t, k], M[24 + j, t, k], M[30 + j, t, k])
        for i in range(min(4, H - top)):
            for k in range(K):
                out[i, 0, k], out[i, 1, k], out[i, 2, k], out[i, 3, k] = _times_A(
                    out[i, 0, k], out[i, 1, k], out[i, 2, k], out[i, 3, k], out[i, 4, k], out[i, 5, k])
            for j in range(min(4, W - left)):
                for k in range(K):
                    y[n, top + i, left + j, k] = out[i, j, k] + b[k]


@njit(fastmath=FUSED, cache=True)
def _transform_gradient(dy, first, count, tile, half, dM, db):
    """dM[:, t] = A dy A^T for each tile, the transpose of _transform_output; db collects the sum of dy."""
    K = dy.shape[3]
    pixels, columns = tile.reshape(16, K), half.reshape(6, 4, K)
    for t in range(count):
        _load(dy, first + t, 0, tile)
        for i in range(16):
            for k in range(K):
                db[k] += pixels[i, k]
        for i in range(4 * K):
            half[0, i], half[1, i], half[2, i], half[3, i], half[4, i], half[5, i] = _times_A_transposed(
                tile[0, i], tile[1, i], tile[2, i], tile[3, i])
        for i in range(6):
            rows = dM[6 * i:6 * i + 6]
            for k in range(K):
                rows[0, t, k], rows[1, t, k], rows[2, t, k], rows[3, t, k], rows[4, t, k], rows[5, t, k] = (
                    _times_A_transposed(columns[i, 0, k], columns[i, 1, k], columns[i, 2, k], columns[i, 3, k]))


@njit(fastmath=FUSED, cache=True)
def _times_B(a, b, c, d, e, f):
    """B^T [a b c d e f]"""
    even, odd = e - FOUR * c, d - FOUR * b
    even2, odd2 = e - c, TWO * (d - b)
    return FOUR * a - FIVE * c + e, even + odd, even - odd, even2 + odd2, even2 - odd2, FOUR * b - FIVE * d + f


@njit(fastmath=FUSED, cache=True)
def _times_A(a, b, c, d, e, f):
    """A^T [a b c d e f]"""
    sum1, difference1, sum2, difference2 = b + c, b - c, d + e, d - e
    return (a + sum1 + sum2, difference1 + TWO * difference2, sum1 + FOUR * sum2, difference1 + EIGHT * difference2 + f)


@njit(fastmath=FUSED, cache=True)
def _times_A_transposed(a, b, c, d):
    """A [a b c d]"""
    even1, odd1, even2, odd2 = a + c, b + d, a + FOUR * c, TWO * b + EIGHT * d
    return a, even1 + odd1, even1 - odd1, even2 + odd2, even2 - odd2, d
