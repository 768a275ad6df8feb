"""Homework 13: 12 points. To have it graded: python lessons/grade.py 13

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.process import posterior_coefficients            # the factors of Eq. 7
from tinyddpm.diffusion.schedule import per_sample


# ---- 13.1 The same error in other words: 2 points ----


def weights_of_x0(s, t):
    """What a squared error of 1 of x_0 is as a squared error of eps, of v and of mu_tilde, with x_t given.

    t a number or (N,) -> three weights like t: the loss of each is its weight times the loss of x_0
    """
    # 1. write each as a function of x_0 and x_t; x_t stays, so only the factor of x_0 matters
    raise NotImplementedError("13.1 weights_of_x0")


# ---- 13.2 The mean, and back (Eq. 7): 3 points ----


def mu_from_x0(s, x0, xt, t):
    """mu_tilde_t(x_t, x_0), the mean of the reverse step for a known or predicted x_0 (Eq. 7)."""
    # 1. posterior_coefficients(s, t) gives both factors
    raise NotImplementedError("13.2 mu_from_x0")


def x0_from_mu(s, xt, t, mu):
    """The x_0 for which mu_tilde_t is mu: Eq. 7 solved for x_0."""
    # 1. the same line, solved for x_0
    raise NotImplementedError("13.2 x0_from_mu")


# ---- 13.3 What L weighs (Eq. 12): 3 points ----


def bound_weights(s, t):
    """The factors of |eps - eps_theta|^2 in Eq. 12, for the large variance; L_simple drops them."""
    # 1. s.variance("large")[t] is sigma_t^2
    raise NotImplementedError("13.3 bound_weights")


def time_probabilities(s):
    """The probabilities of t = 1..T in training on L: proportional to the weights of Eq. 12, without their 1 / alpha_t.

    With uniform t, the few small t with half of the weight would be drawn rarely, with large gradients. 1 / alpha_t
    is large only where a schedule ends in almost pure noise (the cosine schedule, at T), where eps is easy to predict.
    """
    # 1. for t = 1..T, without the factor 1 / alpha_t
    # 2. they sum to 1
    raise NotImplementedError("13.3 time_probabilities")


# ---- 13.4 The noise in v: 2 points ----


def eps_from_v(s, xt, t, v):
    """The noise eps that x_t and v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 imply. xt, v (N, ...), t a number
    or (N,) -> eps"""
    # 1. draw the circle: x_0 and eps are its axes
    raise NotImplementedError("13.4 eps_from_v")


# ---- 13.5 Another weight: 2 points ----


def min_snr_weights(s, t, gamma):
    """min(snr_t, gamma) / snr_t, snr = alpha_bar / (1 - alpha_bar): weights of the loss of eps that hold back small t
    (Hang et al. 2023)."""
    # 1. s.snr is a table
    raise NotImplementedError("13.5 min_snr_weights")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 13 --open ----

# Write the losses of eps, x_0 and v as losses of x_0 with weights, and plot these weights over the
# signal-to-noise ratio. Which one asks for what?
