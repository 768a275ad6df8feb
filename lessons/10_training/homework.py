"""Homework 10: 8 points. To have it graded: python lessons/grade.py 10

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion import process
from tinyddpm.diffusion.prediction import PREDICTIONS, join, split    # PREDICTIONS[name].target(s, x0, xt, t, eps)


# ---- 10.1 The mean squared error: 2 points ----


def mean_squared_error(prediction, target):
    """mean((prediction - target)^2) over all elements. Two arrays of the same shape -> a number, and the cache"""
    # 1. the mean over all elements, not the sum; and a cache, the difference
    raise NotImplementedError("10.1 mean_squared_error")


def mean_squared_error_backward(dloss, difference):
    """dloss, a number -> dprediction, shaped like the prediction"""
    # 1. dloss is a number
    raise NotImplementedError("10.1 mean_squared_error_backward")


# ---- 10.2 L_simple (Eq. 14): 3 points ----


def l_simple(s, x0, xt, t, eps, y, prediction="eps", variance="large"):
    """L_simple (Eq. 14), the mean over all elements of (target - prediction)^2, and its gradient with respect to y."""
    # 1. split(y, variance) gives the prediction, and v where the variance is learned (else None)
    # 2. the loss against the prediction's target, and its gradient for dloss = 1
    # 3. join(gradient, dv) is the gradient with respect to y; L_simple says nothing to v: zeros, or None
    raise NotImplementedError("10.2 l_simple")


# ---- 10.3 A loss that forgives outliers: 3 points ----


def huber(prediction, target, delta):
    """The mean of d^2 / 2 where |d| <= delta, and of delta (|d| - delta / 2) beyond, d = prediction - target. ->
    (number, cache)"""
    # 1. both pieces have the same value and slope at delta
    raise NotImplementedError("10.3 huber")


def huber_backward(dloss, cache):
    """dloss, a number -> dprediction"""
    # 1. clip
    raise NotImplementedError("10.3 huber_backward")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 10 --open ----

# What is L_simple of a network that always answers 0? And of one that answers c(t) x_t with the best number
# c(t) for each t? Compare with the loss of the run in the lesson.
