"""New images from a trained network."""

import math

import numpy as np

from tinyddpm.backend import generator, on_gpu, to_numpy
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.sampling.guidance import by_classifier
from tinyddpm.sampling.samplers import SAMPLERS, choose_times

BATCH = 64                      # images that are sampled together
PIXELS_ON_GPU = 2**18           # on a GPU, their pixels instead: 256 images of 32x32


def generate(model, diffusion, count, seed=0, sampler="ddpm", steps=None, labels=None, watch=None, guidance=1.0,
             avoid=None, clip=True, interval=None, spacing=None, classifier=None, scale=1.0, **options):
    """`count` new images from a network in evaluation mode, in batches: a NumPy array (count, H, W, C).

    diffusion: the DiffusionConfig that the network was trained with
    sampler: a name in SAMPLERS; steps, spacing: see choose_times (default: the sampler's own); options: of the sampler
    labels: None, or (count,) classes; guidance, avoid, clip, interval: see reverse_process
    classifier, scale: see by_classifier; a model without classes is then guided to the labels, too
    watch(step, number, total) is called with each Step of each batch, after so many evaluations of the network of so
        many in all; total is None for a sampler that finds its own steps
    The same seed and count give the same images. Raises ValueError for an unknown sampler or wrong options.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}; expected {', '.join(SAMPLERS)}")
    s, config, chosen = diffusion.make_schedule(), model.config, SAMPLERS[sampler]
    batch = max(1, PIXELS_ON_GPU // config.image_size**2) if on_gpu() else BATCH
    times = choose_times(s, min(chosen.steps or s.T, s.T) if steps is None else steps, spacing or chosen.spacing)
    total = chosen.evaluations and math.ceil(count / batch) * chosen.evaluations(len(times))
    number, images = 0, []

    def counted(xt, t):
        nonlocal number
        number += 1
        return p(xt, t)

    for start in range(0, count, batch):
        rng, stop = generator(seed, "sample", start), min(count, start + batch)
        x = rng.standard_normal((stop - start, *config.shape), dtype=np.float32)
        p = guided_process(model, diffusion, None if labels is None else labels[start:stop], guidance, avoid, clip,
                           interval, classifier, scale)
        for step in chosen.run(counted, s, x, rng, times, **options):
            if watch:
                watch(step, number, total)
        images.append(to_numpy(step.x))
    return np.concatenate(images)


def guided_process(model, diffusion, labels=None, guidance=1.0, avoid=None, clip=True, interval=None, classifier=None,
                   scale=1.0):
    """The reverse process with all guidance: see reverse_process and by_classifier."""
    p = reverse_process(model, diffusion, labels if model.config.num_classes else None, guidance, avoid,
                        clip and classifier is None, interval)
    return p if classifier is None else by_classifier(p, diffusion.make_schedule(), classifier, labels, scale, clip)


def by_class(classes, count):
    """Labels for a grid of `count` images, or a few more, with a column for each of the classes, and its columns.

    Returns (N, labels, columns). For one class, or without labels (None), the grid is a square; for more classes than
    images, it shows the first ones.
    """
    if classes is None or len(classes) == 1:
        return count, None if classes is None else np.repeat(classes, count), math.ceil(math.sqrt(count))
    columns = min(len(classes), count)
    labels = np.tile(classes[:columns], math.ceil(count / columns))
    return len(labels), labels, columns
