"""The models of benchmark.py, and their layers: an operation, the shapes of its arrays, and its settings."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np

import tinyddpm
from tinyddpm import ops, presets
from tinyddpm.backend import from_numpy
from tinyddpm.nn import UNet, UNetConfig

# A small U-Net with 1.1M parameters: one channel, 32x32, attention at 16x16.
SMALL = UNetConfig(image_channels=1, base_channels=32, channel_multipliers=(1, 2, 2), blocks_per_level=1,
                   attention_resolutions=(16,), dropout=0.0)
MODELS = {"mnist": presets.get("mnist").override(num_classes=None),
          "small": replace(presets.get("cifar10"), name="small", model=SMALL).override(batch_size=64),
          "cifar10-small": presets.get("cifar10-small").override(num_classes=None),
          "cifar10": presets.get("cifar10").override(batch_size=8)}
LAYERS = ("conv2d", "conv2d_add", "group_norm", "group_norm_silu", "linear", "attention", "concatenate", "upsample")
OF_IMAGES = {"conv2d_add": (0, 3), "attention": (0, 1, 2), "concatenate": (0, 1)}        # arguments with a batch axis


def calls(config, batch):
    """The layers of one evaluation: (name, shapes, settings) -> count. Noted with one image by the readable code."""
    found, inside = Counter(), []

    def noted(name, f):
        def wrapped(*arguments):
            shapes = [a.shape for a in arguments if hasattr(a, "shape")]
            for i in OF_IMAGES.get(name, (0,)):
                shapes[i] = (batch, *shapes[i][1:])
            if not inside:                              # an operation within another belongs to that
                found[name, tuple(shapes), arguments[len(shapes):]] += 1
            inside.append(name)
            result = f(*arguments)
            inside.pop()
            return result
        return wrapped

    tinyddpm.use("numpy")
    for name in LAYERS:
        setattr(ops, name, noted(name, getattr(ops, name)))
    shape = 1, config.image_size, config.image_size, config.image_channels
    UNet(config).eval().forward(np.zeros(shape, np.float32), np.ones(1, int))
    return found


def flops(config):
    """The floating-point operations of one evaluation of one image."""
    return sum(count * products(*layer) for layer, count in calls(config, 1).items())


def title(name, shapes, settings):
    sizes = " ".join("x".join(map(str, shape)) for shape in shapes[:2])
    return f"{name} {sizes} {' '.join(map(str, settings))}".strip()


def products(name, shapes, settings):
    """The floating-point operations of a forward, two per product of the direct algorithm (not Winograd's)."""
    x, w = shapes[0], shapes[1] if len(shapes) > 1 else ()
    if name.startswith("conv2d"):
        stride = settings[0] if settings else 1
        return 2 * x[0] * (x[1] // stride) * (x[2] // stride) * math.prod(w)
    if name == "linear":
        return 2 * math.prod(x) * w[1]
    return 4 * math.prod(x) * x[1] if name == "attention" else 0


def our_layer(name, shapes, settings):
    rng = np.random.default_rng(0)
    arrays = [from_numpy(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    for i in OF_IMAGES.get(name, (0,)):
        if len(shapes[i]) < 4 or shapes[i][1] > 1:          # not what conv2d_add adds for each image
            arrays[i], _ = ops.narrow(arrays[i], None)
    forward, backward = getattr(ops, name), getattr(ops, name + "_backward")
    dy, _ = forward(*arrays, *settings)

    def step():
        _, cache = forward(*arrays, *settings)
        backward(dy, cache)

    return step
