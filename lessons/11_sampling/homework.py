"""Homework 11: 10 points. To have it graded: python lessons/grade.py 11

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.process import eps_from_x0           # the noise that leads from x0 to xt
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.steps import Step                     # Step(t, x, x0)


# ---- 11.1 Which times DDIM visits: 1 point ----


def spread(T, steps):
    """`steps` times spread evenly from T down to 1, both included. Raises ValueError for more than T."""
    # 1. a list of whole numbers from T down to 1, evenly spread and rounded as np.round does, without a 0 at the
    #    end; ValueError for steps outside 1..T
    raise NotImplementedError("11.1 spread")


# ---- 11.2 DDIM: 4 points ----


def ddim(p, s, x, rng, times, eta=0.0):
    """DDIM (Song, Meng, Ermon 2020, their Eq. 12). The last step goes from the last time to the data.

    eta: 0 to 1, scales the noise of each step: with 0 the result is a function of x, with 1 the
        steps are Algorithm 2's with the small variance. Raises ValueError for any other value.
    """
    # 1. each time with the one after it in the list, 0 after the last
    # 2. p(x, t), one t for each sample, gives mean, variance and x_0: take the third; the noise it implies, by
    #    eps_from_x0
    # 3. sigma = eta sqrt((1 - a') / (1 - a) (1 - a / a')), a and a' being alpha_bar now and after
    # 4. x = sqrt(a') x_0 + sqrt(1 - a' - sigma^2) eps, and noise times sigma only where sigma > 0: draw none else
    # 5. it is a generator: yield Step(t, x, x_0) after each step, t the time that it started from
    raise NotImplementedError("11.2 ddim")


# ---- 11.3 DDIM backwards: 3 points ----


def ddim_invert(eps, s, x, times):
    """From an image to the noise it would come from: DDIM's step with eta 0, taken from each time to the next, later
    one.

    eps(x, t): the predicted noise, t (N,); s: the Schedule; x (N, ...): the image at times[0]; times: rising
    -> x at the last time
    """
    # 1. eps is asked at the time that x is at
    # 2. x_0 from eps is Eq. 4, solved; then the last line of 11.2 with sigma 0
    raise NotImplementedError("11.3 ddim_invert")


# ---- 11.4 Between two latents: 2 points ----


def slerp(a, b, weight):
    """From a (weight 0) to b (weight 1) along the great circle: (sin((1 - w) u) a + sin(w u) b) / sin(u), u the angle
    of a and b.

    a, b (N, ...): each sample has an angle of its own -> like a
    """
    # 1. flatten each sample to find its angle
    raise NotImplementedError("11.4 slerp")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 11 --open ----

# Draw with DDIM in 50 steps from the same noise times 0.8, 1 and 1.2. What changes, and why?
