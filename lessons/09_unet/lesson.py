"""Lesson 9: the U-Net.

    python lessons/09_unet/lesson.py [--quick]
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

from tinyddpm import gradcheck, ops
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.nn.layers import Conv2dAdd, GroupNormSiLU, Linear
from tinyddpm.nn.module import Module

SMALL = UNetConfig(image_size=8, image_channels=1, base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1, attention_resolutions=(4,),
                   groups=4, dropout=0.0)


class Block(Module):
    """The residual block of the paper without dropout: x + conv(norm(conv(norm(x)) + time)), channels from C to K."""

    def __init__(self, rng, C, K, D, groups):
        self.norm1, self.conv1 = GroupNormSiLU(C, groups), Conv2dAdd(rng, C, K)
        self.time = Linear(rng, D, K)
        self.norm2, self.conv2 = GroupNormSiLU(K, groups), Conv2dAdd(rng, K, K)
        self.shortcut = Linear(rng, C, K)
        self.flatten(np.float64)

    def forward(self, x, temb):
        h = self.norm1.forward(x)
        h = self.conv1.forward(h, self.time.forward(temb)[:, None, None])    # the time, added to every pixel
        h = self.norm2.forward(h)
        return self.conv2.forward(h, self.shortcut.forward(x))               # and the shortcut around it all

    def backward(self, dy):
        dh, dshortcut = self.conv2.backward(dy)                              # the forward, read upwards
        dh = self.norm2.backward(dh)
        dh, dtime = self.conv1.backward(dh)
        dx = self.norm1.backward(dh) + self.shortcut.backward(dshortcut)     # x was used twice: add
        self.dtemb = self.time.backward(dtime[:, 0, 0])
        return dx


def stage(name):
    """Which row of the table a parameter belongs to."""
    part, *rest = name.split(".")
    if part in ("down", "up"):
        return f"{part} {rest[0]}"
    return {"time0": "time", "time1": "time", "norm_out": "out", "conv_out": "out"}.get(part, part)


def reach(config, model, t):
    """How much each input pixel moves the middle pixel of the output: the gradient's size. (H, W)"""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, config.image_size, config.image_size, config.image_channels))
    y = model.forward(x, np.full(4, t))
    dy = np.zeros_like(y)
    dy[:, config.image_size // 2, config.image_size // 2] = 1
    return np.abs(model.backward(dy)).mean(axis=(0, 3))


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(9)
    block = Block(rng, 4, 8, 6, 4)
    temb = rng.standard_normal((2, 6))
    print(f"a residual block: largest relative error {gradcheck.check_network(block, rng.standard_normal((2, 5, 4, 4)), temb):.0e}")
    right, block.shortcut.backward = block.shortcut.backward, lambda dy: 0
    try:
        gradcheck.check_network(block, rng.standard_normal((2, 5, 4, 4)), temb)
        raise SystemExit("a lost shortcut was not found")
    except AssertionError as error:
        print(f"negative control, the shortcut's gradient forgotten: caught, at {str(error).split(',')[0].split(' along')[0]}")

    model = UNet(SMALL, dtype=np.float64)
    model.flat_values[...] = 0.3 * rng.standard_normal(model.flat_values.size)
    error = gradcheck.check_network(model, rng.standard_normal((2, 8, 8, 1)), np.array([3, 700]))
    print(f"a whole U-Net, {len(model.parameters())} arrays: largest relative error {error:.0e}")

    paper = UNet(UNetConfig())
    counts = Counter()
    for name, parameter in paper.parameters().items():
        counts[stage(name)] += parameter.value.size
    for name, count in counts.items():
        print(f"the paper's, {name}: {count:,}")
    print(f"the paper's network: {sum(counts.values()):,} parameters in {len(paper.parameters())} arrays")
    assert sum(counts.values()) == 35_746_307
    fresh, shown = UNet(SMALL, dtype=np.float64), rng.standard_normal((1, 8, 8, 1))
    print(f"untrained, its output is {np.abs(fresh.forward(shown, np.array([5]))).max():.0e}: the last convolution starts near zero")

    embedded = ops.time_embedding(np.arange(1, 1001), 128)
    near, far = embedded[499] @ embedded[504], embedded[499] @ embedded[899]
    print(f"time 500 as a vector: its product with that of 505 is {near:.1f}, with that of 900 {far:.1f}")

    figure, (left, right) = lesson.figure(1, 2, size=(9, 3))
    left.imshow(embedded.T, aspect="auto", cmap="coolwarm")
    left.set(xlabel="t", ylabel="component", title="the time embedding: 64 sines, 64 cosines")
    right.plot(embedded @ embedded[499])
    right.set(xlabel="t", title="product with the vector of t = 500")
    lesson.save(figure, "figure_time.png")

    figure, axes = lesson.figure(1, 1, size=(9, 3.6))
    heights, labels = [32, 16, 8, 4], ["128", "256", "256", "256"]
    for side, (start, step) in {"down": (0, 1), "up": (8, -1)}.items():
        for level, (height, channels) in enumerate(zip(heights, labels)):
            place = start + step * level
            axes.bar(place, height, width=0.7, bottom=-height / 2, color="tab:blue" if side == "down" else "tab:orange")
            axes.text(place, height / 2 + 0.7, f"{height}x{height}, {channels}", ha="center", fontsize=8)
            if level < 4 and side == "down":
                axes.annotate("", (8 - level - 0.4, 0), (level + 0.4, 0), arrowprops={"arrowstyle": "->", "color": "0.5", "linestyle": ":",
                                                                                     "connectionstyle": f"arc3,rad={-0.45 + 0.08 * level}"})
    axes.bar(4, 4, width=0.7, bottom=-2, color="tab:green")
    axes.text(4, -4.5, "middle", ha="center", fontsize=8)
    axes.set(ylim=(-18, 23), title="down (blue), up (orange), and skips: three for each level of the way up")
    axes.set_axis_off()
    lesson.save(figure, "figure_unet.png")

    figure, axes = lesson.figure(1, 2, size=(6, 2.9))
    for ax, (name, multipliers) in zip(axes, {"one resolution": (1,), "three resolutions": (1, 2, 2)}.items()):
        config = UNetConfig(image_size=32, image_channels=1, base_channels=8, channel_multipliers=multipliers, blocks_per_level=1,
                            attention_resolutions=(), groups=4, dropout=0.0)
        model = UNet(config, dtype=np.float64)
        model.flat_values[...] += 0.1 * np.random.default_rng(1).standard_normal(model.flat_values.size)
        model.middle[0].attention = None                 # which would let every pixel reach every other
        pixels = reach(config, model, 500)
        print(f"{name}: {np.mean(pixels > 0.05 * pixels.max()):.0%} of the input's pixels move the middle of the output by 5% of the most or more")
        ax.imshow(np.log10(pixels / pixels.max() + 1e-6), cmap="magma")
        ax.set(title=name, xticks=[], yticks=[])
    lesson.save(figure, "figure_reach.png")

    # Without skips: what one channel can carry through each resolution
    images, _ = course.digits(1)
    digit = np.pad(images[0, :, :, 0] / 127.5 - 1, 2, constant_values=-1)
    figure, axes = lesson.figure(1, 4, size=(7, 2))
    for ax, size in zip(axes, (32, 16, 8, 4)):
        small = digit.reshape(size, 32 // size, size, 32 // size).mean(axis=(1, 3))
        course.show(ax, small.repeat(32 // size, axis=0).repeat(32 // size, axis=1), f"through {size} x {size}")
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
