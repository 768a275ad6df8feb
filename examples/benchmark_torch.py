"""The same U-Net in plain PyTorch, for benchmark.py to compare with."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from tinyddpm.nn.layers import NORM_EPS


def near_zero(layer):
    """The layer, initialized as ours are that end a block or the network."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ResBlock(nn.Module):
    def __init__(self, C, K, D, c):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(c.groups, C, NORM_EPS), nn.Conv2d(C, K, 3, padding=1)
        self.time = nn.Linear(D, K)
        self.norm2, self.dropout = nn.GroupNorm(c.groups, K, NORM_EPS), nn.Dropout(c.dropout)
        self.conv2 = near_zero(nn.Conv2d(K, K, 3, padding=1))
        self.shortcut = nn.Conv2d(C, K, 1) if C != K else nn.Identity()

    def forward(self, x, temb):
        h = self.conv1(F.silu(self.norm1(x))) + self.time(temb)[:, :, None, None]
        return self.conv2(self.dropout(F.silu(self.norm2(h)))) + self.shortcut(x)


class Attention(nn.Module):
    def __init__(self, C, c):
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(c.groups, C, NORM_EPS), c.heads
        self.qkv, self.out = nn.Conv2d(C, 3 * C, 1), near_zero(nn.Conv2d(C, C, 1))

    def forward(self, x):
        N, C, H, W = x.shape
        q, k, v = (z.reshape(N, self.heads, -1, H * W).transpose(2, 3) for z in self.qkv(self.norm(x)).chunk(3, 1))
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(N, C, H, W))


class Block(nn.Module):
    def __init__(self, C, K, attention, c):
        super().__init__()
        self.res = ResBlock(C, K, 4 * c.base_channels, c)
        self.attention = Attention(K, c) if attention else nn.Identity()

    def forward(self, x, temb):
        return self.attention(self.res(x, temb))


class UNet(nn.Module):
    """The network that a UNetConfig describes; x (N, C, H, W), t (N,) counted from 1, labels (N,) if it has classes."""

    def __init__(self, c):
        super().__init__()
        self.config, base, levels = c, c.base_channels, range(len(c.channel_multipliers))
        widths, resolution = [base * m for m in c.channel_multipliers], c.image_size // c.patch_size
        attention = [resolution >> level in c.attention_resolutions for level in levels]
        self.register_buffer("frequency", torch.logspace(0, -4, base // 2))      # for torch.compile to know its device
        self.time = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        self.labels = nn.Embedding(c.num_classes + 1, 4 * base) if c.num_classes else None
        folded = c.image_channels * c.patch_size**2
        self.conv_in = nn.Conv2d(folded, base, 3, padding=1)
        C, skips, self.down, self.up = base, [base], nn.ModuleList(), nn.ModuleList()
        for level in levels:
            for _ in range(c.blocks_per_level):
                self.down.append(Block(C, widths[level], attention[level], c))
                C = widths[level]
            skips += [C] * (c.blocks_per_level + (level != levels[-1]))
            if level != levels[-1]:
                self.down.append(nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(C, C, 3, stride=2)))
        self.middle = nn.ModuleList([Block(C, C, True, c), Block(C, C, False, c)])
        for level in reversed(levels):
            for _ in range(c.blocks_per_level + 1):
                self.up.append(Block(C + skips.pop(), widths[level], attention[level], c))
                C = widths[level]
            if level:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(C, C, 3, padding=1)))
        self.out = nn.Sequential(nn.GroupNorm(c.groups, C, NORM_EPS), nn.SiLU(),
                                 near_zero(nn.Conv2d(C, folded, 3, padding=1)))

    def forward(self, x, t, labels=None):
        angles = (t - 1)[:, None] * self.frequency
        temb = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        temb = F.silu(temb if labels is None else temb + self.labels(labels))
        h = self.conv_in(F.pixel_unshuffle(x, self.config.patch_size))
        skips = [h]
        for module in self.down:
            skips.append(h := module(h, temb) if isinstance(module, Block) else module(h))
        h = self.middle[1](self.middle[0](h, temb), temb)
        for module in self.up:
            h = module(torch.cat([h, skips.pop()], 1), temb) if isinstance(module, Block) else module(h)
        return F.pixel_shuffle(self.out(h), self.config.patch_size)
