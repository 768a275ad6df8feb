"""Lesson 6: convolution, from seven loops to Winograd.

    python lessons/06_convolution/lesson.py [--quick]
"""

import sys
import timeit
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

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
    for p in range(kh):
        for q in range(kw):
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
    for p in range(kh):
        for q in range(kw):
            y = y + padded[:, p:p + x.shape[1], q:q + x.shape[2]] @ w[p, q]
    return y


def conv_backward(dy, x, w):
    """What went through w[p, q] comes back through its transpose."""
    kh, kw, C, K = w.shape
    padded = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for p in range(kh):
        for q in range(kw):
            window = slice(None), slice(p, p + x.shape[1]), slice(q, q + x.shape[2])
            dw[p, q] = padded[window].reshape(-1, C).T @ dy.reshape(-1, K)
            dpadded[window] += dy @ w[p, q].T                    # windows overlap: add
    dx = dpadded[:, kh // 2:kh // 2 + x.shape[1], kw // 2:kw // 2 + x.shape[2]]
    return dx, dw, dy.sum(axis=(0, 1, 2))


# Winograd's algorithm as Lavin and Gray (2016) use it
def winograd(points, taps=3):
    """A, B and G for lines of len(points) + 1 numbers and a filter of so many taps."""
    n = len(points) + 1

    def values(count):
        """Rows that take `count` coefficients to values, the last at infinity."""
        powers = np.vander(points, count, increasing=True)
        return np.vstack([powers, np.eye(count)[-1:]])

    return values(n - taps + 1).T, np.linalg.inv(values(n)).T, values(taps)


A, B, G = winograd(points=(0, 1, -1))


def winograd_1d(d, g):
    """y_0 = d_0 g_0 + d_1 g_1 + d_2 g_2 and y_1 = d_1 g_0 + d_2 g_1 + d_3 g_2."""
    return A @ ((G @ g) * (B @ d))


def winograd_2d(d, g):
    """4 x 4 pixels and a 3 x 3 filter: 2 x 2 outputs, 16 products instead of 36."""
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


def median_ms(f, *args, repeats=8):
    return 1e3 * float(np.median(timeit.repeat(lambda: f(*args), number=1, repeat=repeats)))


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)
    for name, f in (("rows", conv_by_rows), ("windows", conv_by_windows)):
        print(f"by {name}: differs from the seven loops by {np.abs(f(x, w, b) - conv_by_loops(x, w, b)).max():.0e}")
    forward = lambda x, w, b: (conv_by_windows(x, w, b), (x, w))
    backward = lambda dy, cache: conv_backward(dy, *cache)
    print(f"the backward: largest relative error {gradcheck.check(forward, backward, x, w, b):.0e}")
    course.caught(gradcheck.check, forward, lambda dy, cache: backward(dy[:, ::-1], cache), x, w, b)
    print("negative control, dy upside down: caught")
    d, g = rng.standard_normal((4, 4)), rng.standard_normal((3, 3))
    direct = np.array([[(d[i:i + 3, j:j + 3] * g).sum() for j in range(2)] for i in range(2)])
    line = np.array([d[0, 0:3] @ g[0], d[0, 1:4] @ g[0]])
    for name, found in (("A", A), ("B", B), ("G", G)):
        print(f"{name} = {found.tolist()}".replace(".0", ""))
    print(f"Winograd: a line of 4 differs by {np.abs(winograd_1d(d[0], g[0]) - line).max():.0e}, "
          f"a tile by {np.abs(winograd_2d(d, g) - direct).max():.0e}")
    A6, B6, G6 = winograd(points=(0, 1, -1, 2, -2))
    line = rng.standard_normal(6)
    found = A6 @ ((G6 @ g[0]) * (B6 @ line))
    print(f"with 2 and -2 too: {len(found)} outputs by {len(B6)} products instead of {3 * len(found)}, "
          f"differs by {np.abs(found - np.correlate(line, g[0])).max():.0e}")
    left, right = x.reshape(20, 9), w.reshape(9, 12)
    print(f"a product by blocks: differs by {np.abs(product_by_blocks(left, right) - left @ right).max():.0e}")
    N, K = (8, 16) if lesson.quick else (64, 64)
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((N, 14, 14, K), (3, 3, K, K), (K,)))
    work = 2 * x.size * 9 * K
    times = {"loops": median_ms(conv_by_loops, x[:1, :4, :4], w, b, repeats=1) * len(x) * (14 / 4)**2,
             "rows": median_ms(conv_by_rows, x, w, b), "windows": median_ms(conv_by_windows, x, w, b)}
    tinyddpm.use("auto")
    times["rows, own product"] = median_ms(lambda: ops.linear(im2col(x, 3, 3), w.reshape(-1, K), b))
    times["Winograd, own product"] = median_ms(ops.conv2d, x, w, b)
    for name, ms in times.items():
        corner = " (from a 4 x 4 corner of one image)" if name == "loops" else ""
        print(f"measured: {name}: {ms:,.1f} ms, {work / ms / 1e6:,.4g} GFLOP/s{corner}")
    tinyddpm.use("numpy")

    digit = course.digits(1)[0][:1] / 127.5 - 1
    sobel = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]]) / 4
    kernels = {"identity": np.eye(9)[4].reshape(3, 3), "blur": np.ones((3, 3)) / 9,
               "horizontal edges": sobel, "vertical edges": sobel.T}
    figure, axes = lesson.figure(1, 5, size=(8, 1.9))
    course.show(axes[0], digit[0], "a digit")
    for ax, (name, kernel) in zip(axes[1:], kernels.items()):
        course.show(ax, ops.conv2d(digit, kernel[:, :, None, None], np.zeros(1))[0][0], name)
    lesson.save(figure, "figure_filters.png")

    figure, axes = lesson.figure(size=(7, 2.6))
    speeds = [work / ms / 1e6 for ms in times.values()]
    axes.bar_label(axes.barh(list(times), speeds), [f"{speed:.3g}" for speed in speeds], padding=4)
    axes.set(xscale="log", xlabel="GFLOP/s, counted as in the direct way", xlim=(None, 3 * max(speeds)))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    lesson.save(figure, "figure_speed.png")

    figure, axes = lesson.figure(1, 3, size=(7, 2.4))
    blur, many, shifted = kernels["blur"][:, :, None, None], digit, digit
    for _ in range(6):
        many = ops.conv2d(many, blur, np.zeros(1))[0]
        shifted = ops.conv2d(shifted, blur, np.zeros(1), padding=(0, 2))[0]
    for ax, picture, title in zip(axes, (digit, many, shifted), ("a digit", "six blurs", "six blurs, padded on one side")):
        course.show(ax, picture[0], title)
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
