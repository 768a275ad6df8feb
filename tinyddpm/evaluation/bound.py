"""The variational bound of images under a trained model."""

import functools

from tinyddpm.diffusion import likelihood
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.progress import Progress


def bound(model, preset, images, labels=None, times=None, seed=0, cdf="exact"):
    """The Bound (diffusion/likelihood.py) of uint8 images (N, H, W, C), given their labels (N,) if there are any.

    times, cdf: as for likelihood.evaluate
    Raises ValueError for fewer than two images, which have no standard error.
    """
    if len(images) < 2:
        raise ValueError("a standard error needs at least two images")
    p, s = functools.partial(reverse_process, model, preset.diffusion), preset.diffusion.make_schedule()
    progress = Progress()
    found = likelihood.evaluate(p() if labels is None else p, s, images, times, seed, cdf,
                                lambda number, total: progress.count("batch and time", number, total), labels)
    progress.close()
    return found
