"""What the latents x_t hold: the paper's progressive generation, shared latents and interpolation (section 4.3, 4.4).

p is the reverse process and s the Schedule, as in steps.py; every function returns images (rows, columns, H, W, C).
"""

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.process import q_sample
from tinyddpm.sampling.steps import ddpm, last


def progressive(p, s, xT, rng, columns=10):
    """Figures 6, 10 and 14: the estimates of x_0 along Algorithm 2, at evenly spread times from T to 1."""
    shown = set(np.round(np.linspace(s.T, 1, columns)).astype(int))
    return _stack([step.x0 for step in ddpm(p, s, xT, rng, range(s.T, 0, -1)) if step.t in shown], axis=1)


def shared(p, s, xT, rng, times, columns=8):
    """Figure 7: for each time, a row that starts with x_t and continues with samples of x_0 that share it.

    xT (1, H, W, C): one starting point; times: descending, such as (1000, 750, 500, 250)
    """
    walk = ddpm(p, s, xT, rng, range(s.T, 0, -1))
    on_the_way = {s.T: xT} | {step.t - 1: step.x for step in walk if step.t - 1 in times}
    rows = []
    for t in times:
        xt = on_the_way[t].repeat(columns - 1, axis=0)
        rows.append(array_module(xt).concatenate([xt[:1], last(ddpm(p, s, xt, rng, range(t, 0, -1)))]))
    return _stack(rows, axis=0)


def interpolate(p, s, a, b, t, rng, columns=9):
    """Figure 8: rows from images a to images b (N, H, W, C), mixed as latents x_t; t = 0 mixes the pixels (Figure 9).

    x_t of a and of b are drawn from q; (1 - weight) x_t(a) + weight x_t(b) goes back through the reverse process with
    the same noise for all weights. A row is a, the mixtures for weights from 0 to 1, and b.
    """
    noise = SharedNoise(rng)
    rows = []
    for x0, other in zip(a, b):
        weights = np.linspace(0, 1, columns - 2, dtype=x0.dtype).reshape(-1, 1, 1, 1)
        weights = array_module(x0).asarray(weights)
        if t:
            x0_t, other_t = (q_sample(s, x, t, rng.standard_normal(x.shape, dtype=x.dtype)) for x in (x0, other))
            mixed = last(ddpm(p, s, (1 - weights) * x0_t + weights * other_t, noise, range(t, 0, -1)))
        else:
            mixed = (1 - weights) * x0 + weights * other
        rows.append(array_module(x0).concatenate([x0[None], mixed, other[None]]))
    return _stack(rows, axis=0)


class SharedNoise:
    """A generator whose samples are the same for all images of a batch."""

    def __init__(self, rng):
        self.rng = rng

    def standard_normal(self, shape, dtype):
        one = self.rng.standard_normal((1, *shape[1:]), dtype=dtype)
        return array_module(one).broadcast_to(one, shape)


def _stack(arrays, axis):
    return array_module(arrays[0]).stack(arrays, axis)
