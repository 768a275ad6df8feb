"""Train, draw and judge, here or in PyTorch with the same recipe: the task `quality` of benchmark.py."""

import time

import numpy as np

import tinyddpm
from tinyddpm import data, evaluation, plots, presets
from tinyddpm.progress import Progress
from tinyddpm.sampling.generate import generate
from tinyddpm.training import Trainer

DATASETS = {"mnist": "mnist", "cifar10-small": "cifar10", "cifar10": "cifar10"}         # of the presets
REAL = "training images"        # the side that is drawn from the data
SURE = 0.95                     # the probability from which a judged image counts as surely read


def turn(side, model, count, seed, data_dir, steps=None, minutes=None):
    """One side's row of the table: what it took to train and to draw, and how good the samples are.

    steps, minutes: of the training (default: the preset's steps)
    """
    preset = presets.get(model)
    preset = preset.override(dataset=DATASETS[model], seed=seed, minutes=minutes, steps=steps or preset.training.steps)
    train, test = (data.load(preset.dataset, preset.model, split, data_dir) for split in ("train", "test"))
    if side == REAL:
        some, row = train.some(count, seed), {}
        images, labels = some.images, some.labels
    else:
        images, labels, row = drawn(side, preset, train, count)
    extractor, naming = evaluation.extractor(preset.model)
    (reference, _), (statistics, p) = (evaluation.measure(extractor, x, side) for x in (test.images, images))
    right = float(np.mean(p.argmax(axis=1) == labels)) if labels is not None else None
    return row | {"measure": naming.format("FID"), "fid": evaluation.fid(statistics, reference),
                  "sure": float(np.mean(p.max(axis=1) > SURE)), "right": right}


def drawn(side, preset, train, count):
    """Train and draw: uint8 images, their labels (or None), the number of steps and the seconds of both."""
    tinyddpm.use("numpy" if side == "torch" else side)
    kind = Trainer
    if side == "torch":
        from benchmark_torch_training import TorchTrainer as kind
    c, progress = preset.training, Progress()
    kind(preset).step(*train.batch(0, c.batch_size, c.seed))                # compiles the kernels
    trainer = kind(preset)
    for batch in train.batches(0, c.batch_size, c.seed):
        before = time.perf_counter()
        trainer.step(*batch)
        trainer.seconds += time.perf_counter() - before
        progress.show(f"{side}, step {trainer.steps_done:,}, {trainer.progress:.0%} of the training")
        if trainer.progress >= 1:
            break
    labels, before = None if preset.labels is None else np.resize(preset.labels, count), time.perf_counter()
    with trainer.averaged() as model:
        how = preset.sampling.arguments(preset.diffusion.T, labels)
        images = generate(model, preset.diffusion, count, c.seed, **how,
                          watch=lambda step, n, total: progress.count(f"{side}, sampling, evaluation", n, total))
    drawing = time.perf_counter() - before
    progress.close()
    row = {"steps": trainer.steps_done, "training": trainer.seconds, "drawing": drawing}
    return plots.to_uint8(images), labels, row
