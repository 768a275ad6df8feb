"""The tasks of homework 09."""

import numpy as np
from tasks import library, numeric, pair, question, refuses

from tinyddpm import ops

IMPORTS = """import math

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.concatenate import check_concatenate"""


def time_embedding(f, rng):
    t = rng.integers(1, 1001, 5)
    for width in (4, 10, 128):
        yield f"time_embedding: width {width}", f.time_embedding(t, width, np.float64)
    yield "time_embedding: the type is float32", f.time_embedding(t, 4).dtype == np.float32
    yield "time_embedding errors: width 5", refuses(f.time_embedding, t, 5)


def concatenate(f, rng):
    a, b = (int(n) for n in rng.integers(1, 5, 2))
    yield from pair(f, "concatenate", rng, {"a": (2, 3, 4, a), "b": (2, 3, 4, b)})


def patchify(f, rng):
    for size, C in ((2, int(rng.integers(1, 4))), (3, 2)):
        yield from pair(f, "patchify", rng, {"x": (2, 2 * size, 3 * size, C)}, size)


def mean_downsample(f, rng):
    H, W, C = (2 * int(n) for n in rng.integers(1, 4, 3))
    yield from pair(f, "mean_downsample", rng, {"x": (2, H, W, C)})


def mean_answer(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


_mean = numeric(mean_answer)

OPEN = ("Give the network mnist-eps a digit with the noise of t = 300, and tell it t = 150, 300 and 500. Draw the x_0"
        " that it predicts.",
        "Told 150, it leaves noise in the picture and rough edges, for it believes that most of what it sees is "
        "image. Told 500, it removes too much: strokes become faint and blurred, and fine parts vanish. The error of "
        "x_0 was 0.31, 0.21 and 0.29 in a trial with eight digits. The time says how much of the input to believe, so"
        " the network must be told it, and told right.")

TASKS = [
    library("9.1", "Time as a vector", 2, time_embedding, [ops.time_embedding],
            hints={"time_embedding": "is t - 1 used, are the sines first, and is the last frequency 1 / 10000 "
                                     "exactly?"},
            time_embedding=["width / 2 frequencies, from 1 down to 1 / 10000 in equal ratios",
                            "angles (t - 1) f_i: the authors count from 0",
                            "all sines first, then all cosines"]),
    library("9.2", "Skip connections", 2, concatenate, [ops.concatenate, ops.concatenate_backward],
            concatenate=["remember where the seam is"], concatenate_backward=["cut there"]),
    library("9.3", "Patches as channels", 3, patchify, [ops.patchify, ops.patchify_backward],
            hints={"patchify": "within a patch the order is row, column, channel"},
            patchify=["give the pixels within a patch axes of their own",
                      "bring them behind the patches' axes, and into the channels"],
            patchify_backward=["the same steps, backwards"]),
    question("9.4", "Half the resolution by means", 3, mean_downsample, '''
def mean_downsample(x):
    """The mean of each 2x2 square: half the resolution without parameters. x (N, 2H, 2W, C) -> y (N, H, W, C), and a
    cache"""

def mean_downsample_backward(dy, cache):
    """dy (N, H, W, C) -> dx (N, 2H, 2W, C)"""
''', {"mean_downsample": _mean[0], "mean_downsample_backward": _mean[1]},
             hints={"mean_downsample_backward dx": "a mean of four gives each a quarter"},
             mean_downsample=["reshape so that a square has two axes of its own"],
             mean_downsample_backward=["each pixel counted for a quarter"]),
]
