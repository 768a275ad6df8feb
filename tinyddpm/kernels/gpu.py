"""The twins for a GPU: cuBLAS's matrix products, and the kernels of gpu.cu around them.

Arrays stay in the type of the readable operations. What becomes narrower, by the precision that `activate` sets, is what
goes into a matrix product: bfloat16 or float16, with sums in float32. Group norm, softmax, loss and update never do.
bfloat16 numbers live in arrays of uint16, for CuPy has no such type.
"""

import functools
from collections import namedtuple
from pathlib import Path

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas

from tinyddpm import ops as readable
from tinyddpm.backend import state
from tinyddpm.ops.attention import check_attention
from tinyddpm.ops.conv import check_conv2d, check_conv2d_add
from tinyddpm.ops.norm import check_group_norm

NARROW = {"fp32": 0, "tf32": 0, "bf16": 1, "fp16": 2}
ROWS_BYTES = 2**28          # of the gathered rows of a convolution: images are taken in parts that need no more
R_64F, R_32F, R_16F, R_16BF = 1, 0, 2, 14                           # cuBLAS's types
COMPUTE_64F, COMPUTE_32F, COMPUTE_TF32 = 70, 68, 77                 # and its arithmetic

NormCache = namedtuple("NormCache", "x gamma beta mean rstd silu")
Geometry = namedtuple("Geometry", "shape stride top left")          # shape: of the result, (H', W')


def activate():
    """The twins: name -> function."""
    twins = (linear, linear_backward, conv2d, conv2d_backward, conv2d_add, conv2d_add_backward, group_norm, group_norm_backward,
             group_norm_silu, group_norm_silu_backward, attention, attention_backward, upsample, upsample_backward, mean_squared_error, adam_ema)
    return {f.__name__: f for f in twins}


# ---- kernels ----

@functools.cache
def kernels(real, narrow):
    """gpu.cu for these types, compiled at its first use; CuPy keeps what it compiled on disk."""
    code = Path(__file__).with_suffix(".cu").read_text()
    return cupy.RawModule(code=code, options=("--std=c++17", f"-DREAL={real}", f"-DNARROW={narrow}"))


@functools.cache
def kernel(name, real, narrow):
    return kernels(real, narrow).get_function(name)


def launch(name, dtype, grid, block, *arguments):
    """Start a kernel with the numbers among its arguments in its own types."""
    arguments = [np.int32(a) if isinstance(a, int) else dtype.type(a) if isinstance(a, float) else a for a in arguments]
    real = "double" if dtype == np.float64 else "float"
    kernel(name, real, narrow_to(dtype))(grid, block, arguments)


