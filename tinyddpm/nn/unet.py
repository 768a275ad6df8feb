"""The U-Net of the paper (its appendix B), which predicts the noise in an image."""

import itertools
from dataclasses import dataclass

import numpy as np

from tinyddpm import ops
from tinyddpm.backend import from_numpy, generator, state, to_numpy
from tinyddpm.nn.layers import NEAR_ZERO, Attention, Conv2d, Embedding, GroupNormSiLU, Linear, Operation, ResBlock
from tinyddpm.nn.module import Module

LARGEST, MOST_BLOCKS = 2**16, 64        # of the numbers in a configuration, and of its blocks_per_level


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net. The defaults are the paper's CIFAR10 model.

    Level l works at resolution image_size / patch_size / 2^l with base_channels channel_multipliers[l]
    channels. attention_resolutions are those at which attention follows each residual block.
    num_classes adds a label's embedding to that of time; class num_classes stands for "no label".
    learned_variance doubles the output channels: [prediction, variance].
    patch_size p folds p x p pixels into the channels first: p^2 times fewer positions to work on.
    """

    image_size: int = 32
    image_channels: int = 3
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks_per_level: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    heads: int = 1
    dropout: float = 0.1
    groups: int = 32
    num_classes: int | None = None
    learned_variance: bool = False
    patch_size: int = 1

    def __post_init__(self):
        def refuse(what):
            raise ValueError(f"UNetConfig: {what}")

        for name in ("image_size", "image_channels", "base_channels", "blocks_per_level", "heads", "groups",
                     "patch_size"):
            if not 1 <= getattr(self, name) <= LARGEST:
                refuse(f"{name} is {getattr(self, name)}; expected 1 to {LARGEST:,}")
        if self.blocks_per_level > MOST_BLOCKS:
            refuse(f"blocks_per_level is {self.blocks_per_level}; expected 1 to {MOST_BLOCKS}")
        for name in ("channel_multipliers", "attention_resolutions"):
            if not isinstance(getattr(self, name), tuple):
                refuse(f"{name} is {getattr(self, name)!r}; expected a tuple of integers")
        if not self.channel_multipliers or not all(1 <= m <= LARGEST for m in self.channel_multipliers):
            refuse(f"channel_multipliers is {self.channel_multipliers}; expected at least one, each 1 to {LARGEST:,}")
        if not 0 <= self.dropout < 1:
            refuse(f"dropout is {self.dropout}; expected 0 <= dropout < 1")
        if self.num_classes is not None and not 1 <= self.num_classes <= LARGEST:
            refuse(f"num_classes is {self.num_classes}; expected 1 to {LARGEST:,}, or None for no labels")
        factor = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        if self.image_size % factor:
            refuse(f"image_size is {self.image_size}; {len(self.channel_multipliers)} levels and patch_size "
                   f"{self.patch_size} need a multiple of {factor}")
        if self.base_channels % self.groups or self.base_channels % self.heads:
            refuse(f"base_channels is {self.base_channels}; expected a multiple of groups ({self.groups}) "
                   f"and of heads ({self.heads})")
        if self.base_channels < 4 or self.base_channels % 2:
            refuse(f"base_channels is {self.base_channels}; the time embedding needs an even number, at least 4")

    @property
    def resolutions(self):
        """Of the levels, from the top of the U down."""
        return [self.image_size // self.patch_size >> level for level in range(len(self.channel_multipliers))]

    @property
    def shape(self):
        """The shape of a sample."""
        return self.image_size, self.image_size, self.image_channels

    @property
    def least_parameters(self):
        """A number that the parameters exceed, known without building the network: those of the largest layers."""
        base, folded = self.base_channels, self.patch_size**2 * self.image_channels
        blocks = (2 * self.blocks_per_level + 1) * sum(9 * (base * m)**2 for m in self.channel_multipliers)
        return blocks + 4 * base * (4 * base + (self.num_classes or 0)) + 9 * folded * base


# The parts on both sides of the U share one signature: forward(x, skips, temb, rng) -> h and
# backward(dy, dskips, dtembs) -> dx. On the way down a part appends its output to skips; on the way up a block takes
# the last one. backward passes their gradients on in dskips, and collects those of temb, one per block, in dtembs.

class Block(Module):
    """A residual block, followed by attention at the resolutions that have it."""

    def __init__(self, rng, C, K, attention, config):
        self.res = ResBlock(rng, C, K, 4 * config.base_channels, config.dropout, config.groups)
        self.attention = Attention(rng, K, config.heads, config.groups) if attention else None

    def forward(self, x, skips, temb, rng):
        h = self.res.forward(x, temb, rng)
        return self.attention.forward(h) if self.attention else h

    def backward(self, dy, dskips, dtembs):
        dx, dtemb = self.res.backward(self.attention.backward(dy) if self.attention else dy)
        dtembs.append(dtemb)
        return dx


class DownBlock(Block):
    """A block on the way down: its output is also a skip connection."""

    def forward(self, x, skips, temb, rng):
        skips.append(super().forward(x, skips, temb, rng))
        return skips[-1]

    def backward(self, dy, dskips, dtembs):
        return super().backward(ops.add(dy, dskips.pop()), dskips, dtembs)


class Downsample(Conv2d):
    """Halve the resolution, on the way down: a 3x3 convolution of stride 2, padded at the bottom and the right only."""

    def __init__(self, rng, C):
        super().__init__(rng, C, C, stride=2, padding=(0, 1))

    def forward(self, x, skips, temb, rng):
        skips.append(super().forward(x))
        return skips[-1]

    def backward(self, dy, dskips, dtembs):
        return super().backward(ops.add(dy, dskips.pop()))


class UpBlock(Block):
    """A block on the way up: it concatenates a skip connection to its input."""

    def forward(self, x, skips, temb, rng):
        return super().forward(self.remember(ops.concatenate(x, skips.pop())), skips, temb, rng)

    def backward(self, dy, dskips, dtembs):
        dx, dskip = ops.concatenate_backward(super().backward(dy, dskips, dtembs), self.recall())
        dskips.append(dskip)
        return dx


class Upsample(Conv2d):
    """Double the resolution, on the way up: every pixel becomes a 2x2 square, and a 3x3 convolution follows."""

    def __init__(self, rng, C):
        super().__init__(rng, C, C)
        self.nearest = Operation("upsample")

    def forward(self, x, skips, temb, rng):
        return super().forward(self.nearest.forward(x))

    def backward(self, dy, dskips, dtembs):
        return self.nearest.backward(super().backward(dy))


class UNet(Module):
    """y = forward(x, t, labels): x (N, H, W, C) noisy images, t (N,) times 1..T, y like x."""

    def __init__(self, config, seed=0, dtype=np.float32):
        self.config = config
        rng = np.random.default_rng(seed)
        self.rng = generator(seed, "dropout")
        base, levels = config.base_channels, range(len(config.channel_multipliers))
        widths = [base * m for m in config.channel_multipliers]
        attention = [resolution in config.attention_resolutions for resolution in config.resolutions]
        folded = config.patch_size**2

        self.time0, self.time_silu = Linear(rng, base, 4 * base), Operation("silu")
        self.time1, self.temb_silu = Linear(rng, 4 * base, 4 * base), Operation("silu")
        if config.num_classes is not None:
            self.labels = Embedding(rng, config.num_classes + 1, 4 * base)

        self.patchify, self.unpatchify = (Operation(name, config.patch_size) for name in ("patchify", "unpatchify"))
        self.widen = Operation("widen")
        self.conv_in = Conv2d(rng, folded * config.image_channels, base)
        C, skips = base, [base]                              # skips: the channels of every skip connection
        self.down = [[] for _ in levels]
        for level in levels:
            for _ in range(config.blocks_per_level):
                self.down[level].append(DownBlock(rng, C, widths[level], attention[level], config))
                C = widths[level]
                skips.append(C)
            if level != levels[-1]:
                self.down[level].append(Downsample(rng, C))
                skips.append(C)

        self.middle = [Block(rng, C, C, True, config), Block(rng, C, C, False, config)]

        self.up = [[] for _ in levels]
        for level in reversed(levels):
            for _ in range(config.blocks_per_level + 1):
                self.up[level].append(UpBlock(rng, C + skips.pop(), widths[level], attention[level], config))
                C = widths[level]
            if level != 0:
                self.up[level].append(Upsample(rng, C))

        self.norm_out = GroupNormSiLU(C, config.groups)
        out_channels = config.image_channels * (2 if config.learned_variance else 1)
        self.conv_out = Conv2d(rng, C, folded * out_channels, scale=NEAR_ZERO)
        self.flatten(dtype)

    def forward(self, x, t, labels=None, rng=None):
        """Predict the noise in x. rng draws the dropout masks in training mode (default: the model's own).

        Raises ValueError for shapes, times or labels that do not fit the configuration.
        """
        t = to_numpy(t)
        labels = self._check(x, t, labels)
        classes = () if labels is None else (from_numpy(labels),)
        return state.run(self._forward, rng or self.rng, x, from_numpy(t), *classes)

    def backward(self, dy):
        """dy like y -> dx like x."""
        return state.run(self._backward, dy)

    def _forward(self, rng, x, t, labels=None):
        temb = ops.time_embedding(t, self.config.base_channels, x.dtype)
        temb = self.time1.forward(self.time_silu.forward(self.time0.forward(temb)))
        if labels is not None:
            temb = temb + self.labels.forward(labels)
        temb = self.temb_silu.forward(temb)

        h = self.conv_in.forward(self.remember(ops.narrow(self.patchify.forward(x), self.flat_values)))
        skips = [h]
        for part in self.path():
            h = part.forward(h, skips, temb, rng)
        return self.unpatchify.forward(self.widen.forward(self.conv_out.forward(self.norm_out.forward(h))))

    def _backward(self, dy):
        """The forward in reverse; dtemb is the sum of all blocks' contributions."""
        dh = self.norm_out.backward(self.conv_out.backward(self.widen.backward(self.unpatchify.backward(dy))))
        dskips, dtembs = [], []
        for part in reversed(self.path()):
            dh = part.backward(dh, dskips, dtembs)
        dx = self.conv_in.backward(ops.add(dh, dskips.pop()))
        dx = self.patchify.backward(ops.narrow_backward(dx, self.recall()))

        dtemb = self.temb_silu.backward(sum(dtembs))
        if self.config.num_classes is not None:
            self.labels.backward(dtemb)
        self.time0.backward(self.time_silu.backward(self.time1.backward(dtemb)))
        return dx

    def path(self):
        """The parts from the top of the U down to the middle and up again, in the order of forward."""
        return [*itertools.chain(*self.down), *self.middle, *itertools.chain(*reversed(self.up))]

    def _check(self, x, t, labels):
        """Return the labels to use ("no label" if none are given). Raise ValueError for arguments that do not fit."""
        c, N = self.config, len(x)
        expected = (N, *c.shape)
        if x.shape != expected:
            raise ValueError(f"UNet: x is {x.shape}; expected {expected}, (N, H, W, C)")
        if t.shape != (N,) or t.dtype.kind not in "iuf" or N and not 1 <= t.min() <= t.max() < np.inf:
            raise ValueError(f"UNet: t is {t!r}; expected {N} times, counted from 1")
        if c.num_classes is None:
            if labels is not None:
                raise ValueError("UNet: labels were given to a model without classes (num_classes is None)")
            return None
        labels = np.full(N, c.num_classes) if labels is None else np.asarray(labels)
        if (labels.shape != (N,) or labels.dtype.kind not in "iu"
                or N and not 0 <= labels.min() <= labels.max() <= c.num_classes):
            raise ValueError(f"UNet: labels are {labels!r}; expected {N} integers 0..{c.num_classes} "
                             f"({c.num_classes} stands for no label)")
        return labels
