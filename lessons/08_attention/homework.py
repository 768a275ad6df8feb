"""Homework 08: 11 points. To have it graded: python lessons/grade.py 08

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given that
cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The library's
own versions are taken away while the grader runs.
"""

import math

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.attention import check_attention, join_heads, split_heads      # (N, L, C) <-> (N, heads, L, C / heads)


# ---- 8.1 Softmax: 3 points ----


def softmax(x):
    """p = exp(x) / sum(exp(x)) over the last axis. Subtracting the maximum prevents overflow; p is the same."""
    # 1. subtract each row's largest number: nothing changes but the range
    # 2. keep p alone
    raise NotImplementedError("8.1 softmax")


def softmax_backward(dp, p):
    """dx = p (dp - sum(p dp))"""
    # 1. dx = p (dp - sum(p dp))
    raise NotImplementedError("8.1 softmax_backward")


# ---- 8.2 Attention: 5 points ----


def attention(q, k, v, heads=1):
    """softmax(q k^T / sqrt(d)) v for each head, whose width is d = C / heads.

    q, k, v (N, L, C) -> y (N, L, C)
    """
    # 1. split the heads
    # 2. logits q k^T / sqrt(width of a head), softmax over the last axis
    # 3. p v, and join the heads
    raise NotImplementedError("8.2 attention")


def attention_backward(dy, cache):
    """dy (N, L, C) -> dq, dk, dv (N, L, C)"""
    # 1. read the forward from its end: dv and dp, then the softmax, then dq and dk
    # 2. the scale comes back too
    raise NotImplementedError("8.2 attention_backward")


# ---- 8.3 Softmax over what is allowed: 3 points ----


def masked_softmax(x, mask):
    """Softmax over the last axis, over those positions alone where mask is True; the others get probability 0.

    x (..., L), mask (..., L) booleans, at least one True in each row -> p like x, and a cache
    """
    # 1. what does exp make of minus infinity?
    raise NotImplementedError("8.3 masked_softmax")


def masked_softmax_backward(dp, cache):
    """dp like p -> dx like x; 0 where mask is False"""
    # 1. does the formula of 8.1 need a change?
    raise NotImplementedError("8.3 masked_softmax_backward")
