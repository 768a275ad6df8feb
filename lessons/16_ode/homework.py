"""Homework 16: 10 points. To have it graded: python lessons/grade.py 16

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.diffusion.process import eps_from_x0           # (s, x0, xt, t) -> the noise that leads from x0 to xt
from tinyddpm.diffusion.process import q_sample              # (s, x0, t, eps) -> x_t, also at t = 0
from tinyddpm.diffusion.process import x0_from_eps           # (s, xt, t, eps) -> x_0
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.steps import Step, pairs              # Step(t, x, x0); pairs: each time with the next, 0 last


# ---- 16.1 Heun's method: 3 points ----


def heun(p, s, x, rng, times):
    """Heun's method, as in EDM (Karras et al. 2022, Algorithm 1): order 2, two evaluations a step, one in the last.

    Euler's step finds where to look, and the step is repeated with the mean of the slopes at both ends.
    """
    # 1. p(x, np.full(len(x), t)) gives x_0 as its third value, and eps_from_x0 the noise
    # 2. a step with a given eps: x_0 from it by Eq. 4, then q_sample to the next time with the same eps
    # 3. the mean of eps here, and of eps there after a step of Euler; the last step, to t = 0, returns x_0
    # 4. yield Step(t, x, x_0): t before the step, x after it, x_0 from its first evaluation
    raise NotImplementedError("16.1 heun")


# ---- 16.2 DPM-Solver++(2M): 3 points ----


def dpmpp_2m(p, s, x, rng, times):
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): order 2, one evaluation a step.

    With lambda = log(signal / noise) as the time, the ODE is linear but for x_0, which is extrapolated from this
    evaluation and the one before.
    """
    # 1. lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)), infinite at t = 0
    # 2. ahead = x_0 + h / 2 / (lambda - lambda before) (x_0 - x_0 before), h the length of this step
    # 3. in the first step, and in the last one to t = 0, ahead = x_0
    # 4. q_sample(s, ahead, next time, the noise that leads from ahead to x)
    raise NotImplementedError("16.2 dpmpp_2m")


# ---- 16.3 Another method of order 2: 2 points ----


def midpoint(eps, y, sigmas):
    """The midpoint rule for dy / dsigma = eps: each step with the slope in its middle, found by half a step of Euler.

    eps(y, sigma) -> like y (N, ...); sigmas: a list, falling or rising -> y at the last of them
    """
    # 1. two evaluations a step
    raise NotImplementedError("16.3 midpoint")


# ---- 16.4 A trace from random signs: 2 points ----


def hutchinson(transposed, signs):
    """The mean of u^T J u over vectors u of signs, an estimate of the trace of J for each sample.

    transposed(u): J^T u for u (N, ...), as a network's backward gives it; signs (count, N, ...) -> (N,)
    """
    # 1. u^T J u is the sum of u times J^T u, for each sample by itself
    raise NotImplementedError("16.4 hutchinson")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 16 --open ----

# Draw the same ten digits (`sample.py mnist --label 0,1,2,3,4,5,6,7,8,9 --seed 1`) with `--sampler dpmpp_2m`
# and 4, 6, 8, 12 and 100 steps. Which differences would you see, and which would a measure find?
