"""Homework 19: 10 points. To have it graded: python lessons/grade.py 19

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import math

import numpy as np

from tinyddpm import ops                                     # ops.softmax: (N, ..., K) -> the same, and a cache
from tinyddpm.backend import array_module
from tinyddpm.diffusion.discrete import one_hot              # (x, K, dtype): (N, ...) -> (N, ..., K)
from tinyddpm.sampling.steps import Step, pairs              # Step(t, x, x0); pairs: each time with the next, 0 last


# ---- 19.1 Hide: 1 point ----


def masked(x0, t, T, K, u):
    """x_t: each position of x0 (N, ...) is replaced by the mask K with probability t / T: where u >= 1 - t / T.

    x0: integers 0..K-1; t (N,): a time for each sample; u, like x0: uniform numbers
    """
    # 1. t with as many axes as x0, so that each sample has its own
    raise NotImplementedError("19.1 masked")


# ---- 19.2 Guess: 3 points ----


def cross_entropy(d, x0, xt, t, y):
    """The sum of -log2 p(x_0 | x_t) of what is hidden, divided by the number of all positions.

    Hidden is what is masked; along the uniform process, anything may have been replaced. With the factor T / t for each
    sample, it would be the absorbing process's bound.
    """
    # 1. d.K values, d.kind absorbing or uniform; y (N, ..., K): logits; p = softmax(y)
    # 2. hidden: where x_t is the mask d.K; along the uniform process, everywhere
    # 3. -> the loss, a number, and its gradient with respect to y
    raise NotImplementedError("19.2 cross_entropy")


# ---- 19.3 The posterior of the uniform process: 2 points ----


def posterior(x0, xt, t, T, K):
    """q(x_{t-1} | x_t, x_0) of one position, of the uniform process with a_t = 1 - t / T: (K,) probabilities.

    x0, xt: integers 0..K-1
    """
    # 1. both factors, for all K values of x_{t-1}; then divide by their sum
    raise NotImplementedError("19.3 posterior")


# ---- 19.4 And back: 2 points ----


def draw(distribution, rng):
    """One value (N, ...) of each distribution (N, ..., K)."""
    # 1. u = rng.random(the shape without its last axis, dtype=np.float32), times the sum of each
    # 2. how many of the cumulative sums are at most u; at most K - 1, whatever the rounding
    raise NotImplementedError("19.4 draw")


def unmask(p, d, x, rng, times):
    """x at each of the descending times, from x at the first of them: yields a Step for each, the last one to x_0.

    p(xt, t): the distribution (N, ..., K) of x_0, see discrete.reverse_process; d: the Discrete process
    The positions of one step are drawn independently of each other, which costs quality where steps are few. x0 of a
    Step is the most probable one.
    """
    # 1. a Step for each of the times; p(x, t) with t (N,) is the distribution of x_0
    # 2. d.posterior(p0, x, t, previous) -> the distribution of the next x, and a cache; draw from it
    # 3. x0 of the Step: the most probable value
    raise NotImplementedError("19.4 unmask")


# ---- 19.5 What many at once cost: 2 points ----


def bound(shares, T):
    """The bound in bits of words of two letters with the perfect network and masks, in T steps: H + I / T.

    shares (K, K): the probability of each word, by its first and its second letter
    """
    # 1. H: the entropy of the words; I: that of both letters alone, less H
    # 2. 0 log 0 is 0
    raise NotImplementedError("19.5 bound")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 19 --open ----

# Draw digits with examples/unmask.py masks, in 4, 16 and 64 steps, and as a film. Look at the film: when is
# it decided which digit it will be? Then draw with more masks falling late than early, or early than late
# (change the times in tinyddpm/sampling/unmask.py). Which is better for the same number of steps?
