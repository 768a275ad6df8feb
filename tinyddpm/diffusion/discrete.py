"""Diffusion of values instead of numbers: black and white pixels, or letters (D3PM, Austin et al. 2021).

Each position of x_0 has one of K values, 0..K-1. At time t it still has it with probability a_t = 1 - t / T. Otherwise
it has been replaced: by the mask, a value K of its own ("absorbing"), or by any of the K values, all equally probable
("uniform"). All positions are independent, and nothing of x_0 is left in x_T.

Networks see the values one-hot, as (N, ..., states), and their output, of the same shape, begins with the logits of the
K values of x_0. t and previous are numbers or (N,).
"""

import math
from dataclasses import dataclass

import numpy as np

from tinyddpm import ops
from tinyddpm.backend import array_module, to_numpy
from tinyddpm.diffusion.schedule import per_sample

KINDS = "absorbing", "uniform"


class Discrete:
    """The forward process of K values along T times, and its posteriors.

    states: the number of values that a position can have at t > 0, K or, with the mask, K + 1
    """

    def __init__(self, K, kind="absorbing", T=1000):
        if not 2 <= K <= 256 or kind not in KINDS or not 1 <= T <= 10**6:
            raise ValueError(f"K is {K}, kind {kind!r}, T {T}; expected 2 to 256 values, {' or '.join(KINDS)}, and 1 "
                             "to 1,000,000 times")
        self.K, self.kind, self.T = K, kind, T
        self.states = K + (kind == "absorbing")
        self.noise = np.full(K, 1 / K) if kind == "uniform" else np.arange(K + 1) == K     # what replaces a value

    def kept(self, t):
        """a_t"""
        return 1 - np.asarray(t) / self.T

    def q_sample(self, x0, t, u):
        """x_t ~ q(x_t | x_0): integers like x0 (N, ...), by numbers u of that shape, uniform on [0, 1)."""
        a = per_sample(self.kept(t), u)
        if self.kind == "absorbing":
            return array_module(u).where(u < a, x0, self.K)
        replaced = (u - a) / array_module(u).maximum(1 - a, 1e-12) * self.K     # uniform on 0..K where u >= a
        return array_module(u).where(u < a, x0, array_module(u).clip(replaced, 0, self.K - 1).astype(x0.dtype))

    def posterior(self, p0, xt, t, previous):
        """The distribution (N, ..., states) of x at the time `previous` < t, given x_t (N, ...), and the cache.

        p0 (N, ..., K): the distribution of x_0. What x_t makes impossible is left out of it. For one x_0 it is one-hot,
        and this is q(x_previous | x_t, x_0), in proportion to q(x_t | x_previous) q(x_previous | x_0).
        """
        xp = array_module(p0)
        noise, here = xp.asarray(self.noise, p0.dtype), one_hot(xt, self.states, p0.dtype)
        a, b = self.kept(t), self.kept(previous)
        a, b, r, no_a, no_b, no_r = (per_sample(one, here) for one in (a, b, a / b, 1 - a, 1 - b, 1 - a / b))
        noise_here = (here * noise).sum(axis=-1, keepdims=True)
        likelihood = a * here[..., :self.K] + no_a * noise_here                     # of x_t, for each x_0
        step = r * here + no_r * noise_here                                         # and for each x_previous
        factor = (likelihood > 0) / xp.maximum(likelihood, 1e-30)
        p0 = xp.maximum(p0, 1e-30) * (likelihood > 0)
        total = xp.maximum(p0.sum(axis=-1, keepdims=True), 1e-30)
        w = p0 * factor / total
        widened = xp.concatenate([w, xp.zeros_like(here[..., self.K:])], axis=-1)
        y = step * (b * widened + no_b * noise * w.sum(axis=-1, keepdims=True))
        return y, (step, b, no_b * noise, factor, likelihood > 0, total, w)

    def posterior_backward(self, dy, cache):
        """dy (N, ..., states) -> dp0 (N, ..., K)"""
        step, b, replaced, factor, possible, total, w = cache
        dy = step * dy
        dw = b * dy[..., :self.K] + (replaced * dy).sum(axis=-1, keepdims=True)
        return (dw * factor - (w * dw).sum(axis=-1, keepdims=True)) * possible / total

    def terms(self, x0, xt, t, p0):
        """The bound's terms in bits (N, ...): KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and the cache.

        For t = 1 that is -log2 p(x_0 | x_1). Their sum over t and all positions is the bound of -log2 p(x_0): nothing
        is added for x_T, which is noise.
        """
        xp, previous = array_module(p0), np.asarray(t) - 1
        q, _ = self.posterior(one_hot(x0, self.K, p0.dtype), xt, t, previous)
        p, cache = self.posterior(p0, xt, t, previous)
        q, p = xp.where(q > 1e-20, q, 0), xp.maximum(p, 1e-30)
        return (q * xp.log2(xp.where(q > 0, q / p, 1))).sum(axis=-1), (q, p, cache)

    def terms_backward(self, dterms, cache):
        """dterms (N, ...) -> dp0 (N, ..., K)"""
        q, p, cache = cache
        return self.posterior_backward(-dterms[..., None] * q / p / math.log(2), cache)


