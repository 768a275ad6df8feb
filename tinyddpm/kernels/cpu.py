"""Faster twins of the hot operations, for the CPU: numba, and BLAS inside its parallel loops.

Each loop over `worker` splits the work into one fixed part a thread, so that sums are added in the
same order in every run. Constants are float32, which a float64 array promotes: an integer constant
would turn float32 arithmetic into float64.
"""

import math

import numba
import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from tinyddpm.kernels import FUSED, blas, winograd
from tinyddpm.kernels.blas import gemm
from tinyddpm.ops.conv import check_conv2d
from tinyddpm.ops.norm import check_group_norm

ONE, HALF = np.float32(1), np.float32(0.5)


def activate():
    """Give the cores to numba's threads, and return the twins: name -> function."""
    twins = [group_norm, group_norm_backward, group_norm_silu, group_norm_silu_backward, adam_ema]
    if blas.library:
        blas.use_one_thread()
        twins += [linear, linear_backward, conv2d, conv2d_backward]
    return {f.__name__: f for f in twins}


# ---- linear: the rows of x are shared out among the threads ----

def linear(x, w, b):
    y = np.empty((*x.shape[:-1], w.shape[1]), x.dtype)
    _linear(np.ascontiguousarray(x).reshape(-1, len(w)), w, b, y.reshape(-1, len(b)), numba.get_num_threads())
    return y, (x, w)


def linear_backward(dy, cache):
    x, w = cache
    rows, drows = np.ascontiguousarray(x).reshape(-1, len(w)), np.ascontiguousarray(dy).reshape(-1, w.shape[1])
    dx = np.empty_like(rows)
    workers = numba.get_num_threads()
    dw, db = np.zeros((workers, *w.shape), w.dtype), np.zeros((workers, w.shape[1]), w.dtype)
    _linear_backward(rows, w, drows, dx, dw, db)
    return dx.reshape(x.shape), dw.sum(axis=0), db.sum(axis=0)


@njit(parallel=True, fastmath=FUSED, cache=True)
def _linear(x, w, b, y, workers):
    for worker in prange(workers):
        start, stop = len(x) * worker // workers, len(x) * (worker + 1) // workers
        for i in range(start, stop):
            for k in range(len(b)):
                y[i, k] = b[k]
        gemm(x[start:stop], w, y[start:stop], False, False, True)


@njit(parallel=True, fastmath=FUSED, cache=True)
def _linear_backward(x, w, dy, dx, dw, db):
    for worker in prange(len(dw)):
        start, stop = len(x) * worker // len(dw), len(x) * (worker + 1) // len(dw)
        gemm(dy[start:stop], w, dx[start:stop], False, True, False)
        gemm(x[start:stop], dy[start:stop], dw[worker], True, False, False)
        for i in range(start, stop):
            for k in range(dy.shape[1]):
                db[worker, k] += dy[i, k]


# ---- conv2d: Winograd where it pays, else im2col, one image at a time so that it stays in cache ----

def conv2d(x, w, b, stride=1, padding=None):
    pads = check_conv2d(x, w, b, padding)
    if winograd.pays(w, stride, padding):
        return winograd.convolve(x, w, b), (x, w, None)
    (top, bottom), (left, right) = pads
    (N, H, W, _), (kh, kw, _, K) = x.shape, w.shape
    y = np.empty((N, (H + top + bottom - kh) // stride + 1, (W + left + right - kw) // stride + 1, K), x.dtype)
    _conv(x, w.reshape(-1, K), b, kh, kw, stride, top, left, y, min(numba.get_num_threads(), N))
    return y, (x, w, (stride, top, left))


def conv2d_backward(dy, cache):
    x, w, geometry = cache
    dy = np.ascontiguousarray(dy)
    if geometry is None:
        dw, db = winograd.weight_gradient(x, dy)
        rotated = np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))       # dx is the convolution with this
        return winograd.convolve(dy, rotated, np.zeros(x.shape[3], x.dtype)), dw, db
    kh, kw, C, K = w.shape
    workers = min(numba.get_num_threads(), len(x))
    dx = np.zeros_like(x)
    dw, db = np.zeros((workers, kh * kw * C, K), w.dtype), np.zeros((workers, K), w.dtype)
    _conv_backward(x, w.reshape(-1, K), kh, kw, *geometry, dy, dx, dw, db)
    return dx, dw.sum(axis=0).reshape(w.shape), db.sum(axis=0)


