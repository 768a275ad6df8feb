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
    """A reverse process like p, guided by a classifier towards the labels (N,), or with a negative scale away.

    By Bayes, the score of x_t given the label is that of x_t plus the classifier's; by Tweedie's formula, a change of
    the score changes x_0 by (1 - alpha_bar) / sqrt(alpha_bar) times as much.

    scale: a factor of the classifier's score; with 1, exact scores draw from the class
    clip: keep x_0 within [-1, 1]; p itself must not clip
    """
    def guided(xt, t):
        _, variance, x0 = p(xt, t)
        factor = scale * (1 - s.alpha_bar[t]) / np.sqrt(s.alpha_bar[t])
        x0 = x0 + per_sample(factor, xt) * log_probability_gradient(classifier, xt, t, labels)
        if clip:
            x0 = array_module(x0).clip(x0, -1, 1)
        return mu_from_x0(s, x0, xt, t), variance, x0

    return guided
