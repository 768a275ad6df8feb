"""A folder of images of your own."""

from pathlib import Path

import numpy as np

SUFFIXES = {".png", ".jpg", ".jpeg"}


def load(folder, size, channels):
    """All PNG and JPEG files in the folder and below it, in the order of their names: (N, size, size, channels) uint8.

    Each is cut to its central square and resized. Raises ValueError for a folder without images and
    for a file that is not the image its name promises.
    """
    from PIL import Image                       # a part of matplotlib's installation

    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no PNG or JPEG files")
    images = np.empty((len(paths), size, size, channels), np.uint8)
    for target, path in zip(images, paths):
        try:
            with Image.open(path) as image:
                image = image.convert({1: "L", 3: "RGB"}[channels])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from None
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC,
                             box=(left, top, left + side, top + side))
        target[...] = np.asarray(image).reshape(size, size, channels)
    return images
