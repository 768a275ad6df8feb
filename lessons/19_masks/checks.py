"""The tasks of homework 19."""

import itertools

import numpy as np
from tasks import attempt, expect, library, question

from tinyddpm.diffusion import discrete
from tinyddpm.diffusion.discrete import Discrete
from tinyddpm.sampling import unmask as sampling

IMPORTS = """import math

import numpy as np

from tinyddpm import ops                                     # ops.softmax: (N, ..., K) -> the same, and a cache
from tinyddpm.backend import array_module
from tinyddpm.diffusion.discrete import one_hot              # (x, K, dtype): (N, ...) -> (N, ..., K)
from tinyddpm.sampling.steps import Step, pairs              # Step(t, x, x0); pairs: each time with the next, 0 last"""


def masked(f, rng):
    for K, T, shape in ((2, 10, (5, 4)), (7, 4, (3, 2, 3))):
        x0, u = rng.integers(0, K, shape), rng.random(shape)
        for t in (1, T // 2, T):
            yield f"K = {K}, t = {t} of {T}", attempt(f.masked, x0, np.full(len(x0), t), T, K, u)
        yield f"another t for each, K = {K}", attempt(f.masked, x0, np.arange(1, len(x0) + 1) % T + 1, T, K, u)


def masked_answer(x0, t, T, K, u):
    return Discrete(K, "absorbing", T).q_sample(x0, t, u)


def cross_entropy(f, rng):
    for kind, shape, K in (("absorbing", (4, 5), 3), ("absorbing", (2, 3, 3), 2), ("uniform", (4, 5), 3)):
        d, x0 = Discrete(K, kind, 8), rng.integers(0, K, shape)
        xt, y = d.q_sample(x0, 4, rng.random(shape)), rng.standard_normal((*shape, K))
        found = attempt(f.cross_entropy, d, x0, xt, 4, y)
        if not isinstance(found, Exception):
            found = expect(found, 2, "cross_entropy", "the loss and its gradient")
        for i, part in enumerate(("loss", "gradient")):
            yield f"{part}: {kind} {shape}", found if isinstance(found, Exception) else found[i]


def posterior(f, rng):
    for K, T, t in ((3, 6, 4), (3, 6, 1), (5, 9, 9)):
        for x0, xt in ((0, 0), (0, 2), (2, 1)):
            yield f"K = {K}, t = {t} of {T}, x_0 = {x0}, x_t = {xt}", attempt(f.posterior, x0, xt, t, T, K)


def posterior_answer(x0, xt, t, T, K):
    """The library's, of one position."""
    p0 = discrete.one_hot(np.array([x0]), K, np.float64)
    return Discrete(K, "uniform", T).posterior(p0, np.array([xt]), t, t - 1)[0][0]


def unmask(f, rng):
    table = rng.dirichlet(np.ones(4), (3, 2))
    yield "draw: values", attempt(f.draw, table, np.random.default_rng(5))
    many = attempt(f.draw, np.broadcast_to(table[:1], (500, 2, 4)), np.random.default_rng(6))
    yield "draw: of many", many
    for kind in ("absorbing", "uniform"):
        d, noise = Discrete(3, kind, 8), np.random.default_rng(7)
        seen, logits = [], rng.standard_normal((5, 4, 3))

        def p(xt, t):
            seen.append((float(t[0]), len(t)))
            e = np.exp(logits + xt[..., None] / 3)
            return e / e.sum(axis=-1, keepdims=True)

        x = np.full((5, 4), 3) if kind == "absorbing" else rng.integers(0, 3, (5, 4))
        for times in ([8, 5, 2], [8]):
            seen.clear()
            found = attempt(lambda: list(f.unmask(p, d, x, noise, times)))
            for i in range(len(times)):
                step = found[i] if isinstance(found, list) and i < len(found) else found
                for part in ("x", "x0", "t"):
                    yield f"unmask {part}: {kind}, step {i + 1}, the times {times}", getattr(step, part, step)
            yield f"unmask times: {kind}, of the network, {times}", (found if isinstance(found, Exception)
                                                                     else list(seen))


def bound(f, rng):
    for K in (2, 3):
        shares = rng.dirichlet(np.ones(K * K)).reshape(K, K)
        for T in (1, 2, 7):
            yield f"{K} letters, T = {T}", attempt(f.bound, shares, T)


def bound_answer(shares, T):
    """Over all x_t, by the library's terms."""
    K, total = len(shares), 0.0
    d, states = Discrete(K, "absorbing", T), np.array([*itertools.product(range(K + 1), repeat=2)])
    for t in range(1, T + 1):
        a = d.kept(t)
        q = [[a * (x == k) + (1 - a) * (x == K) for k in range(K)] for x in states.T]       # (2, K, states)
        joint = shares[:, :, None] * np.array(q[0])[:, None] * np.array(q[1])[None]
        p = np.stack([joint.sum(axis=1).T, joint.sum(axis=0).T], axis=1)
        p /= np.maximum(p.sum(axis=2, keepdims=True), 1e-300)
        for word in itertools.product(range(K), repeat=2):
            terms, _ = d.terms(np.broadcast_to(word, states.shape), states, t, p)
            total += (joint[word] * terms.sum(axis=1)).sum()
    return total


OPEN = ("Draw digits with examples/unmask.py masks, in 4, 16 and 64 steps, and as a film. Look at the film: when is it "
        "decided which digit it will be? Then draw with more masks falling late than early, or early than late (change "
        "the times in tinyddpm/sampling/unmask.py). Which is better for the same number of steps?",
        "The three grids and the film. What the digit will be is decided while most is still masked: the first white "
        "pixels that appear fix it. In the first steps pixels depend on each other most, since little is known, so few "
        "should fall together there; later most are certain, and many may fall at once. So long steps late are better "
        "than long steps early. A good answer shows both, with the same seed, and counts what is no digit.")

TASKS = [
    question("19.1", "Hide", 1, masked, '''
def masked(x0, t, T, K, u):
    """x_t: each position of x0 (N, ...) is replaced by the mask K with probability t / T: where u >= 1 - t / T.

    x0: integers 0..K-1; t (N,): a time for each sample; u, like x0: uniform numbers
    """
''', {"masked": masked_answer}, masked=["t with as many axes as x0, so that each sample has its own"]),
    library("19.2", "Guess", 3, cross_entropy, [discrete.cross_entropy],
            hints={"loss": "in bits, of the masked positions, divided by the number of all positions",
                   "gradient": "softmax minus one-hot, where hidden, with the same factor as the loss"},
            cross_entropy=["d.K values, d.kind absorbing or uniform; y (N, ..., K): logits; p = softmax(y)",
                           "hidden: where x_t is the mask d.K; along the uniform process, everywhere",
                           "-> the loss, a number, and its gradient with respect to y"]),
    question("19.3", "The posterior of the uniform process", 2, posterior, '''
def posterior(x0, xt, t, T, K):
    """q(x_{t-1} | x_t, x_0) of one position, of the uniform process with a_t = 1 - t / T: (K,) probabilities.

    x0, xt: integers 0..K-1
    """
''', {"posterior": posterior_answer},
             posterior=["both factors, for all K values of x_{t-1}; then divide by their sum"]),
    library("19.4", "And back", 2, unmask, [sampling.draw, sampling.unmask],
            draw=["u = rng.random(the shape without its last axis, dtype=np.float32), times the sum of each",
                  "how many of the cumulative sums are at most u; at most K - 1, whatever the rounding"],
            unmask=["a Step for each of the times; p(x, t) with t (N,) is the distribution of x_0",
                    "d.posterior(p0, x, t, previous) -> the distribution of the next x, and a cache; draw from it",
                    "x0 of the Step: the most probable value"]),
    question("19.5", "What many at once cost", 2, bound, '''
def bound(shares, T):
    """The bound in bits of words of two letters with the perfect network and masks, in T steps: H + I / T.

    shares (K, K): the probability of each word, by its first and its second letter
    """
''', {"bound": bound_answer}, bound=["H: the entropy of the words; I: that of both letters alone, less H",
                                     "0 log 0 is 0"]),
]
