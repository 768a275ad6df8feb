"""The tasks of homework 04."""

import numpy as np
from tasks import attempt, library, numeric, pair, question

from tinyddpm import ops

IMPORTS = """import numpy as np

from tinyddpm.backend import array_module      # array_module(x) is NumPy here, CuPy on a GPU"""


def check_linear(f, rng):
    N, C, K = (int(n) for n in rng.integers(2, 6, 3))
    yield from pair(f, "linear", rng, {"x": (N, C), "w": (C, K), "b": (K,)})
    yield from pair(f, "linear", rng, {"x": (2, 3, C), "w": (C, K), "b": (K,)})


def check_silu(f, rng):
    yield from pair(f, "silu", rng, {"x": (3, 4)})
    y, cache = f.silu(np.array([-800.0, 0.0, 800.0]))
    yield "silu: far from 0", y
    yield "silu_backward dx: far from 0", attempt(f.silu_backward, np.ones(3), cache)


def softplus(f, rng):
    yield from pair(f, "softplus", rng, {"x": (4, 3)})
    y, cache = f.softplus(np.array([-800.0, 0.0, 800.0]))
    yield "softplus: far from 0", y
    yield "softplus_backward dx: far from 0", attempt(f.softplus_backward, np.ones(3), cache)


def unit_rows(f, rng):
    yield from pair(f, "unit_rows", rng, {"x": (3, 5)})
    yield from pair(f, "unit_rows", rng, {"x": (1, 2)})


_softplus = numeric(lambda x: np.logaddexp(0, x))
_unit_rows = numeric(lambda x: np.array([row / np.linalg.norm(row) for row in x]))

OPEN = ("Count the calls of the forward that gradcheck.check needs for the lesson's network with 10, 100 and 1,000 "
        "hidden units, and time one backward for each. Plot both.",
        "The check calls the forward twice for each number in its arguments, so its calls grow with the number of "
        "parameters, and its time with their square. A backward costs about two forwards, whatever the size: for each"
        " product of the forward it makes two. With 1,000 hidden units the check takes thousands of times as long. "
        "This is why gradients are derived by hand and checked on small arrays.")

TASKS = [
    library("4.1", "The linear map", 3, check_linear, [ops.linear, ops.linear_backward],
            hints={"linear_backward dw": "which axes of x and dy are summed over? All but the last of each",
                   "linear_backward db": "b was added to every row, so its gradient is a sum, not a mean"},
            linear=["keep what the backward needs"],
            linear_backward=["for w and b all axes but the last are one batch: reshape to rows",
                             "three gradients, each in the shape of its argument"]),
    library("4.2", "SiLU", 3, check_silu, [ops.silu, ops.silu_backward],
            hints={"silu_backward dx": "x enters twice, directly and through s: are both terms there?"},
            silu=["the sigmoid without overflow: (1 + tanh(x / 2)) / 2"],
            silu_backward=["the product rule, with s' = s (1 - s)"]),
    question("4.3", "Softplus", 2, softplus, '''
def softplus(x):
    """y = log(1 + exp(x)), elementwise, without overflow. x of any shape -> (y, cache)"""

def softplus_backward(dy, cache):
    """dy like y -> dx"""
''', {"softplus": _softplus[0], "softplus_backward": lambda dy, cache: _softplus[1](dy, cache)[0]},
             softplus=["exp(800) is infinite: take the larger of 0 and x out of the logarithm"],
             softplus_backward=["the derivative is an old friend"]),
    question("4.4", "Rows of length one", 3, unit_rows, '''
def unit_rows(x):
    """y = x / |x|, each row divided by its length. x (N, D) -> (y, cache)"""

def unit_rows_backward(dy, cache):
    """dy (N, D) -> dx (N, D)"""
''', {"unit_rows": _unit_rows[0], "unit_rows_backward": _unit_rows[1]},
             hints={"unit_rows_backward dx": "the length depends on x too: what does that path add?"},
             unit_rows=["keep the axis: lengths are (N, 1)"],
             unit_rows_backward=["x is used twice: directly, and in the length",
                                 "a row that grows along itself does not change y: what does that say about dx?"]),
]
