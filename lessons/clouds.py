"""Data whose perfect network is known: clouds, each a Gaussian with the same spread in all directions.

And small networks that learn from it.
"""

import math

import numpy as np

from tinyddpm.diffusion import process
from tinyddpm.nn import MLP
from tinyddpm.presets import TrainingConfig
from tinyddpm.training.optimizer import Adam

MEANS = np.array([[-1.5, 0.0], [1.0, 1.2], [1.0, -1.2]])
WEIGHTS = (0.5, 0.3, 0.2)
SIGMA = 0.15


def draw(count, rng, means=MEANS, sigma=SIGMA, weights=WEIGHTS):
    """x_0 (count, D)."""
    return means[rng.choice(len(means), count, p=weights)] + sigma * rng.standard_normal((count, means.shape[1]))


def perfect_x0(s, means=MEANS, sigma=SIGMA, weights=WEIGHTS):
    """E[x_0 | x_t], as a function of xt (N, D) and t (N,), for clouds of standard deviation sigma."""
    def x0(xt, t):
        a = s.alpha_bar[t][:, None]
        away, variance = xt[:, None] - np.sqrt(a)[:, :, None] * means, a * sigma**2 + 1 - a
        log = np.log(weights) - (away**2).sum(axis=2) / (2 * variance)
        share = np.exp(log - log.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        eps = np.sqrt(1 - a) / variance * (share[:, :, None] * away).sum(axis=1)
        return process.x0_from_eps(s, xt, t, eps)
    return x0


def reverse(s, x0):
    """The reverse process p(xt, t) of a function that gives x_0."""
    return lambda xt, t: process.p_mean_variance(s, x0(xt, t), xt, t, clip=False)


class Differences:
    """A reverse process whose backward takes differences of its x_0: slow, and needs no network."""

    def __init__(self, p):
        self.p = p

    def __call__(self, xt, t):
        self.last = xt, t
        return self.p(xt, t)

    def backward(self, dx0, h=1e-4):
        xt, t = self.last
        return np.stack([(dx0 * (self.p(xt + h * e, t)[2] - self.p(xt - h * e, t)[2])).sum(axis=1) / (2 * h)
                         for e in np.eye(xt.shape[1])], axis=1)


def density(x, alpha_bar, means, sigma, weights=WEIGHTS):
    """Of x_t, numbers, where x_0 is one of the means with noise of standard deviation sigma."""
    variance = alpha_bar * sigma**2 + 1 - alpha_bar
    each = np.exp(-(x[:, None] - np.sqrt(alpha_bar) * means)**2 / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return each @ np.array(weights)


def arrive(s, y, t, after, means, sigma, weights):
    """Where the ODE leads y = x_t / sqrt(alpha_bar), numbers: to those with as large a share of the data below them."""
    def below(y, t):
        spread = np.sqrt(sigma**2 + 1 / s.alpha_bar[t] - 1)
        return np.vectorize(math.erfc)((means - y[:, None]) / spread / math.sqrt(2)) / 2 @ np.array(weights)

    share, low, high = below(y, t), np.full_like(y, -500), np.full_like(y, 500)
    for _ in range(60):                                     # bisection
        middle = (low + high) / 2
        less = below(middle, after) < share
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return middle


def learn(D, target, steps, watch=lambda x0: None, start=None):
    """A model whose output is x_0 (N, D), and the same as a function x0(xt, t).

    target(x0) gives a batch x_t, t and the x_0 to learn, where x0 is the model so far; start: a model to begin with
    watch(x0) is called every 50 steps, with the averaged model
    """
    model, average = MLP((D,), hidden=128, depth=3), MLP((D,), hidden=128, depth=3).eval()
    if start:
        model.flat_values[...] = start.flat_values
    optimizer = Adam(model, TrainingConfig(steps=steps, lr=1e-2, lr_final=1e-5, warmup=20, adam_beta2=0.99,
                                           ema_decay=0.98))
    now, averaged = (lambda x, t, model=model: model.forward(x.astype(np.float32), t).astype(np.float64)
                     for model in (model, average))
    for step in range(1, steps + 1):
        xt, t, x0 = target(now)
        difference = now(xt, t) - x0
        model.flat_grads.fill(0)
        model.backward((2 / difference.size * difference).astype(np.float32))
        optimizer.update(step, optimizer.learning_rate(step, step / steps))
        if step % 50 == 0 or step == steps:
            average.flat_values[...] = optimizer.ema
            watch(averaged)
    return average, averaged


def paths(lesson, name, positions, panels):
    """Save a figure: title -> paths (positions, N, 1) beside each other."""
    figure, axes = lesson.figure(1, len(panels), size=(10, 3), sharey=True)
    for ax, (title, z) in zip(axes, panels.items()):
        ax.plot(positions, z[:, :, 0], linewidth=0.6, color="0.4")
        ax.set(xlabel="r", ylabel="z", xlim=(1, 0), title=title)
    lesson.save(figure, name)
