"""Homework 18: 10 points. To have it graded: python lessons/grade.py 18

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import math

import numpy as np

from tinyddpm.diffusion.process import q_sample              # (s, x0, t, eps) -> x_t, also at t = 0
from tinyddpm.diffusion.schedule import from_alpha_bar       # the schedule with this alpha_bar (T + 1,)
from tinyddpm.diffusion.schedule import per_sample           # a number for each sample, to multiply x (N, ...)
from tinyddpm.sampling.solvers import predict                # (p, s, x, t) -> x_0 and eps that p finds in x
from tinyddpm.sampling.solvers import transfer               # (s, x, eps, t, previous): a step of DDIM
from tinyddpm.sampling.steps import Step, pairs              # Step(t, x, x0); pairs: each time with the next, 0 last


# ---- 18.1 The straight path: 2 points ----


def straight(T=1000):
    """x_t in proportion to (1 - u) x_0 + u eps, with u in equal steps from 0 (rectified flow, Liu et al. 2023).

    In these coordinates x_t is divided by sqrt((1 - u)^2 + u^2), so that Eq. 4 holds. At T, u is T / (T + 1).
    """
    # 1. the position u is t / (T + 1) for t = 0..T
    # 2. alpha_bar is the signal's share of the squares; from_alpha_bar
    raise NotImplementedError("18.1 straight")


def x0_from_u(s, xt, t, u):
    """The x_0 for the velocity u = eps - x_0 of the straight path (1 - w) x_0 + w eps, of which x_t is a multiple."""
    # 1. x_t = signal x_0 + noise eps, with signal = sqrt(alpha_bar), noise = sqrt(1 - alpha_bar)
    # 2. here u is the velocity: insert eps = x_0 + u, and solve for x_0
    raise NotImplementedError("18.1 x0_from_u")


# ---- 18.2 Along the flow: 2 points ----


def flow(velocity, z, positions):
    """Euler's method for dz/dr = velocity(z, r).

    z (N, D) at the first of the positions r -> (number of positions, N, D), z at each of them
    """
    # 1. the velocity of a stride is that at its beginning; nothing is asked at the end
    raise NotImplementedError("18.2 flow")


# ---- 18.3 Two steps in one: 2 points ----


def two_in_one(s, teacher, xt, t, after):
    """The x_0 with which one step of DDIM from t leads where two of the teacher's lead.

    teacher(x, t): its x_0; xt (N, D); t, after (N,): from t via (t + after) / 2 to after; 0 stands for the data
    """
    # 1. eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t); q_sample or transfer steps on
    # 2. one number for each sample: s.alpha_bar[t] is (N,), which per_sample shapes; t may be between whole
    #    numbers
    raise NotImplementedError("18.3 two_in_one")


# ---- 18.4 To x_0, and back: 2 points ----


def consistency(p, s, x, rng, times):
    """For models whose x_0 is the same all along a path (Song et al. 2023): to x_0, and back by new noise."""
    # 1. a Step for each of the times; p(x, t) -> mean, variance, x_0, with t (N,)
    # 2. q_sample with new noise of x's dtype to the next time; at the last, x_0 itself
    raise NotImplementedError("18.4 consistency")


# ---- 18.5 How straight: 2 points ----


def straightness(p, s, x, times):
    """How far the velocity eps - x_0 is from its mean along each path, squared, per dimension (Liu et al. 2023, S(Z)).

    0 for straight paths, on which one step is exact. x (N, ...): noise, at the first of the descending times
    """
    # 1. predict at each time, transfer to the next; the velocity is eps - x_0
    # 2. a stride's weight is position(t) - position(next), divided by their sum
    # 3. the mean over samples and dimensions of the squared distance from the path's mean velocity
    raise NotImplementedError("18.5 straightness")


def position(s, t):
    """Where x_t is on the straight path from data, 0, to noise, 1."""
    # 1. noise / (signal + noise), a number: sqrt(1 - alpha_bar) and sqrt(alpha_bar)
    raise NotImplementedError("18.5 position")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 18 --open ----

# Train one step by each method: examples/distill.py mnist --to 1, with --method progressive, consistency and
# reflow, each student for the same --train-steps (progressive trains four). Draw from each with sample.py in
# 1 and in 4 steps. Which one gains most by more steps, and why?
