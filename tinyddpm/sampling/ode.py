"""The probability-flow ODE in both directions: images as latents, the way between two of them, and their likelihood.

The flow runs from t = 1 to T: the data are taken for x_1, whose noise is less than the step between two bytes.
p is the reverse process, without clipping, and s the Schedule, as in steps.py.
"""

import math

import numpy as np

from tinyddpm.backend import array_module, to_numpy
from tinyddpm.sampling.solvers import angle_at, dormand_prince, flow, predict, time_at, transfer, velocity
from tinyddpm.sampling.steps import pairs


def encode(p, s, x, tolerance=1e-6):
    """The latent x_T (N, ...) from which the flow leads to the data x (N, ...)."""
    return _end(flow(p, s, x, 1, s.T, tolerance))


def decode(p, s, xT, tolerance=1e-6):
    """The data to which the flow leads from x_T (N, ...): encode, the other way round."""
    return _end(flow(p, s, xT, s.T, 1, tolerance))


def _end(steps):
    for _, x, _ in steps:
        pass
    return x


def interpolate(p, s, a, b, columns=9, tolerance=1e-6):
    """Rows (N, columns, ...) from data a to data b (N, ...), by way of latents on the great circle between theirs."""
    xp, ends = array_module(a), (encode(p, s, a, tolerance), encode(p, s, b, tolerance))
    return xp.stack([decode(p, s, slerp(*ends, weight), tolerance) for weight in np.linspace(0, 1, columns).tolist()],
                    axis=1)


def slerp(a, b, weight):
    """From a (weight 0) to b (1), both (N, ...), on the great circle: lengths and angle change evenly (Shoemake 1985).

    On the straight line the middle of two latents would be shorter than noise ever is.
    """
    xp, shape = array_module(a), (-1,) + (1,) * (a.ndim - 1)
    flat_a, flat_b = (one.reshape(len(one), -1) for one in (a, b))
    lengths = [xp.sqrt((one**2).sum(axis=1)) for one in (flat_a, flat_b)]
    angle = xp.arccos(xp.clip((flat_a * flat_b).sum(axis=1) / lengths[0] / lengths[1], -1, 1))
    angle = xp.maximum(angle, 1e-4)                         # of parallel vectors; the weights' limit is the same
    length = (1 - weight) * lengths[0] + weight * lengths[1]
    weights = [xp.sin(share * angle) / xp.sin(angle) * length / own
               for share, own in zip((1 - weight, weight), lengths)]
    return weights[0].reshape(shape) * a + weights[1].reshape(shape) * b


def log_likelihood(p, s, x, rng=None, tolerance=1e-5, watch=lambda t: None):
    """log p(x) in nats, a NumPy array (N,), of data x (N, ...) by the change of variables along the flow.

    d log p(x_t) / dphi = -div v (Chen et al. 2018; Song et al. 2021, Eq. 39), so the log density of the noise at T and
    the integral of the divergence give that of the data. The trace of dx_0 / dx_t comes from p.backward:

    rng: None for every dimension, exactly; or the generator of one vector u of signs for each sample, for Hutchinson's
        estimate u^T J u, which is right on average
    watch(t) is called after each step
    """
    xp, N, D = array_module(x), len(x), math.prod(x.shape[1:])
    if rng is None:
        directions = xp.eye(D, dtype=x.dtype).reshape(D, 1, *x.shape[1:]).repeat(N, axis=1)
    else:
        directions = xp.sign(rng.standard_normal((1, *x.shape), dtype=x.dtype))

    def slopes(angle, state):                               # the data, and the integral
        x, trace = state[:, :-1].reshape(-1, *directions.shape[2:]), 0
        for u in directions:
            v = velocity(p, s, x, angle)
            trace = trace + (u * p.backward(u)).reshape(N, -1).sum(axis=1)
        divergence = (D * math.cos(angle) - trace) / math.sin(angle)
        return xp.concatenate([v.reshape(N, -1), divergence[:, None]], axis=1)

    state = xp.concatenate([x.reshape(N, -1), xp.zeros((N, 1), x.dtype)], axis=1)
    for angle, state, _ in dormand_prince(slopes, state, angle_at(s, 1), angle_at(s, s.T), tolerance):
        watch(time_at(s, angle))
    noise, integral = to_numpy(state[:, :-1]).astype(np.float64), to_numpy(state[:, -1])
    return integral - (noise**2).sum(axis=1) / 2 - D / 2 * math.log(2 * math.pi)


def straightness(p, s, x, times):
    """How far the velocity eps - x_0 is from its mean along each path, squared, per dimension (Liu et al. 2023, S(Z)).

    0 for straight paths, on which one step is exact. x (N, ...): noise, at the first of the descending times
    """
    velocities, lengths = [], []
    for t, previous in pairs(times):
        x0, eps = predict(p, s, x, t)
        x = transfer(s, x, eps, t, previous)
        velocities.append(eps - x0)
        lengths.append(position(s, t) - position(s, previous))
    shares = [length / sum(lengths) for length in lengths]
    mean = sum(share * v for share, v in zip(shares, velocities))
    return float(sum(share * ((v - mean)**2).mean() for share, v in zip(shares, velocities)))


def position(s, t):
    """Where x_t is on the straight path from data, 0, to noise, 1."""
    signal, noise = math.sqrt(s.alpha_bar[t]), math.sqrt(1 - s.alpha_bar[t])
    return noise / (signal + noise)
