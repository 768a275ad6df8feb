"""Lesson 9: the U-Net.

    python lessons/09_unet/lesson.py [--quick]
"""

import itertools
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course
import diagrams

import tinyddpm
from tinyddpm import data, gradcheck, ops
from tinyddpm.diffusion import process
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.nn.layers import Conv2d, Conv2dAdd, GroupNormSiLU, Linear
from tinyddpm.nn.module import Module
from tinyddpm.nn.unet import Downsample, UpBlock, Upsample
from tinyddpm.training import Trainer

SMALL = UNetConfig(image_size=8, image_channels=1, base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1,
                   attention_resolutions=(4,), groups=4, dropout=0.0)


class Block(Module):
    """The paper's residual block, without dropout."""

    def __init__(self, rng, C, K, D, groups):
        self.norm1, self.conv1 = GroupNormSiLU(C, groups), Conv2dAdd(rng, C, K)
        self.time = Linear(rng, D, K)
        self.norm2, self.conv2 = GroupNormSiLU(K, groups), Conv2dAdd(rng, K, K)
        self.shortcut = Linear(rng, C, K)
        self.flatten(np.float64)

    def forward(self, x, temb):
        h = self.norm1.forward(x)
        h = self.conv1.forward(h, self.time.forward(temb)[:, None, None])   # + time
        h = self.norm2.forward(h)
        return self.conv2.forward(h, self.shortcut.forward(x))              # + shortcut

    def backward(self, dy):
        dh, dshortcut = self.conv2.backward(dy)         # the forward, read upwards
        dh = self.norm2.backward(dh)
        dh, dtime = self.conv1.backward(dh)
        dx = self.norm1.backward(dh) + self.shortcut.backward(dshortcut)    # two paths
        self.dtemb = self.time.backward(dtime[:, 0, 0])
        return dx


def block(part, x, temb):
    """A residual block, and attention where this resolution has it."""
    h = part.res.forward(x, temb)
    return part.attention.forward(h) if part.attention else h


def forward(model, x, t):
    """A U-Net from x_t and t to the noise; model.forward(x, t) does the same."""
    temb = ops.time_embedding(t, model.config.base_channels, x.dtype)
    temb, _ = ops.silu(model.time0.forward(temb))           # _ is the cache
    temb, _ = ops.silu(model.time1.forward(temb))
    h = model.conv_in.forward(x)
    skips = [h]
    for level in model.down:                # for each resolution a list of its parts
        for part in level:
            if isinstance(part, Downsample):
                h = Conv2d.forward(part, h)                 # stride 2
            else:
                h = block(part, h, temb)
            skips.append(h)
    for part in model.middle:
        h = block(part, h, temb)
    for level in reversed(model.up):
        for part in level:
            if isinstance(part, Upsample):
                h = Conv2d.forward(part, part.nearest.forward(h))
            else:
                h = block(part, np.concatenate([h, skips.pop()], axis=-1), temb)
    return model.conv_out.forward(model.norm_out.forward(h))