def one_hot(x, K, dtype=np.float32):
    """Integers (N, ...) as (N, ..., K)."""
    return (x[..., None] == array_module(x).arange(K)).astype(dtype)


# ---- losses: functions of the logits y (N, ..., K), which return their value and its gradient ----

def cross_entropy(d, x0, xt, t, y):
    """The sum of -log2 p(x_0 | x_t) of what is hidden, divided by the number of all positions.

    Hidden is what is masked; along the uniform process, anything may have been replaced. With the factor T / t for each
    sample, it would be the absorbing process's bound.
    """
    p, _ = ops.softmax(y)
    hidden = (xt == d.K) if d.kind == "absorbing" else array_module(xt).ones_like(xt)
    truth = one_hot(x0, d.K, y.dtype)
    weight = hidden[..., None].astype(y.dtype) / (math.log(2) * x0.size)
    log_p = array_module(y).log(array_module(y).maximum((p * truth).sum(axis=-1), 1e-30))
    return -(weight[..., 0] * log_p).sum(), weight * (p - truth)


def bound(d, x0, xt, t, y):
    """The bound in bits per position, estimated by T times the term of one t for each sample."""
    p, cache = ops.softmax(y)
    terms, terms_cache = d.terms(x0, xt, t, p)
    share = d.T / x0.size
    dp = d.terms_backward(array_module(y).full_like(terms, share), terms_cache)
    return share * terms.sum(), ops.softmax_backward(dp, cache)


LOSSES = {"cross-entropy": cross_entropy, "bound": bound}


def loss_and_gradient(model, d, x0, t, u, loss="cross-entropy", loss_scale=1.0, **inputs):
    """Return the loss on a batch, and add its gradient to the model's: Algorithm 1, for values.

    x0 (N, ...) integers 0..K-1; t (N,) times 1..T; u, like x0: uniform numbers, for q_sample
    loss: a name in LOSSES; loss_scale: a factor that multiplies the gradients, but not the returned loss
    """
    xt = d.q_sample(x0, t, u)
    y = model.forward(one_hot(xt, d.states), t, **inputs)
    value, dlogits = LOSSES[loss](d, x0, xt, t, y[..., :d.K])
    dy = array_module(y).zeros_like(y)
    dy[..., :d.K] = dlogits * loss_scale
    model.backward(dy)
    return value


def reverse_process(model, d):
    """p(xt, t) of a network in evaluation mode: the distribution (N, ..., K) of x_0, for x_t (N, ...) and t (N,).

    Raises ValueError for a model in training mode; p, where the output is not finite.
    """
    if model.training:
        raise ValueError("the reverse process needs a model in evaluation mode (dropout off): call model.eval() first")

    def p(xt, t):
        y = model.forward(one_hot(xt, d.states), t)[..., :d.K]
        if not array_module(y).isfinite(y).all():
            raise ValueError(f"the network's output is not finite at t = {t[0]:g}")
        return ops.softmax(y)[0]

    return p


def bits(p, d, x0, rng, count=8):
    """Estimates of the bound of each sample, in bits per position (N,), from one t in each of `count` equal parts."""
    total, N = 0, len(x0)
    for k in range(count):
        u = to_numpy(rng.random(N, dtype=np.float32))
        t = np.maximum(1, np.ceil((k + u) / count * d.T)).astype(int)
        xt = d.q_sample(x0, t, rng.random(x0.shape, dtype=np.float32))
        terms, _ = d.terms(x0, xt, t, p(xt, t))
        total = total + terms.reshape(N, -1).mean(axis=1)
    return d.T / count * total


@dataclass(frozen=True)
class DiscreteConfig:
    """The choices of a discrete diffusion: the values, what replaces them, the times and the loss.

    alphabet: of a text, whose letters are the values; empty for images
    """

    values: int = 2
    kind: str = "absorbing"
    T: int = 1000
    loss: str = "cross-entropy"
    alphabet: str = ""
    learned_variance = False            # as in DiffusionConfig; a discrete process has no variance

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}; expected {', '.join(LOSSES)}")
        if self.values != (len(set(self.alphabet)) or 2):
            raise ValueError(f"there are {self.values} values; expected 2, or a different letter of the alphabet for "
                             f"each, which has {len(set(self.alphabet))}")
        self.make_schedule()

    def make_schedule(self):
        """The Discrete process. Raises ValueError for numbers that make none."""
        return Discrete(self.values, self.kind, self.T)
