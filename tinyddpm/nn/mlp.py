"""The smallest denoiser: a perceptron with a time embedding."""

import math

import numpy as np

from tinyddpm import ops
from tinyddpm.backend import from_numpy, to_numpy
from tinyddpm.nn.layers import Linear, Operation
from tinyddpm.nn.module import Module

TIME_WIDTH = 64


class MLP(Module):
    """y = W2 silu(W1 x + Wt temb(t) + b) for data of any fixed shape, flattened.

    shape: the shape of one sample, such as (2,) for points in the plane or (28, 28, 1) for digits
    depth: the number of hidden layers; those after the first are silu(W h + b)
    """

    def __init__(self, shape, hidden=512, seed=0, dtype=np.float32, depth=1):
        rng = np.random.default_rng(seed)
        self.shape, D = tuple(shape), math.prod(shape)
        self.first, self.time = Linear(rng, D, hidden), Linear(rng, TIME_WIDTH, hidden)
        self.silu = Operation("silu")
        self.more = [[Linear(rng, hidden, hidden), Operation("silu")] for _ in range(depth - 1)]
        self.second = Linear(rng, hidden, D)
        self.flatten(dtype)

    def forward(self, x, t, labels=None, rng=None):
        """x (N, *shape), t (N,) integers 1..T -> y like x. The model has neither classes nor dropout."""
        t = to_numpy(t)
        if labels is not None:
            raise ValueError("MLP: labels were given to a model without classes")
        if x.shape[1:] != self.shape or t.shape != (len(x),):
            raise ValueError(f"MLP: x is {x.shape}, t {t.shape}; expected (N, *{self.shape}) and (N,)")
        temb = ops.time_embedding(from_numpy(t), TIME_WIDTH, x.dtype)
        h = self.first.forward(x.reshape(len(x), -1)) + self.time.forward(temb)
        h = self.silu.forward(h)
        for linear, silu in self.more:
            h = silu.forward(linear.forward(h))
        return self.second.forward(h).reshape(x.shape)

    def backward(self, dy):
        """dy like y -> dx like x"""
        dh = self.second.backward(dy.reshape(len(dy), -1))
        for linear, silu in reversed(self.more):
            dh = linear.backward(silu.backward(dh))
        dh = self.silu.backward(dh)
        self.time.backward(dh)
        return self.first.backward(dh).reshape(dy.shape)
