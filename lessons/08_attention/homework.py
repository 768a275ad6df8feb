"""Homework 08: 11 points. To have it graded: python lessons/grade.py 08

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import math

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.attention import check_attention, join_heads, split_heads  # (N, L, C) <-> (N, heads, L, C / heads)


# ---- 8.1 Softmax with a temperature: 3 points ----


def warm_softmax(x, tau):
    """softmax(x / tau) over the last axis. x (..., L), tau (), an array with one number -> p like x, and a cache"""
    # 1. the logits are x / tau; the largest of them is subtracted
    raise NotImplementedError("8.1 warm_softmax")


def warm_softmax_backward(dp, cache):
    """dp like x -> dx like x, dtau ()"""
    # 1. the gradient with respect to the logits first, as in the lesson
    # 2. then the division: which two arguments has it?
    raise NotImplementedError("8.1 warm_softmax_backward")


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
    # 1. does the backward of the lesson's softmax need a change?
    raise NotImplementedError("8.3 masked_softmax_backward")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 08 --open ----

# Shuffle the pixels of a feature map, apply attention, and undo the shuffle: the same result. Do the same
# with a 3 x 3 convolution. How then can the U-Net's attention know where things are?
