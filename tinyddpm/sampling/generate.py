"""New images from a trained network."""

import math

import numpy as np

from tinyddpm.backend import generator, on_gpu, to_numpy
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.sampling.steps import SAMPLERS, spread

BATCH = 64                      # images that are sampled together
PIXELS_ON_GPU = 2**18           # on a GPU, their pixels instead: 256 images of 32x32


def generate(model, diffusion, count, seed=0, sampler="ddpm", steps=None, labels=None, watch=None, **options):
    """`count` new images from a network in evaluation mode, in batches: a NumPy array (count, H, W, C).

    diffusion: the DiffusionConfig that the network was trained with; labels: None, or (count,) classes
    sampler: a name in SAMPLERS; steps: how many (default: the sampler's own number); options: of the sampler
    watch(step, number, total) is called with each Step of each batch
    The same seed and count give the same images. Raises ValueError for an unknown sampler or wrong options.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}; expected {', '.join(SAMPLERS)}")
    s, config, chosen = diffusion.make_schedule(), model.config, SAMPLERS[sampler]
    batch = max(1, PIXELS_ON_GPU // config.image_size**2) if on_gpu() else BATCH
    times = spread(s.T, min(chosen.steps or s.T, s.T) if steps is None else steps)
    total = math.ceil(count / batch) * len(times)
    number, images = 0, []
    for start in range(0, count, batch):
        rng, stop = generator(seed, "sample", start), min(count, start + batch)
        shape = (stop - start, config.image_size, config.image_size, config.image_channels)
        x = rng.standard_normal(shape, dtype=np.float32)
        p = reverse_process(model, diffusion, labels=None if labels is None else labels[start:stop])
        for step in chosen.run(p, s, x, rng, times, **options):
            number += 1
            if watch:
                watch(step, number, total)
        images.append(to_numpy(step.x))
    return np.concatenate(images)
