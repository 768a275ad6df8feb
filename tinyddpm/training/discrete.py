"""Training a discrete diffusion (diffusion/discrete.py) on black and white images or on a text, and what it draws."""

from dataclasses import replace

import numpy as np

from tinyddpm import data, files, plots
from tinyddpm.backend import from_numpy, generator
from tinyddpm.data import text
from tinyddpm.diffusion import discrete
from tinyddpm.diffusion.discrete import DiscreteConfig
from tinyddpm.sampling.unmask import generate
from tinyddpm.training.trainer import Trainer

IMAGES, TEXTS = 36, 6       # samples that are saved during a run


class DiscreteTrainer(Trainer):
    """A model of values in training. Its steps take uint8 images (N, H, W, 1), or letters as their codes (N, L)."""

    config = DiscreteConfig

    def draw(self, number, batch, labels=None):
        """The random part of step `number`: x0, t, the uniform numbers of q_sample, and the model's other inputs."""
        seed = self.preset.training.seed
        rng, choices = generator(seed, "step", number), np.random.default_rng([seed, number])
        x0, t = values(batch, rng), choices.integers(1, self.schedule.T + 1, len(batch))
        return x0, t, rng.random(x0.shape, dtype=np.float32), {"rng": rng}

    def loss(self, x0, t, u, loss_scale, inputs):
        return discrete.loss_and_gradient(self.model, self.schedule, x0, t, u, self.preset.diffusion.loss, loss_scale,
                                          **inputs)

    def save_samples(self, stem):
        preset = self.preset
        with self.averaged() as model:
            samples = generate(model, self.schedule, TEXTS if preset.diffusion.alphabet else IMAGES,
                               model.config.shape[:-1], preset.training.seed)
        return save(stem, samples, preset.diffusion.alphabet)


def values(batch, rng):
    """x_0 (N, ...): codes (N, L) as they are; of images (N, H, W, 1), 1 where white, as probable as they are bright."""
    if batch.ndim == 2:
        return from_numpy(batch).astype(np.int64)
    return (rng.random(batch.shape[:3], dtype=np.float32) * 255 < from_numpy(batch[..., 0])).astype(np.int64)


def images(x):
    """Black and white (N, H, W) as images (N, H, W, 1) in [-1, 1]; the mask, 2, is grey."""
    return (np.array([-1, 1, 0], np.float32)[x])[..., None]


def texts(x, alphabet):
    """Codes (N, L) as texts; the mask is shown as _."""
    letters = [*alphabet, "_"]
    return ["".join(letters[code] for code in row) for row in x]


def load_data(preset, data_dir=None, split="train", name=None):
    """The Dataset of a preset, or another of this name: images, or windows of a text."""
    name = name or preset.dataset
    if alphabet := preset.diffusion.alphabet:
        return data.Dataset(text.load(name, preset.model.length, split, alphabet)[0])
    return data.load(name, replace(preset.model, image_channels=1), split, data_dir)


def save(stem, x, alphabet):
    """Write samples to stem.png, or texts to stem.txt. Returns the path."""
    path = stem.with_name(stem.name + (".txt" if alphabet else ".png"))
    if alphabet:
        with files.replacing(path, "w", encoding="utf-8") as file:
            file.write("\n\n".join(texts(x, alphabet)) + "\n")
    else:
        plots.save_png(path, plots.grid(plots.to_uint8(images(x))))
    return path
