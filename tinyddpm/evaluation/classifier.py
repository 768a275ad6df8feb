"""A small convolutional classifier: its features and probabilities stand in for Inception's on MNIST and CIFAR10.

Trained on noisy images, with their time t, it guides the sampling (sampling/guidance.py).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tinyddpm import files, ops, safetensors
from tinyddpm.backend import from_numpy, to_numpy
from tinyddpm.data import scaled
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.nn.layers import Conv2d, GroupNormSiLU, Linear
from tinyddpm.nn.module import Module

WEIGHTS = Path(__file__).parent / "weights"         # made by examples/train_classifier.py
GROUPS, PATCH = 8, 2
PER_LEVEL = 4               # layers: two convolutions, each with its norm


@dataclass(frozen=True)
class ClassifierConfig:
    """The shape of a classifier. widths: the channels at 1/2, 1/4, ... of the images' resolution.

    time_width: of the embedding of the time t of noisy images; 0: images are clean, and there is no time
    """

    image_channels: int = 3
    widths: tuple[int, ...] = (64, 96)
    classes: int = 10
    time_width: int = 0


class Classifier(Module):
    """2x2 patches, convolutions with group norm and SiLU, the mean over all pixels, and one linear layer."""

    def __init__(self, config, seed=0, dtype=np.float32):
        self.config, self.diffusion = config, None          # the DiffusionConfig of its noisy images
        rng = np.random.default_rng(seed)
        self.layers, C = [], PATCH**2 * config.image_channels
        for level, K in enumerate(config.widths):
            step = {"stride": 2, "padding": (0, 1)} if level else {}
            for layer in Conv2d(rng, C, K, **step), Conv2d(rng, K, K):
                self.layers += [layer, GroupNormSiLU(K, GROUPS)]
            C = K
        self.times = [Linear(rng, config.time_width, K) for K in config.widths] if config.time_width else []
        self.out = Linear(rng, C, config.classes)
        self.flatten(dtype)

    def forward(self, x, t=None):
        """x (N, H, W, C) in [-1, 1], or noisy images and their times t (N,) -> logits (N, classes)"""
        return self.out.forward(self.features(x, t))

    def features(self, x, t=None):
        """x (N, H, W, C) in [-1, 1], or noisy images and their times t (N,) -> (N, widths[-1])"""
        if x.ndim != 4 or x.shape[-1] != self.config.image_channels:
            raise ValueError(f"Classifier: x is {x.shape}; expected (N, H, W, {self.config.image_channels})")
        temb = ops.time_embedding(from_numpy(t), self.config.time_width, x.dtype) if self.times else None
        h, _ = ops.patchify(x, PATCH)
        for i, layer in enumerate(self.layers):
            h = layer.forward(h)
            if self.times and i % PER_LEVEL == 0:
                h = h + self.times[i // PER_LEVEL].forward(temb)[:, None, None]
        return self.remember(ops.mean_pool(h))

    def backward(self, dy):
        """dy (N, classes) -> dx like x"""
        dh = ops.mean_pool_backward(self.out.backward(dy), self.recall())
        for i, layer in reversed([*enumerate(self.layers)]):
            if self.times and i % PER_LEVEL == 0:
                self.times[i // PER_LEVEL].backward(dh.sum(axis=(1, 2)))
            dh = layer.backward(dh)
        return ops.patchify_backward(dh, PATCH)

    def measure(self, images):
        """uint8 images (N, H, W, C) -> features (N, D) and probabilities (N, classes)"""
        features = self.features(scaled(images))
        return features, ops.softmax(self.out.forward(features))[0]


def save_classifier(model, path, **texts):
    """Write a classifier with its weights rounded to 16 bits; the texts are stored as metadata."""
    tensors = {name: to_numpy(p.value).astype(np.float16) for name, p in model.parameters().items()}
    if model.diffusion:
        texts["diffusion"] = json.dumps(asdict(model.diffusion))
    safetensors.write(path, tensors, {"config": json.dumps(asdict(model.config)), **texts})


def load_classifier(path):
    """The classifier in a file written by save_classifier, in evaluation mode. Raises ValueError for any other file."""
    tensors, metadata = safetensors.read(path)
    with files.parsing(path, "a classifier of this version of tinyddpm"):
        config = files.parse_json(metadata["config"])
        config = ClassifierConfig(**config | {"widths": tuple(config["widths"])})
        least = 9 * PATCH**2 * config.image_channels + config.classes + sum(width * (9 * width + config.time_width)
                                                                             for width in config.widths)
        if least > sum(a.size for a in tensors.values()):
            raise ValueError(f"it holds fewer numbers than {config} needs")
        model = Classifier(config).eval()
        if config.time_width:
            model.diffusion = DiffusionConfig(**files.parse_json(metadata["diffusion"]))
        for name, p in model.parameters().items():
            p.value[...] = from_numpy(tensors[name].astype(np.float32))
    return model
