"""Homework 20: 10 points. To have it graded: python lessons/grade.py 20

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.diffusion.ans import PRECISION                 # probabilities are out of 2^PRECISION
from tinyddpm.diffusion.normal import log_tail               # log Phi(b), for b <= 0


# ---- 20.1 Push and pop: 2 points ----


def push(x, ends, symbol):
    """The number that holds x and this symbol: the x-th (from 0) of those whose remainder modulo M is in its range.

    x: a Python integer of any size; ends: where each symbol's range begins, and M; symbol: 0, 1, ... -> an integer
    """
    # 1. M = ends[-1]; of every M numbers, f = ends[symbol + 1] - ends[symbol] hold this symbol
    # 2. x // f whole blocks of M come before it; in its own it is at ends[symbol] + x % f
    raise NotImplementedError("20.1 push")


def pop(x, ends):
    """The symbol on top of x, and what is below it."""
    # 1. x % M is in the symbol's range
    # 2. undo the push
    raise NotImplementedError("20.1 pop")


# ---- 20.2 Whole numbers for probabilities: 1 point ----


def frequencies(p, M):
    """Frequencies out of M, none of them 0: each symbol has 1, and its share p of the other M - n, rounded down.

    What rounding leaves over goes to the most probable symbol. p (n,) sums to 1 -> (n,) integers that sum to M
    """
    # 1. np.floor, .astype(int), and p.argmax()
    raise NotImplementedError("20.2 frequencies")


# ---- 20.3 Bits back for an image with one latent variable: 3 points ----


def send(stack, x, p_z, p_x, q):
    """Push the pixels x, a list of symbols, by bits back.

    stack.push(ends, symbol), stack.pop(ends) -> symbol; p_z: the ranges of z; p_x[z]: those of every pixel, given z;
    q(x): those of z, given the whole image
    """
    # 1. pop z, push the pixels in order, push z
    raise NotImplementedError("20.3 send")


def receive(stack, D, p_z, p_x, q):
    """The list of D pixels that were sent; the stack is what it was before."""
    # 1. all of it backwards; the pixels come from the last to the first
    raise NotImplementedError("20.3 receive")


# ---- 20.4 The length on average: 2 points ----


def net_length(p_z, p_x, q):
    """The mean bits of bits back, E[-log2 p(x | z) - log2 p(z) + log2 q(z | x)], x from the model and z from q.

    p_z (Z,), p_x (Z, X) with rows that sum to 1, q (Z, X) with columns that sum to 1, in which there may be zeros
    -> a number
    """
    # 1. the probability of a pair is p(x) q(z | x), with p(x) the sum of p(z) p(x | z) over z
    # 2. a pair with q = 0 counts nothing: np.where, or leave it out
    raise NotImplementedError("20.4 net_length")


# ---- 20.5 The normal distribution in whole numbers: 2 points ----


def cumulative(z, reserved):
    """Phi(z) as a frequency out of 2^PRECISION, less those that are reserved, rounded down."""
    # 1. Phi(z) for z <= 0 is the exponential of log_tail(z); for z > 0 it is 1 - Phi(-z)
    # 2. times 2^PRECISION less what is reserved, np.floor, np.int64
    raise NotImplementedError("20.5 cumulative")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 20 --open ----

# Compress a hundred digits with `python examples/compress.py mnist-eps encode DIGITS.npy OUT.ddpm --steps
# 25`, once with `--lanes 50` and once with `--lanes 5`, and decode both. Which file is smaller, which is
# faster, and what would make this codec useful?