def launch_each(name, dtype, size, *arguments):
    """Start a kernel with a thread for each of `size` numbers, its last argument."""
    launch(name, dtype, (-(-size // 256),), (256,), *arguments, size)


def narrow_to(dtype):
    return NARROW[state.precision] if dtype == np.float32 else 0


# ---- matrix products ----

def operands(x):
    """x, contiguous, in the type that goes into matrix products."""
    x = cupy.ascontiguousarray(x)
    narrow = narrow_to(x.dtype)
    if not narrow:
        return x
    y = cupy.empty(x.shape, np.float16 if narrow == 2 else np.uint16)
    launch_each("operands", x.dtype, x.size, x, y)
    return y


@functools.cache
def number(value, dtype):
    """A number that cuBLAS reads from the host's memory."""
    return np.full(1, value, dtype)


def multiply(a, b, out, transpose_a=False, transpose_b=False, add=False):
    """out = a b, or out += a b, each (rows, columns), or (batch, rows, columns) with any strides before the columns.

    cuBLAS counts columns first: it is asked for out^T = b^T a^T.
    """
    (M, N), K = out.shape[-2:], a.shape[-2 if transpose_a else -1]
    types = {np.float64: R_64F, np.float32: R_32F, np.float16: R_16F, np.uint16: R_16BF}
    kinds = [types[z.dtype.type] for z in (b, a, out)]
    compute = COMPUTE_64F if kinds[2] == R_64F else COMPUTE_TF32 if state.precision == "tf32" else COMPUTE_32F
    one, factor = (number(value, out.dtype).ctypes.data for value in (1, int(add)))
    handle = cupy.cuda.device.get_cublas_handle()
    steps = [max(z.strides[-2] // z.itemsize, z.shape[-1]) for z in (b, a, out)]            # from row to row
    if out.ndim == 2:
        B, A, C = ((z.data.ptr, kind, step) for z, kind, step in zip((b, a, out), kinds, steps))
        cublas.gemmEx(handle, transpose_b, transpose_a, N, M, K, one, *B, *A, factor, *C, compute, -1)
    else:
        B, A, C = ((z.data.ptr, kind, step, z.strides[0] // z.itemsize) for z, kind, step in zip((b, a, out), kinds, steps))
        cublas.gemmStridedBatchedEx(handle, transpose_b, transpose_a, N, M, K, one, *B, *A, factor, *C, len(out), compute, -1)


def start(shape, b, other=None):
    """An array of that shape (..., K) that holds b + other: a product is added to it."""
    y = cupy.empty(shape, b.dtype)
    pixels = 1 if other is None or other.size == y.size else y.size // other.size
    launch_each("start", b.dtype, y.size, y, cupy.ascontiguousarray(b), np.uintp(0) if other is None else other, pixels, shape[-1])
    return y


def column_sums(x):
    """x (S, rows, K) -> (S, K), in two stages where there are many rows: parts of about a thousand, then all parts."""
    S, rows, K = x.shape
    parts = next(parts for parts in range(max(1, rows // 1024), 0, -1) if rows % parts == 0)
    if parts > 1:
        return column_sums(column_sums(x.reshape(S * parts, -1, K)).reshape(S, parts, K))
    sums = cupy.empty((S, K), x.dtype)
    launch("column_sums", x.dtype, (-(-K // 32), S), (32, 8), x, sums, rows, K)
    return sums


# ---- the linear map ----

def linear(x, w, b):
    y, rows, filters = start((*x.shape[:-1], len(b)), b), operands(x).reshape(-1, len(w)), operands(w)
    multiply(rows, filters, y.reshape(-1, len(b)), add=True)
    return y, (rows, filters, x.shape)


def linear_backward(dy, cache):
    return _zeros_and(_accumulate_linear, dy, cache, cache[1].shape, dy.dtype)


def _accumulate_linear(dy, cache, dw, db):
    rows, filters, shape = cache
    dy = cupy.ascontiguousarray(dy).reshape(-1, dw.shape[1])
    narrow_dy, dx = operands(dy), cupy.empty(shape, dy.dtype)
    multiply(narrow_dy, filters, dx.reshape(rows.shape), transpose_b=True)
    multiply(rows, narrow_dy, dw, transpose_a=True, add=True)
    db += column_sums(dy[None])[0]
    return dx


linear_backward.accumulate = _accumulate_linear


def _zeros_and(accumulate, dy, cache, shape, dtype):
    """What a backward returns, from the function that adds dw and db to arrays."""
    dw, db = cupy.zeros(shape, dtype), cupy.zeros(shape[-1], dtype)
    dx = accumulate(dy, cache, dw, db)
    return dx, dw, db


# ---- convolution: the linear map of the pixels that an output pixel sees, which are gathered in rows ----

def conv2d(x, w, b, stride=1, padding=None):
    return _convolve(x, w, b, None, stride, check_conv2d(x, w, b, padding))


def conv2d_add(x, w, b, other):
    check_conv2d_add(x, w, other)
    y, cache = _convolve(x, w, b, cupy.ascontiguousarray(other), 1, check_conv2d(x, w, b, None))
    return y, (cache, other.shape)


def _convolve(x, w, b, other, stride, pads):
    (N, H, W, _), (kh, kw, _, K), ((top, bottom), (left, right)) = x.shape, w.shape, pads
    g = Geometry(((H + top + bottom - kh) // stride + 1, (W + left + right - kw) // stride + 1), stride, top, left)
    y, x, filters = start((N, *g.shape, K), b, other), operands(x), operands(w).reshape(-1, K)
    for part, rows in _parts(x, g.shape, kh, kw, stride, 1, 1, -top, -left):
        multiply(rows, filters, y[part].reshape(-1, K), add=True)
    return y, (x, w, g)


def conv2d_backward(dy, cache):
    return _zeros_and(_accumulate_conv2d, dy, cache, cache[1].shape, dy.dtype)


def conv2d_add_backward(dy, cache):
    (dx, dother), dw, db = _zeros_and(_accumulate_conv2d_add, dy, cache, cache[0][1].shape, dy.dtype)
    return dx, dw, db, dother


def _accumulate_conv2d(dy, cache, dw, db):
    dx, sums = _convolve_backward(dy, cache, dw)
    db += column_sums(sums[None])[0]
    return dx


def _accumulate_conv2d_add(dy, cache, dw, db):
    conv_cache, shape = cache
    dx, sums = _convolve_backward(dy, conv_cache, dw)
    db += column_sums(sums[None])[0]
    return dx, dy if shape == dy.shape else sums.reshape(shape)


conv2d_backward.accumulate, conv2d_add_backward.accumulate = _accumulate_conv2d, _accumulate_conv2d_add


def _convolve_backward(dy, cache, dw):
    """Returns dx and the sums (N, K) of dy over each image; adds to dw."""
    x, w, g = cache
    (kh, kw, C, K), dy = w.shape, cupy.ascontiguousarray(dy)
    sums, dx, dy = column_sums(dy.reshape(len(dy), -1, K)), cupy.empty(x.shape, dy.dtype), operands(dy)
    filters = operands(w.swapaxes(2, 3)).reshape(-1, C)
    for part, rows in _parts(dy, x.shape[1:3], kh, kw, 1, -1, g.stride, g.top, g.left):
        multiply(rows, filters, dx[part].reshape(-1, C))
    for part, rows in _parts(x, g.shape, kh, kw, g.stride, 1, 1, -g.top, -g.left):
        multiply(rows, dy[part].reshape(-1, K), dw.reshape(-1, K), transpose_a=True, add=True)
    return dx, sums


def _parts(source, shape, kh, kw, mul, sign, div, top, left):
    """Some images after the other: their slice, and for each pixel (i, j) of that shape the row of the kh kw C numbers that it
    meets in the source, those at ((mul i + sign p + top) / div, (mul j + sign q + left) / div) for the kernel's (p, q)."""
    N, H, W, C = source.shape
    each = max(1, ROWS_BYTES // (shape[0] * shape[1] * kh * kw * C * source.itemsize))
    pack = 16 // source.itemsize
    real = np.dtype(np.float32) if source.dtype != np.float64 else source.dtype
    for first in range(0, N, each):
        part = slice(first, min(N, first + each))
        rows = cupy.empty(((part.stop - first) * shape[0] * shape[1], kh * kw * C), source.dtype)
        width, name = (pack, "gather_pack") if C % pack == 0 else (1, "gather_one")
        launch_each(name, real, rows.size // (kh * kw * width), source[part], rows, H, W, C, *shape, kh, kw, mul, sign, div, top, left)
        yield part, rows


# ---- group normalization, alone or with SiLU ----

def group_norm(x, gamma, beta, groups, eps=1e-6):
    return _normalize(readable.group_norm, x, gamma, beta, groups, eps, 0)


def group_norm_silu(x, gamma, beta, groups, eps=1e-6):
    return _normalize(readable.group_norm_silu, x, gamma, beta, groups, eps, 1)


def _normalize(otherwise, x, gamma, beta, groups, eps, silu):
    check_group_norm(x, gamma, beta, groups)
    if x.shape[-1] // groups > 1024:                        # more channels in a group than a block has threads
        return otherwise(x, gamma, beta, groups, eps)
    x = cupy.ascontiguousarray(x)
    y, (mean, rstd) = cupy.empty_like(x), cupy.empty((2, len(x), groups), x.dtype)
    width, grid, block = _blocks(x, groups)
    launch("group_norm", x.dtype, grid, block, x, gamma, beta, y, mean, rstd, y[0].size // y.shape[-1], y.shape[-1], width, eps, silu)
    return y, NormCache(x, gamma, beta, mean, rstd, silu)


def group_norm_backward(dy, cache):
    return _normalize_backward(readable.group_norm_backward, dy, cache)


def group_norm_silu_backward(dy, cache):
    return _normalize_backward(readable.group_norm_silu_backward, dy, cache)


def _normalize_backward(otherwise, dy, cache):
    if not isinstance(cache, NormCache):
        return otherwise(dy, cache)
    x, C = cache.x, cache.x.shape[-1]
    dx, (dgamma, dbeta) = cupy.empty_like(x), cupy.empty((2, len(x), C), x.dtype)
    width, grid, block = _blocks(x, cache.mean.shape[1])
    launch("group_norm_backward", x.dtype, grid, block, cupy.ascontiguousarray(dy), *cache[:5], dx, dgamma, dbeta,
           x[0].size // C, C, width, cache.silu)
    return dx, column_sums(dgamma[None])[0], column_sums(dbeta[None])[0]


def _blocks(x, groups):
    """The channels of a group, and the grid and the block of threads: whole groups, of some 32 channels, by 8 lanes."""
    C = x.shape[-1]
    width = C // groups
    channels = width * max(1, 32 // width)
    return width, (-(-C // channels), len(x)), (channels, max(1, 256 // channels))


# ---- attention: a product for each image and head ----

def attention(q, k, v, heads=1):
    check_attention(q, k, v, heads)
    N, L, C = q.shape
    dtype, scale = q.dtype, (C // heads)**-0.5
    q, k, v = operands(q), operands(k), operands(v)
    y, logits, p = cupy.empty((N, L, C), dtype), cupy.empty((heads, N, L, L), dtype), cupy.empty((heads, N, L, L), q.dtype)
    for h, (qh, kh) in enumerate(zip(_heads(q, heads), _heads(k, heads))):
        multiply(qh, kh, logits[h], transpose_b=True)
    launch("softmax", dtype, (heads * N * L,), (32,), logits, p, L, scale)
    for ph, vh, yh in zip(p, _heads(v, heads), _heads(y, heads)):
        multiply(ph, vh, yh)
    return y, (q, k, v, p, scale)


def attention_backward(dy, cache):
    q, k, v, p, scale = cache
    heads, N, L, _ = p.shape
    dtype, dy = dy.dtype, operands(dy)
    dq, dk, dv = cupy.empty((3, *dy.shape), dtype)
    dp, dlogits = cupy.empty(p.shape, dtype), cupy.empty_like(p)
    for h, (dyh, vh, dvh) in enumerate(zip(_heads(dy, heads), _heads(v, heads), _heads(dv, heads))):
        multiply(dyh, vh, dp[h], transpose_b=True)
        multiply(p[h], dyh, dvh, transpose_a=True)
    launch("softmax_backward", dtype, (heads * N * L,), (32,), dp, p, dlogits, L, scale)
    for dl, qh, kh, dqh, dkh in zip(dlogits, *(_heads(z, heads) for z in (q, k, dq, dk))):
        multiply(dl, kh, dqh)
        multiply(dl, qh, dkh, transpose_a=True)
    return dq, dk, dv


def _heads(z, heads):
    """Views (N, L, C / heads) of z (N, L, C), one for each head."""
    width = z.shape[2] // heads
    return [z[:, :, h * width:(h + 1) * width] for h in range(heads)]


# ---- resolution, the loss, and the update ----

def upsample(x):
    N, H, W, C = x.shape
    y = cupy.empty((N, 2 * H, 2 * W, C), x.dtype)
    launch_each("upsample", x.dtype, y.size, cupy.ascontiguousarray(x), y, W, C)
    return y, None


def upsample_backward(dy, cache):
    N, H, W, C = dy.shape
    dx = cupy.empty((N, H // 2, W // 2, C), dy.dtype)
    launch_each("upsample_backward", dy.dtype, dx.size, cupy.ascontiguousarray(dy), dx, W // 2, C)
    return dx


def mean_squared_error(prediction, target):
    if prediction.shape != target.shape:
        return readable.mean_squared_error(prediction, target)              # which refuses them
    difference, sums = cupy.empty(prediction.shape, prediction.dtype), cupy.empty((1, -(-prediction.size // 256), 1), prediction.dtype)
    launch_each("squared_error", prediction.dtype, prediction.size, *map(cupy.ascontiguousarray, (prediction, target)), difference, sums)
    return column_sums(sums)[0, 0] / prediction.size, difference


def adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, grad_scale, ema_decay):
    scale = cupy.asarray(grad_scale, values.dtype)
    launch_each("adam_ema", values.dtype, values.size, values, grads, m, v, ema, scale, lr / (1 - beta1**step),
                (1 - beta2**step)**-0.5, 1 - beta1, 1 - beta2, eps, 1 - ema_decay)
