"""Homework 05: 10 points. To have it graded: python lessons/grade.py 05

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import math

import numpy as np

from tinyddpm.backend import array_module


# ---- 5.1 Adam and the moving average: 4 points ----


def adam_ema(values, grads, m, v, ema, step, lr, beta1, beta2, eps, grad_scale, ema_decay):
    """Update values, m, v and ema in place: the only operation that changes its arguments.

    values, grads, m, v, ema (P,): parameters, gradients, Adam's two moments, averaged parameters
    step: 1 for the first update; used to correct for the moments' start at zero
    grad_scale: the factor of norm clipping, by which every gradient is multiplied; if it is not finite, nothing changes
    """
    # 1. it writes into its arrays: use +=, not =
    # 2. the two moments, as running means of g and g^2
    # 3. both corrected for their start at 0
    # 4. the update, and the average after it
    raise NotImplementedError("5.1 adam_ema")


# ---- 5.2 Momentum: 2 points ----


def momentum_step(values, grads, velocity, lr, momentum):
    """velocity = momentum velocity + grads; values = values - lr velocity. Both are changed in place; (P,) each."""
    # 1. in place: the caller's arrays change
    raise NotImplementedError("5.2 momentum_step")


# ---- 5.3 Warm-up and a cosine: 2 points ----


def learning_rate(step, total, lr, warmup):
    """For step = 1..total: lr step / warmup in the first `warmup` steps, then along half a cosine from lr to 0 at
    `total`."""
    # 1. (1 + cos(pi u)) / 2 falls from 1 to 0 while u rises from 0 to 1
    raise NotImplementedError("5.3 learning_rate")


# ---- 5.4 Clipping by the norm: 2 points ----


def clip_by_norm(grads, largest):
    """Scale a list of arrays down together where their common length exceeds `largest`. Returns the new list and the
    length before."""
    # 1. one norm over all arrays together
    # 2. never scale up
    raise NotImplementedError("5.4 clip_by_norm")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 05 --open ----

# Leave out the correction of Adam's moments in the valley of the lesson, and plot the first twenty steps of
# both. Are the uncorrected ones shorter or longer?
