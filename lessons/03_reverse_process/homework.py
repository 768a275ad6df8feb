"""Homework 03: 11 points. To have it graded: python lessons/grade.py 03

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.steps import Step                 # Step(t, x, x0)


# ---- 3.1 What x_0 and x_t say about x_{t-1} (Eq. 7): 2 points ----


def posterior_coefficients(s, t):
    """The factors of x_0 and of x_t in mu_tilde_t (Eq. 7), in float64."""
    # 1. alpha_bar at t and at t - 1
    # 2. the two factors of Eq. 7
    raise NotImplementedError("3.1 posterior_coefficients")


# ---- 3.2 From a predicted noise (Eq. 11 and 15): 2 points ----


def x0_from_eps(s, xt, t, eps):
    """The x_0 from which this noise leads to x_t (Eq. 15)."""
    # 1. solve Eq. 4 for x_0
    raise NotImplementedError("3.2 x0_from_eps")


def mu_from_eps(s, xt, t, eps):
    """The mean of the reverse step for a predicted noise (Eq. 11); for the true noise, the target of Eq. 9-10."""
    # 1. Eq. 11
    raise NotImplementedError("3.2 mu_from_eps")


# ---- 3.3 Algorithm 2: 4 points ----


def ddpm(p, s, x, rng, times):
    """Algorithm 2. Raises ValueError unless the times descend one by one to 1."""
    # 1. a generator: for each of the times, ask p(x, t) with one t for each sample, np.full(len(x), t)
    # 2. p gives the mean, the variance (not its root) and the x_0 of the step
    # 3. draw noise of x's shape and dtype from rng.standard_normal, but not at t = 1
    # 4. yield Step(t, x, x_0) after each step
    raise NotImplementedError("3.3 ddpm")


# ---- 3.4 The exact noise of a mixture: 3 points ----


def mixture_eps(x, alpha_bar, means, sigma, weights):
    """E[eps | x_t = x] for data from a mixture of Gaussians: the perfect network's output.

    x (N, D): noisy points; alpha_bar: a number, that of their time
    means (M, D), sigma a number, weights (M,): the data are N(means[m], sigma^2 I) with probability weights[m]
    -> eps (N, D)
    """
    # 1. x_t of component m is Gaussian too: with which mean and variance?
    # 2. how likely is each component, given x?
    # 3. eps of one component is a multiple of x minus its mean; average over the components
    raise NotImplementedError("3.4 mixture_eps")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 03 --open ----

# Add an error to the perfect eps in each step of Algorithm 2: once independent noise of standard deviation
# 0.3, once the constant 0.05. Compare the shares and the spread of the clouds with those of the lesson.
