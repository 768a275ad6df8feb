"""Layers, which hold the parameters of the operations in `ops`, and the blocks of the U-Net.

The rng passed to a constructor draws the initial weights. Biases start at 0, a normalization at
scale 1 and shift 0. A branch that ends in a weight of scale NEAR_ZERO is almost 0 at first.
"""

import math

import numpy as np

from tinyddpm import ops
from tinyddpm.nn.module import Module, Parameter

NEAR_ZERO = 1e-10
NORM_EPS = 1e-6          # of every group normalization


def initial_weight(rng, shape, scale):
    """Uniform weights of variance scale / n, where n is the mean of fan-in and fan-out (Glorot and Bengio 2010)."""
    n = math.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
    limit = math.sqrt(3 * scale / n)
    return rng.uniform(-limit, limit, shape)


class Linear(Module):
    """y = x w + b over the last axis. x (..., C) -> (..., K)"""

    def __init__(self, rng, C, K, scale=1.0):
        self.weight = Parameter(initial_weight(rng, (C, K), scale))
        self.bias = Parameter(np.zeros(K))

    def forward(self, x):
        return self.remember(ops.linear(x, self.weight.value, self.bias.value))

    def backward(self, dy):
        return self.accumulate(ops.linear_backward, dy)


class Conv2d(Module):
    """Convolution of images. x (N, H, W, C) -> (N, H', W', K); stride and padding as in ops.conv2d."""

    def __init__(self, rng, C, K, kernel=3, stride=1, padding=None, scale=1.0):
        self.weight = Parameter(initial_weight(rng, (kernel, kernel, C, K), scale))
        self.bias = Parameter(np.zeros(K))
        self.stride, self.padding = stride, padding

    def forward(self, x):
        return self.remember(ops.conv2d(x, self.weight.value, self.bias.value, self.stride, self.padding))

    def backward(self, dy):
        return self.accumulate(ops.conv2d_backward, dy)


class Conv2dAdd(Conv2d):
    """Convolution and a sum: conv(x) + other. x (N, H, W, C), other (N, H, W, K) or (N, 1, 1, K) -> (N, H, W, K)"""

    def forward(self, x, other):
        return self.remember(ops.conv2d_add(x, self.weight.value, self.bias.value, other))

    def backward(self, dy):
        """Returns dx and dother."""
        return self.accumulate(ops.conv2d_add_backward, dy)


class GroupNorm(Module):
    """Group normalization. x (N, ..., C) -> the same shape"""

    def __init__(self, C, groups):
        self.gamma, self.beta = Parameter(np.ones(C)), Parameter(np.zeros(C))
        self.groups = groups

    def forward(self, x):
        return self.remember(ops.group_norm(x, self.gamma.value, self.beta.value, self.groups, NORM_EPS))

    def backward(self, dy):
        return self.accumulate(ops.group_norm_backward, dy)


class GroupNormSiLU(GroupNorm):
    """Group normalization and SiLU in one operation. x (N, ..., C) -> the same shape"""

    def forward(self, x):
        return self.remember(ops.group_norm_silu(x, self.gamma.value, self.beta.value, self.groups, NORM_EPS))

    def backward(self, dy):
        return self.accumulate(ops.group_norm_silu_backward, dy)


class Operation(Module):
    """An operation on one array, without parameters, given by name and settings: Operation("patchify", 2)."""

    def __init__(self, name, *settings):
        self.name, self.settings = name, settings

    def forward(self, x):
        return self.remember(getattr(ops, self.name)(x, *self.settings))

    def backward(self, dy):
        return getattr(ops, self.name + "_backward")(dy, self.recall())


class Dropout(Module):
    """Zero each element with probability p in training mode, and scale the others up by 1 / (1 - p)."""

    def __init__(self, p):
        self.p = p

    def forward(self, x, rng):
        if not (self.training and self.p):
            return x
        return self.remember(ops.dropout(x, rng, self.p))

    def backward(self, dy):
        return ops.dropout_backward(dy, self.recall()) if self.training and self.p else dy


class Embedding(Module):
    """A learned vector for each class. index (N,) integers -> (N, D)"""

    def __init__(self, rng, classes, D):
        self.table = Parameter(rng.standard_normal((classes, D)))

    def forward(self, index):
        return self.remember(ops.embedding(self.table.value, index))

    def backward(self, dy):
        self.table.grad += ops.embedding_backward(dy, self.recall())


class Attention(Module):
    """x + out(attention over all pixels of the normalized x). x (N, H, W, C) -> the same shape"""

    def __init__(self, rng, C, heads, groups):
        self.norm = GroupNorm(C, groups)
        self.query, self.key, self.value = Linear(rng, C, C), Linear(rng, C, C), Linear(rng, C, C)
        self.out = Linear(rng, C, C, scale=NEAR_ZERO)
        self.heads = heads

    def forward(self, x):
        h = self.norm.forward(x).reshape(len(x), -1, x.shape[-1])            # (N, L, C)
        q, k, v = self.query.forward(h), self.key.forward(h), self.value.forward(h)
        h = self.remember(ops.attention(q, k, v, self.heads))
        return ops.add(x, self.out.forward(h).reshape(x.shape))

    def backward(self, dy):
        dh = self.out.backward(dy.reshape(len(dy), -1, dy.shape[-1]))
        dq, dk, dv = ops.attention_backward(dh, self.recall())
        dh = ops.add(ops.add(self.query.backward(dq), self.key.backward(dk)), self.value.backward(dv))
        return ops.add(dy, self.norm.backward(dh.reshape(dy.shape)))


class ResBlock(Module):
    """Two convolutions with the time embedding between them, and a shortcut around both.

    x (N, H, W, C), temb (N, D), already activated -> (N, H, W, K)
    """

    def __init__(self, rng, C, K, D, dropout, groups):
        self.norm1, self.conv1 = GroupNormSiLU(C, groups), Conv2dAdd(rng, C, K)
        self.time = Linear(rng, D, K)
        self.norm2, self.dropout = GroupNormSiLU(K, groups), Dropout(dropout)
        self.conv2 = Conv2dAdd(rng, K, K, scale=NEAR_ZERO)
        self.shortcut = Linear(rng, C, K) if C != K else None

    def forward(self, x, temb, rng=None):
        h = self.conv1.forward(self.norm1.forward(x), self.time.forward(temb)[:, None, None])
        h = self.dropout.forward(self.norm2.forward(h), rng)
        return self.conv2.forward(h, self.shortcut.forward(x) if self.shortcut else x)

    def backward(self, dy):
        """Returns dx (N, H, W, C) and dtemb (N, D)."""
        dh, dshortcut = self.conv2.backward(dy)
        dh, dtime = self.conv1.backward(self.norm2.backward(self.dropout.backward(dh)))
        dx = self.shortcut.backward(dshortcut) if self.shortcut else dshortcut
        return ops.add(dx, self.norm1.backward(dh)), self.time.backward(dtime[:, 0, 0])
