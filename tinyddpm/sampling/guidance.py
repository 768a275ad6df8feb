"""Guidance by a classifier of noisy images (Dhariwal and Nichol 2021), for any network and any sampler.

Classifier-free guidance, which needs no classifier, is in diffusion/prediction.py.
"""

import numpy as np

from tinyddpm import ops
from tinyddpm.backend import array_module, from_numpy
from tinyddpm.diffusion.process import mu_from_x0
from tinyddpm.diffusion.schedule import per_sample


def log_probability_gradient(classifier, xt, t, labels):
    """The gradient of log p(label | x_t) with respect to x_t (N, ...), for labels (N,).

    classifier: y = forward(xt, t), the logits (N, classes), and dxt = backward(dy), as of a Module that stores
    """
    probabilities, _ = ops.softmax(classifier.forward(xt, t))
    one_hot = array_module(xt).arange(probabilities.shape[1]) == from_numpy(np.asarray(labels))[:, None]
    return classifier.backward(one_hot - probabilities)             # of log softmax


def by_classifier(p, s, classifier, labels, scale=1.0, clip=True):
    """A reverse process p with guidance by a classifier: towards the labels (N,), or with a negative scale away.

    p(label | x_t) times p(x_t) has the sum of both scores (Bayes), and a score moves x_0 by (1 - alpha_bar) /
    sqrt(alpha_bar) times itself (Tweedie). scale: how many times the classifier counts; with 1 and the best p and
    classifier, this draws from the class. p must not clip: clip is done here, afterwards.
    """
    def guided(xt, t):
        _, variance, x0 = p(xt, t)
        factor = scale * (1 - s.alpha_bar[t]) / np.sqrt(s.alpha_bar[t])
        x0 = x0 + per_sample(factor, xt) * log_probability_gradient(classifier, xt, t, labels)
        if clip:
            x0 = array_module(x0).clip(x0, -1, 1)
        return mu_from_x0(s, x0, xt, t), variance, x0

    return guided