@njit(fastmath=FUSED, cache=True)
def _im2col(image, kh, kw, stride, top, left, columns):
    """columns[i, j] = the kh kw C inputs of output pixel (i, j), zero outside of the image."""
    H, W, C = image.shape
    for i in range(columns.shape[0]):
        for j in range(columns.shape[1]):
            for p in range(kh):
                row = i * stride + p - top
                for q in range(kw):
                    column, at = j * stride + q - left, (p * kw + q) * C
                    if 0 <= row < H and 0 <= column < W:
                        for c in range(C):
                            columns[i, j, at + c] = image[row, column, c]
                    else:
                        for c in range(C):
                            columns[i, j, at + c] = 0


@njit(fastmath=FUSED, cache=True)
def _col2im(columns, kh, kw, stride, top, left, image):
    """The transpose of _im2col: every pixel of the image collects what its copies hold."""
    H, W, C = image.shape
    for i in range(columns.shape[0]):
        for j in range(columns.shape[1]):
            for p in range(kh):
                row = i * stride + p - top
                for q in range(kw):
                    column, at = j * stride + q - left, (p * kw + q) * C
                    if 0 <= row < H and 0 <= column < W:
                        for c in range(C):
                            image[row, column, c] += columns[i, j, at + c]


@njit(parallel=True, fastmath=FUSED, cache=True)
def _conv(x, w, b, kh, kw, stride, top, left, y, workers):
    N, rows, cols, K = y.shape
    for worker in prange(workers):
        columns = np.empty((rows, cols, len(w)), x.dtype)
        for n in range(N * worker // workers, N * (worker + 1) // workers):
            _im2col(x[n], kh, kw, stride, top, left, columns)
            for i in range(rows):
                for j in range(cols):
                    for k in range(K):
                        y[n, i, j, k] = b[k]
            gemm(columns.reshape(rows * cols, len(w)), w, y[n].reshape(rows * cols, K), False, False, True)


@njit(parallel=True, fastmath=FUSED, cache=True)
def _conv_backward(x, w, kh, kw, stride, top, left, dy, dx, dw, db):
    N, rows, cols, K = dy.shape
    workers = len(dw)
    for worker in prange(workers):
        columns = np.empty((rows, cols, len(w)), x.dtype)
        flat = columns.reshape(rows * cols, len(w))
        for n in range(N * worker // workers, N * (worker + 1) // workers):
            drows = dy[n].reshape(rows * cols, K)
            _im2col(x[n], kh, kw, stride, top, left, columns)
            gemm(flat, drows, dw[worker], True, False, True)
            for i in range(rows * cols):
                for k in range(K):
                    db[worker, k] += drows[i, k]
            gemm(drows, w, flat, False, True, False)
            _col2im(columns, kh, kw, stride, top, left, dx[n])


# ---- group_norm, alone or with SiLU: a sample stays in cache for its three passes (mean, variance, result) ----

def group_norm(x, gamma, beta, groups, eps=1e-6):
    return _normalize(x, gamma, beta, groups, eps, silu=False)


def group_norm_silu(x, gamma, beta, groups, eps=1e-6):
    return _normalize(x, gamma, beta, groups, eps, silu=True)


def _normalize(x, gamma, beta, groups, eps, silu):
    check_group_norm(x, gamma, beta, groups)
    tokens = np.ascontiguousarray(x).reshape(len(x), -1, x.shape[-1])
    y = np.empty_like(tokens)
    mean, rstd = np.empty((2, len(x), groups), x.dtype)
    _group_norm(tokens, gamma, beta, eps, silu, y, mean, rstd)
    return y.reshape(x.shape), (tokens, gamma, beta, mean, rstd, silu)


def group_norm_backward(dy, cache):
    x, gamma, beta, mean, rstd, silu = cache
    dx = np.empty_like(x)
    dgamma, dbeta = np.zeros((2, len(x), len(gamma)), x.dtype)
    _group_norm_backward(np.ascontiguousarray(dy).reshape(x.shape), x, gamma, beta, mean, rstd, silu, dx, dgamma, dbeta)
    return dx.reshape(dy.shape), dgamma.sum(axis=0), dbeta.sum(axis=0)


def group_norm_silu_backward(dy, cache):
    return group_norm_backward(dy, cache)         # the cache says whether SiLU followed


def exp(x):
    """exp(x) within 2e-7 for float32, in a form that the compiler turns into vector instructions."""
    raise NotImplementedError("exp is for compiled code")


@overload(exp)
def _exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)
    log2e, ln2_high, ln2_low = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
    c0, c1, c2, c3, c4, c5 = (np.float32(1 / math.factorial(i)) for i in (2, 3, 4, 5, 6, 7))

    def polynomial(x):
        x = min(max(x, np.float32(-87)), np.float32(88))
        n = np.float32(math.floor(x * log2e + HALF))
        r = (x - n * ln2_high) - n * ln2_low                          # exp(x) = 2^n exp(r), |r| <= ln(2) / 2
        series = ((((c5 * r + c4) * r + c3) * r + c2) * r + c1) * r + c0
        power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
        return (series * r * r + r + ONE) * power

    return polynomial


@njit(parallel=True, fastmath=FUSED, cache=True)
def _group_norm(x, gamma, beta, eps, silu, y, mean, rstd):
    N, L, C = x.shape
    G = mean.shape[1]
    width = C // G
    for n in prange(N):
        sums, scale, shift = np.zeros(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype)
        for i in range(L):
            for c in range(C):
                sums[c] += x[n, i, c]
        for g in range(G):
            mean[n, g] = sums[g * width:(g + 1) * width].sum() / (L * width)
            shift[g * width:(g + 1) * width] = mean[n, g]
        sums[:] = 0
        for i in range(L):
            for c in range(C):
                centred = x[n, i, c] - shift[c]
                sums[c] += centred * centred
        for g in range(G):
            rstd[n, g] = 1 / math.sqrt(sums[g * width:(g + 1) * width].sum() / (L * width) + eps)
            for c in range(g * width, (g + 1) * width):
                scale[c] = rstd[n, g] * gamma[c]
                shift[c] = beta[c] - mean[n, g] * scale[c]
        for i in range(L):
            for c in range(C):
                z = x[n, i, c] * scale[c] + shift[c]
                y[n, i, c] = z / (ONE + exp(-z)) if silu else z


@njit(parallel=True, fastmath=FUSED, cache=True)
def _group_norm_backward(dy, x, gamma, beta, mean, rstd, silu, dx, dgamma, dbeta):
    """The formula of ops/norm.py; dz, the gradient between the norm and SiLU, is kept in dx on the way."""
    N, L, C = x.shape
    G = mean.shape[1]
    width = C // G
    for n in prange(N):
        m, r = np.empty(C, x.dtype), np.empty(C, x.dtype)
        for c in range(C):
            m[c], r[c] = mean[n, c // width], rstd[n, c // width]
        for i in range(L):
            for c in range(C):
                normal = (x[n, i, c] - m[c]) * r[c]
                dz = dy[n, i, c]
                if silu:
                    z = normal * gamma[c] + beta[c]
                    s = ONE / (ONE + exp(-z))
                    dz *= s * (ONE + z * (ONE - s))
                dx[n, i, c] = dz
                dbeta[n, c] += dz
                dgamma[n, c] += dz * normal
        mean_dn, mean_dn_n = np.empty(C, x.dtype), np.empty(C, x.dtype)
        for g in range(G):
            group = slice(g * width, (g + 1) * width)
            mean_dn[group] = (dbeta[n, group] * gamma[group]).sum() / (L * width)
            mean_dn_n[group] = (dgamma[n, group] * gamma[group]).sum() / (L * width)
        for i in range(L):
            for c in range(C):
                normal = (x[n, i, c] - m[c]) * r[c]
                dx[n, i, c] = r[c] * (dx[n, i, c] * gamma[c] - mean_dn[c] - normal * mean_dn_n[c])


# ---- Adam and the moving average: five buffers, read and written once ----

def adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, grad_scale, ema_decay):
    real = values.dtype.type
    rate, correction = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    _adam_ema(values, grads, m, v, ema, *map(real, (rate, correction, 1 - beta1, 1 - beta2, eps, grad_scale, 1 - ema_decay)))


@njit(parallel=True, fastmath=FUSED, cache=True)
def _adam_ema(values, grads, m, v, ema, rate, correction, one_minus_beta1, one_minus_beta2, eps, grad_scale, one_minus_decay):
    for i in prange(len(values)):
        g = grads[i] * grad_scale
        m[i] += one_minus_beta1 * (g - m[i])
        v[i] += one_minus_beta2 * (g * g - v[i])
        values[i] -= rate * m[i] / (math.sqrt(v[i]) * correction + eps)
        ema[i] += one_minus_decay * (values[i] - ema[i])
