"""The tasks of homework 15."""

import numpy as np
from tasks import attempt, library, question

from tinyddpm.diffusion import schedule
from tinyddpm.sampling import guidance

IMPORTS = """import numpy as np

from tinyddpm import ops                                     # ops.softmax(x) -> y, cache
from tinyddpm.backend import array_module, from_numpy
from tinyddpm.diffusion.process import mu_from_x0            # the mean of Eq. 7
from tinyddpm.diffusion.schedule import per_sample"""


class Network:
    """Two layers with random weights: a classifier of (N, 3) whose backward follows its forward."""

    def __init__(self, rng, classes=4):
        self.w, self.u = rng.standard_normal((3, 5)), rng.standard_normal((5, classes))

    def forward(self, xt, t):
        self.h = np.tanh(xt @ self.w + 0.01 * np.asarray(t)[:, None])
        return self.h @ self.u

    def backward(self, dy):
        return (dy @ self.u.T * (1 - self.h**2)) @ self.w.T


def posterior_score(f, rng):
    x, means = rng.standard_normal(7), np.array([-1.5, 0.2, 2.0])
    for k in range(3):
        yield f"posterior_score of class {k}", f.posterior_score(x, 0.6, means, 0.5, np.array([0.5, 0.3, 0.2]), k)
    yield "posterior_score where there is hardly any noise", f.posterior_score(x, 0.999, means, 0.7, np.ones(3) / 3, 0)


def gradient(f, rng):
    xt, t = rng.standard_normal((4, 3)), np.full(4, 30)
    for labels in ([0, 1, 2, 3], [2, 2, 2, 2], list(rng.integers(0, 4, 4))):
        yield f"for the labels {labels}", f.log_probability_gradient(Network(rng), xt, t, np.array(labels))
    yield "for logits of 900 and more", f.log_probability_gradient(Large(), xt, t, np.array([1, 0, 1, 0]))


class Large:
    forward = staticmethod(lambda xt, t: np.stack([900 + xt[:, 0], 900 + xt[:, 1]], axis=1))
    backward = staticmethod(lambda dy: np.concatenate([dy, 0 * dy[:, :1]], axis=1))


def by_classifier(f, rng):
    s, xt = schedule.linear(60, 1e-3, 0.2), rng.standard_normal((4, 3))
    free = lambda xt, t: (None, np.full(len(xt), 0.3), np.tanh(xt + 0.01 * np.asarray(t)[:, None]))
    for t, scale, clip in ((5, 1.0, False), (40, 2.5, False), (40, -1.0, False), (30, 3.0, True)):
        p = f.by_classifier(free, s, Network(rng), np.array([1, 0, 3, 2]), scale, clip)
        found = attempt(p, xt, np.full(4, t))
        what = f"t = {t}, scale {scale}" + ", clipped" * clip
        for name, index in (("x_0", 2), ("the mean", 0), ("the variance", 1)):
            yield f"{name}: {what}", found[index] if isinstance(found, tuple) else found


def classifier_free(f, rng):
    xt, labels, seen = rng.standard_normal((4, 3)), np.array([2, 0, 1, 2]), []

    def network(x, t, labels):
        seen.append(len(x))
        return np.tanh(x * (1 + np.asarray(labels)[:, None])) + 0.01 * np.asarray(t)[:, None]

    for w, t, interval in ((2.5, 40, None), (0, 40, None), (1, 40, None), (-1.0, 7, None), (3.0, 40, (20, 60)),
                           (3.0, 61, (20, 60)), (3.0, 20, (20, 60))):
        seen.clear()
        what = f"w = {w}, t = {t}, interval {interval}"
        yield what, attempt(f.classifier_free, network, xt, np.full(4, t), labels, 5, w, interval)
        yield f"evaluations of the network, {what}", list(seen)