def reach(model):
    """How much each input pixel moves the middle pixel of the output: the size of the gradient, (32, 32)."""
    x, dy = np.random.default_rng(0).standard_normal((4, 32, 32, 1)), np.zeros((4, 32, 32, 1))
    dy[:, 16, 16] = 1
    model.forward(x, np.full(4, 500))
    return np.abs(model.backward(dy)).mean(axis=(0, 3))


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(9)
    own, x, temb = Block(rng, 4, 8, 6, 4), rng.standard_normal((2, 5, 4, 4)), rng.standard_normal((2, 6))
    print(f"a residual block: largest relative error {gradcheck.check_network(own, x, temb):.0e}")
    own.shortcut.backward = lambda dy: 0
    error = course.caught(gradcheck.check_network, own, x, temb).split(" along")[0]
    print(f"negative control, the shortcut's gradient forgotten: caught, at {error}")

    model = UNet(SMALL, dtype=np.float64)
    model.flat_values[...] = 0.3 * rng.standard_normal(model.flat_values.size)
    x, t = rng.standard_normal((2, 8, 8, 1)), np.array([3, 700])
    error, difference = gradcheck.check_network(model, x, t), np.abs(forward(model, x, t) - model.forward(x, t)).max()
    print(f"a whole U-Net, {len(model.parameters())} arrays: largest relative error {error:.0e}")
    print(f"the forward written out against the library's: {difference:.0e}")

    paper, counts = UNet(UNetConfig()), Counter()
    for name, parameter in paper.parameters().items():
        counts[name.split(".")[0]] += parameter.value.size
    assert sum(counts.values()) == 35_746_307
    print(f"the paper's network: {sum(counts.values()):,} parameters in {len(paper.parameters())} arrays")
    print(", ".join(f"{part} {counts.pop(part):,}" for part in ("down", "middle", "up")) + f", others {sum(counts.values()):,}")
    fresh, shown = UNet(SMALL, dtype=np.float64), rng.standard_normal((1, 8, 8, 1))
    print(f"untrained, its output is {np.abs(fresh.forward(shown, np.array([5]))).max():.0e}: the last convolution starts near zero")

    embedded = ops.time_embedding(np.arange(1, 1001), 128)
    products = ", ".join(f"{embedded[499] @ embedded[t - 1]:.1f} (t = {t})" for t in (500, 505, 900))
    print(f"the vector of t = 500 times others: {products}")

    figure, (left, right) = lesson.figure(1, 2, size=(9, 3))
    figure.colorbar(left.imshow(embedded.T, aspect="auto", cmap="RdBu"))
    left.grid(False)
    left.set(xlabel="t", ylabel="component", title="time embedding: 64 sines, 64 cosines")
    right.plot(embedded @ embedded[499])
    right.set(xlabel="t", ylabel="inner product", title="with the vector of t = 500")
    lesson.save(figure, "figure_time.png")

    lesson.draw("figure_unet.png", diagrams.unet, size=(9, 4.2))

    figure, axes = lesson.figure(1, 2, size=(7, 2.9))
    for ax, (name, multipliers) in zip(axes, {"one resolution": (1,), "three resolutions": (1, 2, 2)}.items()):
        model = UNet(replace(SMALL, image_size=32, channel_multipliers=multipliers, attention_resolutions=()), dtype=np.float64)
        model.flat_values[...] += 0.1 * np.random.default_rng(1).standard_normal(model.flat_values.size)
        model.middle[0].attention = None                 # which would let every pixel reach every other
        pixels = reach(model)
        print(f"{name}: {np.mean(pixels > 0.05 * pixels.max()):.0%} of the input's pixels move the middle of the output")
        picture = ax.imshow(np.log10(pixels / pixels.max() + 1e-6), cmap="magma", vmin=-6)
        ax.set_title(name, loc="center")
        ax.set_axis_off()
    figure.colorbar(picture, ax=axes, label="log10 of the share of the largest")
    lesson.save(figure, "figure_reach.png")

    # A small U-Net trained with its skips and with zeros in their place: what it makes of noisy digits
    tinyddpm.use("auto")
    images, _ = course.digits()
    preset = course.paper(lesson.quick, base_channels=16, groups=4)
    steps, s, x0 = 5 if lesson.quick else 400, preset.diffusion.make_schedule(), data.scaled(images[:6])
    t, dataset = np.full(6, s.T * 3 // 10), data.Dataset(images)
    xt = process.q_sample(s, x0, t, rng.standard_normal(x0.shape, dtype=np.float32))
    rows = {"digits": x0, "noisy": xt}
    for name in ("with skips", "without"):
        trainer = Trainer(preset.override(steps=steps))
        for part in trainer.model.path() if name == "without" else []:
            if not isinstance(part, UpBlock):
                continue
            part.forward = lambda x, skips, temb, rng, own=part.forward: own(x, [0 * skips.pop()], temb, rng)
            part.backward = lambda dy, dskips, dtembs, own=part.backward: (
                own(dy, dskips, dtembs), dskips.append(0 * dskips.pop()))[0]
        losses = [trainer.step(*dataset.batch(step, preset.training.batch_size, 0)) for step in range(steps)]
        rows[name] = np.clip(process.x0_from_eps(s, xt, t, trainer.model.eval().forward(xt, t)), -1, 1)
        print(f"trained {name}: {steps} steps, mean loss of the last tenth {np.mean(losses[-steps // 10:]):.3f}")
    lesson.rows("figure_wrong.png", rows, size=(6, 4.3))
    lesson.end()


if __name__ == "__main__":
    course.program(main)
