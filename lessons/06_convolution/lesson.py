"""Lesson 6: convolution, from seven loops to Winograd.

    python lessons/06_convolution/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course
import diagrams

import tinyddpm
from tinyddpm import gradcheck, ops


def conv_by_loops(x, w, b):
    """The formula, number by number: four loops for the outputs, three for each sum."""
    (N, H, W, C), (kh, kw, _, K) = x.shape, w.shape
    y = np.zeros((N, H, W, K), x.dtype)
    for n, i, j, k in np.ndindex(N, H, W, K):
        y[n, i, j, k] = b[k]
        for p, q, c in np.ndindex(kh, kw, C):
            row, column = i + p - kh // 2, j + q - kw // 2
            if 0 <= row < H and 0 <= column < W:
                y[n, i, j, k] += x[n, row, column, c] * w[p, q, c, k]
    return y


def im2col(x, kh, kw):
    """The kh kw C numbers that each output pixel sees, as a row: (N H W, kh kw C)"""
    N, H, W, C = x.shape
    padded = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    rows = np.empty((N, H, W, kh, kw, C), x.dtype)
    for p, q in np.ndindex(kh, kw):
        rows[:, :, :, p, q] = padded[:, p:p + H, q:q + W]
    return rows.reshape(N * H * W, kh * kw * C)


def conv_by_rows(x, w, b):
    """One matrix product for the whole convolution."""
    kh, kw, C, K = w.shape
    return (im2col(x, kh, kw) @ w.reshape(-1, K) + b).reshape(*x.shape[:3], K)


def conv_by_windows(x, w, b):
    """One matrix product for each position of the kernel."""
    kh, kw = w.shape[:2]
    padded = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    y = b
    for p, q in np.ndindex(kh, kw):
        y = y + padded[:, p:p + x.shape[1], q:q + x.shape[2]] @ w[p, q]
    return y


def conv_backward(dy, x, w):
    """What went through w[p, q] comes back through its transpose."""
    kh, kw, C, K = w.shape
    padded = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for p, q in np.ndindex(kh, kw):
        window = slice(None), slice(p, p + x.shape[1]), slice(q, q + x.shape[2])
        dw[p, q] = padded[window].reshape(-1, C).T @ dy.reshape(-1, K)
        dpadded[window] += dy @ w[p, q].T                   # windows overlap: add
    dx = dpadded[:, kh // 2:kh // 2 + x.shape[1], kw // 2:kw // 2 + x.shape[2]]
    return dx, dw, dy.sum(axis=(0, 1, 2))


# Winograd's algorithm as Lavin and Gray (2016) use it
def winograd(points, taps=3):
    """A, B and G for lines of len(points) + 1 numbers and a filter of so many taps."""
    n = len(points) + 1                 # V(count): rows for the points and for infinity
    V = lambda count: np.vstack([np.vander(points, count, increasing=True),
                                 np.eye(count)[-1:]])
    return V(n - taps + 1).T, np.linalg.inv(V(n)).T, V(taps)


def winograd_1d(d, g, points=(0, 1, -1)):
    """d_i g_0 + d_{i+1} g_1 + d_{i+2} g_2 for i = 0, 1 of a line of 4, or more."""
    A, B, G = winograd(points)
    return A @ ((G @ g) * (B @ d))


def winograd_2d(d, g, points=(0, 1, -1)):
    """4 x 4 pixels and a 3 x 3 filter: 2 x 2 outputs, 16 products instead of 36."""
    A, B, G = winograd(points)
    return A @ ((G @ g @ G.T) * (B @ d @ B.T)) @ A.T


def product_by_blocks(a, b, rows=6, columns=16):
    """a b, block by block. Compiled, a block stays in registers while p runs."""
    c = np.zeros((len(a), b.shape[1]))
    for k in range(0, b.shape[1], columns):
        panel = np.ascontiguousarray(b[:, k:k + columns])   # fits into the first cache
        for i in range(0, len(a), rows):
            for p in range(len(b)):
                c[i:i + rows, k:k + columns] += np.outer(a[i:i + rows, p], panel[p])
    return c


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)
    for name, f in (("rows", conv_by_rows), ("windows", conv_by_windows)):
        print(f"by {name}: differs from the seven loops by {np.abs(f(x, w, b) - conv_by_loops(x, w, b)).max():.0e}")
    forward, backward = lambda x, w, b: (conv_by_windows(x, w, b), (x, w)), lambda dy, cache: conv_backward(dy, *cache)
    print(f"the backward: largest relative error {gradcheck.check(forward, backward, x, w, b):.0e}")
    course.controls({"dy upside down": (forward, lambda dy, cache: backward(dy[:, ::-1], cache), x, w, b)})

    for name, found in zip("ABG", winograd((0, 1, -1))):
        print(f"{name} = {found.tolist()}".replace(".0", ""))
    d, g, line, more = *(rng.standard_normal(shape) for shape in ((4, 4), (3, 3), 6)), (0, 1, -1, 2, -2)
    direct = conv_by_loops(d[None, :, :, None], g[:, :, None, None], np.zeros(1))[0, 1:3, 1:3, 0]
    print(f"Winograd: a line of 4 differs by {np.abs(winograd_1d(d[0], g[0]) - np.correlate(d[0], g[0])).max():.0e}, "
          f"a tile by {np.abs(winograd_2d(d, g) - direct).max():.0e}")
    print(f"with 2 and -2 too: {len(line) - 2} outputs by {len(line)} products instead of 12, "
          f"differs by {np.abs(winograd_1d(line, g[0], more) - np.correlate(line, g[0])).max():.0e}")
    left, right = x.reshape(20, 9), w.reshape(9, 12)
    print(f"a product by blocks: differs by {np.abs(product_by_blocks(left, right) - left @ right).max():.0e}")

    N, K = (8, 16) if lesson.quick else (64, 64)
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((N, 14, 14, K), (3, 3, K, K), (K,)))
    times = {"loops": course.median_ms(conv_by_loops, x[:1, :4, :4], w, b, repeats=1) * N * (14 / 4)**2,
             "rows": course.median_ms(conv_by_rows, x, w, b), "windows": course.median_ms(conv_by_windows, x, w, b)}
    tinyddpm.use("auto")
    times["rows, own product"] = course.median_ms(lambda: ops.linear(im2col(x, 3, 3), w.reshape(-1, K), b))
    times["Winograd, own product"] = course.median_ms(ops.conv2d, x, w, b)
    speeds = {name: 2 * x.size * 9 * K / ms / 1e6 for name, ms in times.items()}
    for name, ms in times.items():
        print(f"measured: {name}: {ms:,.1f} ms, {speeds[name]:,.4g} GFLOP/s")
    lesson.draw("figure_speed.png", diagrams.bars, speeds, "GFLOP/s, counted as in the direct way", size=(7, 2.6))

    digit = course.digits(1)[0][0] / 127.5 - 1
    sobel, blur = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]]) / 4, np.ones((3, 3)) / 9
    filtered = lambda x, w, padding=None: ops.conv2d(x[None], w[:, :, None, None], np.zeros(1), padding=padding)[0][0]
    filters = {"blur": blur, "horizontal edges": sobel, "vertical edges": sobel.T}
    pictures = {name: filtered(digit, w) for name, w in filters.items()}
    lesson.row("figure_filters.png", {"a digit": digit, **pictures}, (8, 2.3))
    many = shifted = digit
    for _ in range(6):
        many, shifted = filtered(many, blur), filtered(shifted, blur, (0, 2))
    lesson.row("figure_wrong.png", {"a digit": digit, "six blurs": many, "padded on one side": shifted}, (7, 2.4))
    lesson.end()


if __name__ == "__main__":
    course.program(main)
