"""The tasks of homework 08."""

import numpy as np
from tasks import library, numeric, pair, question

from tinyddpm import ops

IMPORTS = """import math

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.attention import check_attention, join_heads, split_heads      # (N, L, C) <-> (N, heads, L, C / heads)"""


def softmax(f, rng):
    yield from pair(f, "softmax", "x (3, 4)", rng, [(3, 4)])
    yield from pair(f, "softmax", "x (2, 3, 5)", rng, [(2, 3, 5)])
    yield "softmax of numbers near 1000", f.softmax(np.array([[1000], [-1000]]) + rng.standard_normal((2, 3)))[0]


def attention(f, rng):
    N, L = int(rng.integers(1, 4)), int(rng.integers(2, 6))
    for heads in (1, 2, 3):
        yield from pair(f, "attention", f"q, k, v ({N}, {L}, 6), {heads} heads", rng, [(N, L, 6)] * 3, heads)


def masked_softmax(f, rng):
    mask = rng.random((2, 3, 5)) < 0.6
    mask[..., 0] = True
    x, dy = rng.standard_normal((2, 2, 3, 5))
    for label, m in (("some", mask), ("all", np.ones_like(mask))):
        p, cache = f.masked_softmax(x, m)
        yield f"masked_softmax, {label} allowed", p
        yield f"masked_softmax_backward, {label} allowed", f.masked_softmax_backward(dy, cache)
    far, _ = f.masked_softmax(np.array([[1000.0], [-1000.0]]) + x[0, :2], mask[0, :2])
    yield "masked_softmax of numbers near 1000 and -1000", far


def masked_answer(x, mask):
    p = np.zeros_like(x)
    for index in np.ndindex(x.shape[:-1]):
        e = np.exp(x[index][mask[index]] - x[index][mask[index]].max())
        p[index][mask[index]] = e / e.sum()
    return p


_masked = numeric(masked_answer)

TASKS = [
    library("8.1", "Softmax", 3, softmax, [ops.softmax, ops.softmax_backward],
            softmax=["subtract each row's largest number: nothing changes but the range", "keep p alone"],
            softmax_backward=["dx = p (dp - sum(p dp))"]),
    library("8.2", "Attention", 5, attention, [ops.attention, ops.attention_backward],
            attention=["split the heads", "logits q k^T / sqrt(width of a head), softmax over the last axis", "p v, and join the heads"],
            attention_backward=["read the forward from its end: dv and dp, then the softmax, then dq and dk", "the scale comes back too"]),
    question("8.3", "Softmax over what is allowed", 3, masked_softmax, '''
def masked_softmax(x, mask):
    """Softmax over the last axis, over those positions alone where mask is True; the others get probability 0.

    x (..., L), mask (..., L) booleans, at least one True in each row -> p like x, and a cache
    """

def masked_softmax_backward(dp, cache):
    """dp like p -> dx like x; 0 where mask is False"""
''', {"masked_softmax": lambda x, mask: (masked_answer(x, mask), (x, mask)), "masked_softmax_backward": lambda dp, cache: _masked[1](dp, cache)[0]},
             masked_softmax=["what does exp make of minus infinity?"], masked_softmax_backward=["does the formula of 8.1 need a change?"]),
]
