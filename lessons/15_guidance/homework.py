"""Homework 15: 10 points. To have it graded: python lessons/grade.py 15

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""

import numpy as np

from tinyddpm import ops                                     # ops.softmax(x) -> y, cache
from tinyddpm.backend import array_module, from_numpy
from tinyddpm.diffusion.process import mu_from_x0            # the mean of Eq. 7
from tinyddpm.diffusion.schedule import per_sample


# ---- 15.1 What a perfect classifier says: 2 points ----


def posterior_score(x, alpha_bar, means, sigma, weights, k):
    """The derivative of log p(k | x_t) with respect to x_t, where x_0 comes from the cloud k with probability
    weights[k], a Gaussian with mean means[k] and standard deviation sigma.

    x (N,): x_t; alpha_bar: a number; means, weights (K,) -> (N,)
    """
    # 1. Bayes: p(k | x_t) is weights[k] q(x_t | k), divided by the sum over all clouds
    # 2. the score of cloud k minus the score of all, which is a mean of the clouds' scores
    raise NotImplementedError("15.1 posterior_score")


# ---- 15.2 The gradient of log p(label | x_t): 3 points ----


def log_probability_gradient(classifier, xt, t, labels):
    """The gradient of log p(label | x_t) with respect to x_t (N, ...), for labels (N,).

    classifier: y = forward(xt, t), the logits (N, classes), and dxt = backward(dy), as of a Module that stores
    """
    # 1. the logits' softmax; of its logarithm, the gradient with respect to the logits is one-hot minus p
    # 2. classifier.backward takes it on to x_t
    raise NotImplementedError("15.2 log_probability_gradient")


# ---- 15.3 Guided by a classifier: 3 points ----


def by_classifier(p, s, classifier, labels, scale=1.0, clip=True):
    """A reverse process like p, guided by a classifier towards the labels (N,), or with a negative scale away.

    By Bayes, the score of x_t given the label is that of x_t plus the classifier's; by Tweedie's formula, a change of
    the score changes x_0 by (1 - alpha_bar) / sqrt(alpha_bar) times as much.

    scale: a factor of the classifier's score; with 1, exact scores draw from the class
    clip: keep x_0 within [-1, 1]; p itself must not clip
    """
    # 1. return a function of xt and t, like p(xt, t) -> mean, variance, x_0
    # 2. p's own x_0, moved, then clipped if asked; the mean of Eq. 7 from it; the variance stays
    raise NotImplementedError("15.3 by_classifier")


# ---- 15.4 Without a classifier: 2 points ----


def classifier_free(network, xt, t, labels, nothing, w, interval=None):
    """What a network predicts with classifier-free guidance: b + w (a - b), a with the labels and b without.

    network(xt, t, labels) -> like xt (N, ...); labels (N,); nothing: the number that means "no label"
    w: the factor. If interval = (first, last) is given and t[0] lies outside first <= t <= last, 1 takes its place.
    The network is evaluated once: on N samples where w is 0 or 1, else on 2N.
    """
    # 1. for w = 1 only the labels are needed, for w = 0 only `nothing`
    # 2. else concatenate: the samples with their labels, and again with `nothing`
    raise NotImplementedError("15.4 classifier_free")


# ---- An open question, not graded. What a good answer contains: python lessons/grade.py 15 --open ----

# Draw a page of digits with `sample.py mnist --guidance W` for W of 0.5, 1, 2 and 4. Which would you show to
# somebody who asks for digits, and which to somebody who asks what digits look like?
