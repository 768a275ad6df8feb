"""The tasks of homework 17."""

import numpy as np
from tasks import attempt, expect, library, question

from tinyddpm.diffusion import schedule
from tinyddpm.sampling import editing

IMPORTS = """import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.process import mu_from_x0            # the mean of Eq. 7
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.editing import Measurement            # Measurement(of, back)"""


def measurements(f, rng):
    x, mask = rng.standard_normal((2, 4, 6, 3)), rng.integers(0, 2, (1, 4, 6, 1)).astype(float)
    for name, make in (("masked", lambda: f.masked(mask)), ("smaller", lambda: f.smaller(2))):
        made = attempt(make)
        for part, use in (("of: A x", lambda: made.of(x)), ("back: from A x", lambda: made.back(made.of(x))),
                          ("back: A of it is y again", lambda: made.of(made.back(made.of(x))))):
            yield f"{name} {part}", made if isinstance(made, Exception) else attempt(use)


class Linear:
    """A reverse process whose x_0 is a matrix times x_t, and its gradient."""

    def __init__(self, rng, D=3):
        self.matrix = rng.standard_normal((D, D)) / 2

    def __call__(self, xt, t):
        return None, np.full(len(xt), 0.3), xt @ self.matrix

    def backward(self, dx0):
        return dx0 @ self.matrix.T


def wrapped(f, name, rng, *settings):
    """What a wrapped reverse process returns."""
    s, xt, y = schedule.linear(60, 1e-3, 0.2), rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    mask = np.array([[1.0, 0.0, 1.0]])
    for t in (5, 40):
        q = attempt(getattr(f, name), Linear(rng), s, editing.Measurement(lambda x: mask * x, lambda y: mask * y),
                    mask * y, *settings)
        found = q if isinstance(q, Exception) else attempt(q, xt, np.full(4, t))
        what = ", ".join([f"t = {t}", *map(str, settings)])
        for part, index in (("x_0", 2), ("the mean", 0), ("the variance", 1)):
            yield f"{part}: {what}", found[index] if isinstance(found, tuple) else found


def replaced(f, rng):
    yield from wrapped(f, "replaced", rng)


def noised(f, rng):
    s, x = schedule.linear(60, 1e-3, 0.2), rng.standard_normal((4, 3))
    for t, later in ((0, 30), (20, 21), (5, 60)):
        noise = np.random.default_rng(4)
        yield f"from t = {t} to {later}", attempt(f.noised, s, x, t, later, noise)
        yield f"the next number of the generator, from {t} to {later}", noise.random()


def conditional(f, rng):
    for D, known in ((2, [0]), (4, [1, 3]), (5, [4, 0, 2])):
        root = rng.standard_normal((D, D))
        found = attempt(f.conditional, rng.standard_normal(D), root @ root.T + np.eye(D), known,
                        rng.standard_normal(len(known)))
        if not isinstance(found, Exception):
            found = expect(found, 2, "conditional", "mean and covariance")
        for i, part in enumerate(("the mean", "the covariance")):
            yield f"{part}: {known} of {D} known", found if isinstance(found, Exception) else found[i]


def reconstructed(f, rng):
    for scale, clip in ((1.0, False), (0.3, False), (2.0, True)):
        yield from wrapped(f, "reconstructed", rng, scale, clip)


def conditional_answer(mean, covariance, known, values):
    """From the inverse of the covariance, by completing the square."""
    others = [i for i in range(len(mean)) if i not in known]
    precision = np.linalg.inv(covariance)
    spread = np.linalg.inv(precision[np.ix_(others, others)])
    return mean[others] - spread @ precision[np.ix_(others, known)] @ (values - mean[known]), spread


OPEN = ("Fill the left half of the same digit with ten seeds, by `--method replacement`, `resampling` and "
        "`reconstruction` of edit.py. How varied are the answers of each, and is more variety better?",
        "Replacement is the most varied, for its answers hardly look at what is known: many do not continue its "
        "strokes. The other two agree more, and where the known half leaves only one digit possible they should. More "
        "variety is better only among answers that fit. The measure would be the conditional distribution itself, "
        "which is known in the plane and not for digits; a classifier can at least tell whether the whole is a digit.")

TASKS = [
    library("17.1", "What is known", 2, measurements, [editing.masked, editing.smaller],
            masked=["-> Measurement(of, back): of(x) = A x; back(y), the smallest x with A x = y; the same here"],
            smaller=["-> Measurement(of, back), too", "of: reshape to squares, and the mean of each",
                     "back: every pixel of a square has its mean"]),
    library("17.2", "Replacement", 2, replaced, [editing.replaced],
            hints={"x_0": "x_0 + A^+ (y - A x_0): what is missing of y, taken back", "the mean": "of Eq. 7"},
            replaced=["return a function of xt and t, like p(xt, t) -> mean, variance, x_0; the variance stays",
                      "x_0 + back(y - of(x_0)), and the mean of Eq. 7 from it"]),
    library("17.3", "Noise for going back", 1, noised, [editing.noised],
            noised=["alpha_bar at the later time divided by that at t takes the place of alpha_bar in Eq. 4"]),
    question("17.4", "The truth in the plane, and beyond", 2, conditional, '''
def conditional(mean, covariance, known, values):
    """The Gaussian of the other numbers, given some: its mean and its covariance.

    mean (D,), covariance (D, D); known: a list of indices; values: of these, in that order
    -> mean (D - K,) and covariance (D - K, D - K) of the others, in their order
    """
''', {"conditional": conditional_answer}, conditional=["np.ix_(a, b) picks rows a and columns b"]),
    library("17.5", "Reconstruction", 3, reconstructed, [editing.reconstructed],
            hints={"x_0": "p.backward multiplies by J^T; (1 - alpha_bar) of the score's variance and of Tweedie's "
                          "formula cancel"},
            reconstructed=["the residual y - A x_0, taken back, then through p.backward",
                           "x_0 moves by scale / sqrt(alpha_bar) times that; then it is clipped, if asked"]),
]