def posterior_answer(x, alpha_bar, means, sigma, weights, k):
    """By differences of log p(k | x_t)."""
    def log_p(x):
        each = np.log(weights) - (x[:, None] - np.sqrt(alpha_bar) * means)**2 / (2 * (alpha_bar * sigma**2
                                                                                     + 1 - alpha_bar))
        return each[:, k] - np.log(np.exp(each - each.max(axis=1, keepdims=True)).sum(axis=1)) - each.max(axis=1)
    h = 1e-3            # of eighth order
    terms = ((1, 4 / 5), (2, -1 / 5), (3, 4 / 105), (4, -1 / 280))
    return sum(c * (log_p(x + i * h) - log_p(x - i * h)) for i, c in terms) / h


def free_answer(network, xt, t, labels, nothing, w, interval=None):
    if interval is not None and (t[0] < interval[0] or t[0] > interval[1]):
        w = 1
    if w == 1:
        return network(xt, t, labels)
    if w == 0:
        return network(xt, t, np.full(len(xt), nothing))
    both = network(np.concatenate([xt, xt]), np.concatenate([t, t]),
                   np.concatenate([labels, np.full(len(xt), nothing)]))
    return w * both[:len(xt)] + (1 - w) * both[len(xt):]


OPEN = ("Draw a page of digits with `sample.py mnist --guidance W` for W of 0.5, 1, 2 and 4. Which would you show to "
        "somebody who asks for digits, and which to somebody who asks what digits look like?",
        "For single good digits, 2 or 4: nearly all are read as asked, and they are clean. For what digits look like, "
        "1 or a little more: with 4 all digits of a class look alike, so slants, open loops and thin strokes that "
        "occur in the data are missing. Fidelity is a property of each picture, diversity one of all together, and no "
        "single picture shows that it is lost.")

TASKS = [
    question("15.1", "What a perfect classifier says", 2, posterior_score, '''
def posterior_score(x, alpha_bar, means, sigma, weights, k):
    """The derivative of log p(k | x_t) with respect to x_t, where x_0 comes from the cloud k with probability
    weights[k], a Gaussian with mean means[k] and standard deviation sigma.

    x (N,): x_t; alpha_bar: a number; means, weights (K,) -> (N,)
    """
''', {"posterior_score": posterior_answer},
             posterior_score=["Bayes: p(k | x_t) is weights[k] q(x_t | k), divided by the sum over all clouds",
                              "the score of cloud k minus the score of all, which is a mean of the clouds' scores"]),
    library("15.2", "The gradient of log p(label | x_t)", 3, gradient, [guidance.log_probability_gradient],
            log_probability_gradient=["the logits' softmax; of its logarithm, the gradient with respect to the logits "
                                      "is one-hot minus p", "classifier.backward takes it on to x_t"]),
    library("15.3", "Guided by a classifier", 3, by_classifier, [guidance.by_classifier],
            hints={"x_0": "Tweedie: what is added to the score is added to x_0 times (1 - alpha_bar) / sqrt(alpha_bar)",
                   "the mean": "of Eq. 7, from the x_0 that has been moved and clipped"},
            by_classifier=["return a function of xt and t, like p(xt, t) -> mean, variance, x_0",
                           "p's own x_0, moved, then clipped if asked; the mean of Eq. 7 from it; the variance stays"]),
    question("15.4", "Without a classifier", 2, classifier_free, '''
def classifier_free(network, xt, t, labels, nothing, w, interval=None):
    """What a network predicts with classifier-free guidance: b + w (a - b), a with the labels and b without.

    network(xt, t, labels) -> like xt (N, ...); labels (N,); nothing: the number that means "no label"
    w: the factor. If interval = (first, last) is given and t[0] lies outside first <= t <= last, 1 takes its place.
    The network is evaluated once: on N samples where w is 0 or 1, else on 2N.
    """
''', {"classifier_free": free_answer},
             classifier_free=["for w = 1 only the labels are needed, for w = 0 only `nothing`",
                              "else concatenate: the samples with their labels, and again with `nothing`"]),
]
