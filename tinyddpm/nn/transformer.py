"""A transformer (Vaswani et al. 2017) that sees a whole text at once, and neighbouring letters without attention."""

from dataclasses import dataclass

import numpy as np

from tinyddpm import ops
from tinyddpm.backend import array_module, from_numpy, generator, to_numpy
from tinyddpm.nn.layers import NEAR_ZERO, Attention, Dropout, GroupNorm, GroupNormSiLU, Linear, Operation
from tinyddpm.nn.module import Module, Parameter

LARGEST = 2**16
REACH = 3               # letters on each side that a position sees without attention


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a transformer: `length` positions with `channels` numbers each, in and out, and `width` within."""

    length: int = 64
    channels: int = 64
    width: int = 128
    layers: int = 3
    heads: int = 4
    groups: int = 8
    dropout: float = 0.0
    num_classes = None                  # it has neither classes nor a learned variance
    learned_variance = False

    def __post_init__(self):
        for name in ("length", "channels", "width", "layers", "heads", "groups"):
            if not 1 <= getattr(self, name) <= LARGEST:
                raise ValueError(f"TransformerConfig: {name} is {getattr(self, name)}; expected 1 to {LARGEST:,}")
        if self.width % self.heads or self.width % self.groups or self.width % 2 or self.width < 4:
            raise ValueError(f"TransformerConfig: width is {self.width}; expected an even number, at least 4, and a "
                             f"multiple of heads ({self.heads}) and groups ({self.groups})")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"TransformerConfig: dropout is {self.dropout}; expected 0 <= dropout < 1")

    @property
    def shape(self):
        """The shape of a sample, as the network sees it."""
        return self.length, self.channels

    @property
    def least_parameters(self):
        """A number that the parameters exceed, known without building the network."""
        return self.width * ((2 * REACH + 2) * self.channels + self.length) + 12 * self.layers * self.width**2


class Neighbours(Module):
    """Each position beside those up to REACH before and after it; zeros beyond the ends. (N, L, C) -> (N, L, 7 C)"""

    def forward(self, x):
        wide, L = array_module(x).pad(x, ((0, 0), (REACH, REACH), (0, 0))), x.shape[1]
        return array_module(x).concatenate([wide[:, i:i + L] for i in range(2 * REACH + 1)], axis=2)

    def backward(self, dy):
        N, L, C = dy.shape[0], dy.shape[1], dy.shape[2] // (2 * REACH + 1)
        dwide = array_module(dy).zeros((N, L + 2 * REACH, C), dy.dtype)
        for i in range(2 * REACH + 1):
            dwide[:, i:i + L] += dy[:, :, i * C:(i + 1) * C]
        return dwide[:, REACH:REACH + L]


class Position(Module):
    """A learned vector for each position, and one for the time, added to all. h (N, L, C), temb (N, C)"""

    def __init__(self, rng, length, C):
        self.table = Parameter(ops.time_embedding(np.arange(length) + 1, C, np.float64))

    def forward(self, h, temb):
        return h + self.table.value + temb[:, None]

    def backward(self, dy):
        """Returns dh and dtemb."""
        self.table.grad += dy.sum(axis=0)
        return dy, dy.sum(axis=1)


class Feedforward(Module):
    """x + W2 silu(W1 norm(x)), for each position. x (N, L, C) -> the same shape"""

    def __init__(self, rng, C, groups, dropout):
        self.norm, self.silu = GroupNorm(C, groups), Operation("silu")
        self.first, self.second = Linear(rng, C, 4 * C), Linear(rng, 4 * C, C, scale=NEAR_ZERO)
        self.dropout = Dropout(dropout)

    def forward(self, x, rng):
        h = self.silu.forward(self.first.forward(self.norm.forward(x)))
        return ops.add(x, self.second.forward(self.dropout.forward(h, rng)))

    def backward(self, dy):
        dh = self.silu.backward(self.dropout.backward(self.second.backward(dy)))
        return ops.add(dy, self.norm.backward(self.first.backward(dh)))


class Transformer(Module):
    """y = forward(x, t): x (N, L, C) sequences, t (N,) times 1..T, y like x.

    On a GPU its arrays stay in float32; tf32, bf16 and fp16 narrow the operands of its products only.
    """

    def __init__(self, config, seed=0, dtype=np.float32):
        self.config, rng, C = config, np.random.default_rng(seed), config.width
        self.rng = generator(seed, "dropout")
        self.time = Linear(rng, C, C)
        seen = (2 * REACH + 1) * config.channels
        self.neighbours = Neighbours()
        self.first = Linear(rng, seen, C, scale=(seen + C) / 2 / (2 * REACH + 1))   # one-hot in, variance 1 out
        self.position = Position(rng, config.length, C)
        self.attention = [Attention(rng, C, config.heads, config.groups) for _ in range(config.layers)]
        self.feedforward = [Feedforward(rng, C, config.groups, config.dropout) for _ in range(config.layers)]
        self.norm = GroupNormSiLU(C, config.groups)
        self.last = Linear(rng, C, config.channels, scale=NEAR_ZERO)
        self.flatten(dtype)

    def forward(self, x, t, labels=None, rng=None):
        """rng draws the dropout masks in training mode (default: the model's own).

        Raises ValueError for shapes that do not fit the configuration, and for labels, which it does not know.
        """
        t, c = to_numpy(t), self.config
        if labels is not None:
            raise ValueError("Transformer: labels were given to a model without classes")
        if x.shape != (len(x), *c.shape) or t.shape != (len(x),):
            raise ValueError(f"Transformer: x is {x.shape}, t {t.shape}; expected (N, {c.length}, {c.channels}) and "
                             "(N,)")
        if t.dtype.kind not in "iuf" or len(t) and not 0 < t.min() <= t.max() < np.inf:
            raise ValueError(f"Transformer: t is {t!r}; expected times, counted from 1")
        temb = self.time.forward(ops.time_embedding(from_numpy(t), c.width, x.dtype))
        h = self.position.forward(self.first.forward(self.neighbours.forward(x)), temb)
        for attention, feedforward in zip(self.attention, self.feedforward):
            h = feedforward.forward(attention.forward(h), rng or self.rng)
        return self.last.forward(self.norm.forward(h))

    def backward(self, dy):
        """dy like y -> dx like x"""
        dh = self.norm.backward(self.last.backward(dy))
        for attention, feedforward in zip(reversed(self.attention), reversed(self.feedforward)):
            dh = attention.backward(feedforward.backward(dh))
        dh, dtemb = self.position.backward(dh)
        self.time.backward(dtemb)
        return self.neighbours.backward(self.first.backward(dh))
