"""From noise to values: the way back along a discrete diffusion (diffusion/discrete.py)."""

import numpy as np

from tinyddpm.backend import array_module, generator, state, to_numpy
from tinyddpm.diffusion.discrete import reverse_process
from tinyddpm.sampling.generate import BATCH
from tinyddpm.sampling.steps import Step, pairs


def start(d, shape, rng):
    """x_T: all positions masked, or any values."""
    return d.q_sample(state.xp.zeros(shape, np.int64), d.T, rng.random(shape, dtype=np.float32))


def unmask(p, d, x, rng, times):
    """x at each of the descending times, from x at the first of them: yields a Step for each, the last one to x_0.

    p(xt, t): the distribution (N, ..., K) of x_0, see discrete.reverse_process; d: the Discrete process
    The positions of one step are drawn independently of each other, which costs quality where steps are few. x0 of a
    Step is the most probable one.
    """
    for t, previous in pairs(times):
        p0 = p(x, np.full(len(x), t))
        distribution, _ = d.posterior(p0, x, t, previous)
        x = draw(distribution, rng)
        yield Step(t, x, p0.argmax(axis=-1))


def draw(distribution, rng):
    """One value (N, ...) of each distribution (N, ..., K)."""
    xp, below = array_module(distribution), distribution.cumsum(axis=-1)
    u = rng.random(below.shape[:-1], dtype=np.float32)[..., None] * below[..., -1:]
    return xp.minimum((below <= u).sum(axis=-1), below.shape[-1] - 1)


def generate(model, d, count, shape, seed=0, steps=100, watch=lambda step, number, total: None):
    """`count` new samples of a shape from a network in evaluation mode: integers, a NumPy array (count, *shape).

    steps: equal strides from T to 0, at most T
    watch(step, number, total) is called with each Step, the number-th of so many
    """
    steps = min(steps, d.T)
    times = [d.T * k / steps for k in range(steps, 0, -1)]
    batches, found, p = range(0, count, BATCH), [], reverse_process(model, d)
    for i, first in enumerate(batches):
        rng = generator(seed, "unmask", first)
        x = start(d, (min(BATCH, count - first), *shape), rng)
        for number, step in enumerate(unmask(p, d, x, rng, times), 1 + i * steps):
            watch(step, number, steps * len(batches))
        found.append(to_numpy(step.x))
    return np.concatenate(found)
