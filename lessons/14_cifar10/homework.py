"""Homework 14: 13 points. To have it graded: python lessons/grade.py 14

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm.backend import to_numpy
from tinyddpm.evaluation.fid import trace_sqrt_product       # tr((S1 S2)^(1/2))


# ---- 14.1 The Frechet distance: 3 points ----


def fid(a, b):
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Statistics: 0 for equal ones, up to rounding.

    It is the squared Frechet distance of two Gaussians, which Heusel et al. (2017) fit to the features of samples and
    of data. It decreases with the number of samples: compare only values for equal counts.
    Raises ValueError for features of different widths and for fewer than two samples.
    """
    # 1. a.mean (D,) and a.covariance (D, D)
    # 2. the squared distance of the means, two traces, and twice the trace of the root
    raise NotImplementedError("14.1 fid")


# ---- 14.2 The Inception score: 3 points ----


def inception_score(probabilities, splits=10):
    """exp(mean KL(p(y|x) || p(y))) (Salimans et al. 2016): its mean and standard deviation over parts of the images.

    probabilities (N, classes): p(y|x), a row for each image; p(y) is the mean over the rows of a part. Parts are
        consecutive rows: shuffle rows that are sorted by class first.
    splits: the number of parts
    Raises ValueError for rows that are not probabilities, and for fewer rows than parts.
    """
    # 1. cut the rows into `splits` parts: rows len(p) i // splits up to len(p) (i + 1) // splits
    # 2. exp of the mean KL(p(y|x) || p(y)) in each part, with 0 log 0 = 0
    # 3. mean and standard deviation over the parts
    raise NotImplementedError("14.2 inception_score")


# ---- 14.3 bfloat16: 3 points ----


def to_bf16(x):
    """float32 numbers rounded to bfloat16, to the nearest, ties to the even one, returned as float32. x (N,), no NaN
    -> (N,)

    bfloat16 is the first half of a float32's bits.
    """
    # 1. x.view(np.uint32) are the bits
    # 2. add half of what is cut off, a little less where the last kept bit is 0
    raise NotImplementedError("14.3 to_bf16")


# ---- 14.4 A loss scale that finds itself: 2 points ----


def next_scale(scale, good, finite, grow_after):
    """The loss scale for the next step, and the steps since its last change: (scale, good).

    Not finite: half of it, and count from 0. After grow_after good steps in a row (this one counts): twice of it,
    from 0.
    """
    # 1. three cases
    raise NotImplementedError("14.4 next_scale")


# ---- 14.5 Several GPUs: 2 points ----


def my_part(batch, rank, size):
    """The part of a batch that belongs to a rank: `size` equal parts, in order. batch (N, ...), N a multiple of size"""
    # 1. the mean of the parts' gradients is then the batch's
    raise NotImplementedError("14.5 my_part")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 14 --open ----

# Plot the distance of real digits from real digits times the number of samples, and then over 1 / N. What
# would the distance be with infinitely many samples?
