"""The tasks of homework 01."""

import numpy as np
from tasks import library, question

from tinyddpm import plots

IMPORTS = "import numpy as np\n\nfrom tinyddpm.backend import to_numpy        # arrays of a GPU as NumPy's"


def to_uint8(f, rng):
    x = rng.uniform(-1.3, 1.3, (2, 3, 4))
    yield "to_uint8(x)", f.to_uint8(x)
    yield "x after the call", x
    yield "to_uint8 of bytes that were scaled", f.to_uint8(np.arange(256) / 127.5 - 1)
    yield "the type is uint8", f.to_uint8(x).dtype == np.uint8


def grid(f, rng):
    for N, columns, margin in ((7, None, 1), (5, None, 2), (11, None, 1), (6, 2, 3), (1, None, 0)):
        images = rng.integers(0, 256, (N, 3, 5, 2)).astype(np.uint8)
        yield f"grid({N} images, columns={columns}, margin={margin})", f.grid(images, columns, margin)
    yield "the type is uint8", f.grid(images).dtype == np.uint8


def correlated(f, rng):
    D = int(rng.integers(2, 5))
    a = rng.standard_normal((D, D))
    mean, covariance, z = rng.standard_normal(D), a @ a.T + np.eye(D), rng.standard_normal((6, D))
    yield "correlated(mean, covariance, z)", f.correlated(mean, covariance, z)


def rescale(f, rng):
    images = rng.integers(0, 256, (2, 3, 3)).astype(np.uint8)
    for low, high in ((0.0, 1.0), (-1, 1), (-3.0, 5.5)):
        yield f"rescale(x, {low}, {high})", f.rescale(images, low, high)


OPEN = ("Fit one Gaussian to the ones alone, another to the eights, and draw from both. How many directions hold 90% "
        "of the variance of each, and whose samples look better? Why?",
        "32 directions for the ones and 66 for the eights, of 784 (85 for all digits). Ones differ mainly in slant "
        "and thickness, which a few directions nearly describe, so their samples come close. A Gaussian has one hump,"
        " and mixes its directions independently of each other: it cannot say that two strokes must meet, or that a "
        "loop is closed. The more shapes the data have, the worse it fits.")

TASKS = [
    library("1.1", "Data in [-1, 1] as bytes", 2, to_uint8, [plots.to_uint8],
            to_uint8=["x = -1 is 0 and x = 1 is 255: shift and scale", "round to the nearest, not down",
                      "cut off what lies outside 0..255"]),
    library("1.2", "Images beside and below each other", 3, grid, [plots.grid],
            grid=["columns: the root of N, rounded up, where none is given; rows: as many as are needed",
                  "a sheet of the value 64, with a margin before each row and column and after the last",
                  "image i goes to row i // columns and column i % columns"]),
    question("1.3", "A Gaussian with any covariance", 3, correlated, '''
def correlated(mean, covariance, z):
    """Samples of N(mean, covariance) from standard normal z: mean + L z, with L the Cholesky factor, covariance = L
    L^T.

    mean (D,), covariance (D, D), z (N, D) -> x (N, D)
    """
''', {"correlated": lambda mean, covariance, z: np.array([mean + np.linalg.cholesky(covariance) @ row for row in z])},
             correlated=["each row of z is one sample"]),
    question("1.4", "Bytes in any range", 2, rescale, '''
def rescale(images, low, high):
    """uint8 images, 0..255, as floating-point numbers from low to high. Any shape -> the same shape"""
''', {"rescale": lambda x, low, high: np.interp(x, [0, 255], [low, high])},
             rescale=["leave uint8 before you multiply: its numbers wrap around at 256"]),
]
