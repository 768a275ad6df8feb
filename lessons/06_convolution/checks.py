"""The tasks of homework 06."""

import numpy as np
from tasks import library, pair, question, refuses

from tinyddpm import ops

IMPORTS = """import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.conv import check_conv2d    # the padding of both axes, ((top, bottom), (left, right))"""
conv2d, conv2d_backward = ops.conv2d, ops.conv2d_backward


def check_conv2d(f, rng):
    C, K = (int(n) for n in rng.integers(1, 4, 2))
    for shape, kernel, settings in (((2, 5, 6), (3, 3), (1, None)), ((1, 4, 7), (5, 3), (1, None)),
                                    ((2, 6, 5), (3, 3), (2, (0, 1))), ((1, 3, 3), (1, 1), (1, None)),
                                    ((1, 7, 6), (2, 3), (3, (2, 1)))):
        yield from pair(f, "conv2d", rng, {"x": (*shape, C), "w": (*kernel, C, K), "b": (K,)}, *settings)
    x, w, b = rng.standard_normal((1, 4, 4, C)), rng.standard_normal((3, 3, C + 1, K)), np.zeros(K)
    yield "conv2d errors: a filter for one channel more", refuses(f.conv2d, x, w, b)


def check_upsample(f, rng):
    H, W, C = (int(n) for n in rng.integers(1, 5, 3))
    yield from pair(f, "upsample", rng, {"x": (2, H, W, C)})


def dilated_conv2d(f, rng):
    C, K = (int(n) for n in rng.integers(1, 4, 2))
    for kernel, dilation in (((3, 3), 2), ((3, 3), 1), ((1, 3), 3), ((5, 3), 2)):
        yield from pair(f, "dilated_conv2d", rng, {"x": (2, 7, 6, C), "w": (*kernel, C, K), "b": (K,)}, dilation)


def dilated_answer(x, w, b, dilation):
    """The ordinary convolution, with a kernel that has zeros between its numbers."""
    kh, kw, C, K = w.shape
    wide = np.zeros(((kh - 1) * dilation + 1, (kw - 1) * dilation + 1, C, K))
    wide[::dilation, ::dilation] = w
    y, cache = conv2d(x, wide, b)
    return y, (cache, dilation)


def dilated_answer_backward(dy, cache):
    dx, dw, db = conv2d_backward(dy, cache[0])
    return dx, dw[::cache[1], ::cache[1]], db


OPEN = ("Put a single white pixel through 1, 6 and 24 blurs of 3 x 3. How far does it reach, and how wide is it, "
        "measured as the standard deviation of the brightness along a row? Explain the numbers.",
        "The reach is one pixel for each layer, 1, 6 and 24. The standard deviation is 0.82, 2.0 and 4.0, the root of"
        " 2n/3: a blur moves light by -1, 0 or 1 pixel with equal chances, which has the variance 2/3, and variances "
        "add (lesson 1). So a deep stack of small filters sees far in principle, but mostly what is near. This is one"
        " reason why a U-Net goes down to lower resolutions.")

TASKS = [
    library("6.1", "Convolution", 5, check_conv2d, [ops.conv2d, ops.conv2d_backward],
            hints={"conv2d": "is the filter laid over as it is, not turned around? And the padding at the top and on "
                             "the left?",
                   "conv2d_backward dx": "are overlapping windows added, and the padding cut off on the right sides?",
                   "conv2d_backward dw": "the window of the padded x, with the same stride as in the forward",
                   "conv2d_backward db": "b was added at every place of every image"},
            conv2d=["check_conv2d(x, w, b, padding) gives the padding; pad x with zeros; H' = (H + top + bottom - kh) "
                    "// stride + 1", "for each kernel position (p, q): the view of the padded x that it meets",
                    "one matrix product for each position, added up; then the bias", "return y and what the backward "
                                                                                     "needs: x, not the padded copy; "
                                                                                     "w, the stride and the padding"],
            conv2d_backward=["the same windows again: dw[p, q] is a product of the window and dy",
                             "dy w[p, q]^T goes back to where the window came from; windows overlap, so add",
                             "cut the padding off dx"]),
    library("6.2", "Upsampling", 2, check_upsample, [ops.upsample, ops.upsample_backward],
            hints={"upsample_backward dx": "four paths lead from each pixel: a sum, not a mean"},
            upsample=["repeat rows, then columns; nothing to remember: the cache is None"],
            upsample_backward=["each pixel was used four times"]),
    question("6.3", "A dilated convolution", 4, dilated_conv2d, '''
def dilated_conv2d(x, w, b, dilation):
    """y[n, i, j] = b + sum over p, q of x[n, i + (p - kh // 2) dilation, j + (q - kw // 2) dilation] w[p, q], zeros
    outside.

    x (N, H, W, C), w (kh, kw, C, K) with odd kh and kw, b (K,) -> y (N, H, W, K), and a cache
    """

def dilated_conv2d_backward(dy, cache):
    """dy (N, H, W, K) -> dx (N, H, W, C), dw (kh, kw, C, K), db (K,)"""
''', {"dilated_conv2d": dilated_answer, "dilated_conv2d_backward": dilated_answer_backward},
             dilated_conv2d=["how much padding does the widened kernel need?",
                             "the windows of 6.1, starting at p dilation and q dilation"],
             dilated_conv2d_backward=["as in 6.1"]),
]
