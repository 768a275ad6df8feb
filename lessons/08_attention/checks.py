"""The tasks of homework 08."""

import numpy as np
from tasks import attempt, library, numeric, pair, question

from tinyddpm import ops

IMPORTS = """import math

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.attention import check_attention, join_heads, split_heads  # (N, L, C) <-> (N, heads, L, C / heads)"""


def warm_softmax(f, rng):
    yield from pair(f, "warm_softmax", rng, {"x": (3, 4), "tau": ()})
    yield from pair(f, "warm_softmax", rng, {"x": (2, 3, 5), "tau": ()})
    far, _ = f.warm_softmax(np.array([[1000], [-1000]]) + rng.standard_normal((2, 3)), np.array(0.5))
    yield "warm_softmax: numbers near 1000", far


def attention(f, rng):
    N, L = int(rng.integers(1, 4)), int(rng.integers(2, 6))
    for heads in (1, 2, 3):
        yield from pair(f, "attention", rng, {"q": (N, L, 6), "k": (N, L, 6), "v": (N, L, 6)}, heads)


def masked_softmax(f, rng):
    mask = rng.random((2, 3, 5)) < 0.6
    mask[..., 0] = True
    x, dy = rng.standard_normal((2, 2, 3, 5))
    for label, m in (("some", mask), ("all", np.ones_like(mask))):
        p, cache = f.masked_softmax(x, m)
        yield f"masked_softmax: {label} allowed", p
        yield f"masked_softmax_backward dx: {label} allowed", attempt(f.masked_softmax_backward, dy, cache)
    far, _ = f.masked_softmax(np.array([[1000.0], [-1000.0]]) + x[0, :2], mask[0, :2])
    yield "masked_softmax: numbers near 1000 and -1000", far


def masked_answer(x, mask):
    p = np.zeros_like(x)
    for index in np.ndindex(x.shape[:-1]):
        e = np.exp(x[index][mask[index]] - x[index][mask[index]].max())
        p[index][mask[index]] = e / e.sum()
    return p


def warm_answer(x, tau):
    """Row by row, by the definition, with numbers that cannot overflow."""
    y = np.empty_like(x)
    for index in np.ndindex(x.shape[:-1]):
        y[index] = [1 / np.exp(np.clip((x[index] - number) / tau, -700, 700)).sum() for number in x[index]]
    return y


_masked, _warm = numeric(masked_answer), numeric(warm_answer)

OPEN = ("Shuffle the pixels of a feature map, apply attention, and undo the shuffle: the same result. Do the same "
        "with a 3 x 3 convolution. How then can the U-Net's attention know where things are?",
        "Attention gives the same numbers up to rounding; the convolution does not, since its neighbours are others. "
        "Attention sees a set of vectors. Where something is, it can know only from the vectors themselves: the "
        "convolutions before it have seen each pixel's neighbours, and the zeros at the border, so the features it "
        "gets depend on the place.")

TASKS = [
    question("8.1", "Softmax with a temperature", 3, warm_softmax, '''
def warm_softmax(x, tau):
    """softmax(x / tau) over the last axis. x (..., L), tau (), an array with one number -> p like x, and a cache"""

def warm_softmax_backward(dp, cache):
    """dp like x -> dx like x, dtau ()"""
''', {"warm_softmax": _warm[0], "warm_softmax_backward": _warm[1]},
             hints={"warm_softmax": "subtract each row's largest number before exp: what if tau is negative?",
                    "warm_softmax_backward dx": "x went through a division by tau before the softmax",
                    "warm_softmax_backward dtau": "tau is in every logit: one number, the sum over all rows"},
             warm_softmax=["the logits are x / tau; the largest of them is subtracted"],
             warm_softmax_backward=["the gradient with respect to the logits first, as in the lesson",
                                    "then the division: which two arguments has it?"]),
    library("8.2", "Attention", 5, attention, [ops.attention, ops.attention_backward],
            hints={"attention": "the scale is the root of the width of one head; the softmax is over the keys, the "
                                "last axis",
                   "attention_backward dq": "dlogits times k, and the scale comes back too",
                   "attention_backward dk": "dlogits transposed times q, and the scale comes back too",
                   "attention_backward dv": "p transposed times dy"},
            attention=["split the heads", "logits q k^T / sqrt(width of a head), softmax over the last axis",
                       "p v, and join the heads"],
            attention_backward=["read the forward from its end: dv and dp, then the softmax, then dq and dk",
                                "the scale comes back too"]),
    question("8.3", "Softmax over what is allowed", 3, masked_softmax, '''
def masked_softmax(x, mask):
    """Softmax over the last axis, over those positions alone where mask is True; the others get probability 0.

    x (..., L), mask (..., L) booleans, at least one True in each row -> p like x, and a cache
    """

def masked_softmax_backward(dp, cache):
    """dp like p -> dx like x; 0 where mask is False"""
''', {"masked_softmax": lambda x, mask: (masked_answer(x, mask), (x, mask)), "masked_softmax_backward": lambda dp,
      cache: _masked[1](dp, cache)[0]},
             masked_softmax=["what does exp make of minus infinity?"],
             masked_softmax_backward=["does the backward of the lesson's softmax need a change?"]),
]
