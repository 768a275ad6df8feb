"""Lesson 9: the U-Net.

    python lessons/09_unet/lesson.py [--quick]
"""

import sys
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
from tinyddpm.nn.unet import Downsample, Upsample

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
    print(f"a whole U-Net, {len(model.parameters())} arrays: relative error {gradcheck.check_network(model, x, t):.0e}")
    print(f"the forward written out differs by {np.abs(forward(model, x, t) - model.forward(x, t)).max():.0e}")

    paper = UNet(UNetConfig())
    print(f"the paper's network: {paper.flat_values.size:,} parameters in {len(paper.parameters())} arrays")
    counts = {part: sum(p.value.size for name, p in paper.parameters().items() if name.split(".")[0] == part)
              for part in ("down", "middle", "up")}
    counts["others"] = paper.flat_values.size - sum(counts.values())
    print(", ".join(f"{part} {n:,}" for part, n in counts.items()))
    output = UNet(SMALL, dtype=np.float64).forward(rng.standard_normal((1, 8, 8, 1)), np.array([5]))
    print(f"untrained, its output is {np.abs(output).max():.0e}: the last convolution starts near zero")
    lesson.draw("figure_unet.png", diagrams.unet, size=(9, 4.2))
    embedded = ops.time_embedding(np.arange(1, 1001), 128)
    others = ", ".join(f"{embedded[499] @ embedded[t - 1]:.1f} (t = {t})" for t in (500, 505, 900))
    print(f"the vector of t = 500 times others: {others}")
    lesson.draw("figure_time.png", diagrams.heat, embedded.T, "t", "component", size=(7, 3))

    pictures = {}
    for name, m in {"one resolution": (1,), "three resolutions": (1, 2, 2)}.items():
        model = UNet(replace(SMALL, image_size=32, channel_multipliers=m, attention_resolutions=()), 0, np.float64)
        model.flat_values[...] += 0.1 * np.random.default_rng(1).standard_normal(model.flat_values.size)
        model.middle[0].attention = None                 # which would let every pixel reach every other
        pixels = reach(model) / reach(model).max()
        pictures[name] = np.log10(pixels + 1e-6)
        print(f"{name}: {np.mean(pixels > 0.05):.0%} of the input's pixels move the middle of the output")
    lesson.row("figure_reach.png", pictures, (6, 3), low=-4, high=0)

    # A small U-Net trained with its skips and with zeros in their place: what it makes of noisy digits
    tinyddpm.use("auto")
    preset, (images, _) = course.paper(lesson.quick, base_channels=16, groups=4), course.digits()
    steps, s, x0 = 5 if lesson.quick else 400, preset.diffusion.make_schedule(), data.scaled(images[:6])
    t = np.full(6, s.T * 3 // 10)
    xt = process.q_sample(s, x0, t, rng.standard_normal(x0.shape, dtype=np.float32))
    rows = {"digits": x0, "noisy": xt}
    join, cut = ops.concatenate, ops.concatenate_backward
    for name, keep in (("with skips", 1), ("without", 0)):
        ops.concatenate = lambda x, skip: join(x, keep * skip)
        ops.concatenate_backward = lambda dy, cache: [k * d for k, d in zip((1, keep), cut(dy, cache))]
        trainer, losses = course.train(preset, images, steps)
        rows[name] = np.clip(process.x0_from_eps(s, xt, t, trainer.model.eval().forward(xt, t)), -1, 1)
        print(f"trained {name}: {steps} steps, mean loss of the last tenth {np.mean(losses[-steps // 10:]):.3f}")
    lesson.rows("figure_wrong.png", rows, size=(6, 4.3))
    lesson.end()


if __name__ == "__main__":
    course.program(main)
