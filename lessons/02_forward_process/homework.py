"""Homework 02: 10 points. To have it graded: python lessons/grade.py 02

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.diffusion.schedule import from_betas, per_sample

# s is a Schedule: s.T, and the tables s.beta, s.alpha, s.alpha_bar for t = 0..T. per_sample(values, x) gives numbers of
# a table, one or (N,), the axes of x, so that they can multiply it.


# ---- 2.1 One step of noise (Eq. 2): 2 points ----


def q_step(s, x_previous, t, z):
    """x_t from x_{t-1}, with z standard normal (Eq. 2)."""
    # 1. look up beta_t: t may be one number or one for each image
    # 2. shrink x_{t-1}, add noise of variance beta_t
    raise NotImplementedError("2.1 q_step")


# ---- 2.2 The jump to any t (Eq. 4): 3 points ----


def q_sample(s, x0, t, eps):
    """x_t from x_0 in one jump, with eps standard normal (Eq. 4)."""
    # 1. look up alpha_bar_t
    # 2. how much of x_0 is left, how much noise has come
    raise NotImplementedError("2.2 q_sample")


# ---- 2.3 The cosine schedule: 3 points ----


def cosine(T=1000, offset=0.008, largest=0.999):
    """alpha_bar falls like a squared cosine (Nichol and Dhariwal 2021), with beta at most `largest`."""
    # 1. alpha_bar_t is f(t) / f(0), with f(t) = cos(((t / T + offset) / (1 + offset)) pi / 2)^2
    # 2. beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, at most `largest`
    # 3. from_betas makes the Schedule from beta_1..beta_T
    raise NotImplementedError("2.3 cosine")


# ---- 2.4 Another schedule: 2 points ----


def sigmoid_betas(T, start=-6, end=6, beta_1=1e-4, beta_T=0.02):
    """beta_t = beta_1 + (beta_T - beta_1) sigmoid(u_t), with u_1 = start .. u_T = end in equal steps.

    -> (T + 1,), with beta[0] = 0 for the data
    """
    # 1. T values from start to end, at equal distances
    # 2. index 0 stands for the data
    raise NotImplementedError("2.4 sigmoid_betas")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 02 --open ----

# Find by eye the largest t at which you can still read a digit in x_t. Then average each 2 x 2 square of the
# same x_t, and look again. What happened, and what does it say about the order in which the walk back makes
# things?
