"""Your own images, read from a folder."""

import math
import warnings
from pathlib import Path

import numpy as np

from tinyddpm import files

SUFFIXES = {".png", ".jpg", ".jpeg"}
IN_MEMORY = 1 << 30         # bytes of pixels up to which a folder is read at once


def load(folder, size, channels):
    """All PNG and JPEG files in the folder and below it, in the order of their names: (N, size, size, channels) uint8.

    Each is cut to its central square and resized. A large folder is read batch by batch, as Images.
    Raises ValueError for a folder without images and for a file that cannot be read as an image.
    """
    images = Images(_paths(folder), size, channels)
    if not len(images):
        raise ValueError(f"{folder} holds no PNG or JPEG files")
    return images[np.arange(len(images))] if math.prod(images.shape) <= IN_MEMORY else images


def classes(folder):
    """The names of the sub-folders that hold the images, each a class; () if images lie in the folder itself.

    Raises ValueError for a single class.
    """
    places = [p.relative_to(folder).parts for p in _paths(folder)]
    if any(len(parts) == 1 for parts in places):
        return ()
    names = tuple(sorted({parts[0] for parts in places}))
    if len(names) == 1:
        raise ValueError(f"all images of {folder} are in the sub-folder {names[0]}: labels need two classes or more; "
                         "choose that folder, or --num-classes none")
    return names


def labels(folder, names):
    """(N,) for each image of `load`, the index of its sub-folder among the names of the classes"""
    return np.array([names.index(p.relative_to(folder).parts[0]) for p in _paths(folder)])


def _paths(folder):
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir())


class Images:
    """Image files that behave like an array: shape, len, and images[indices], which reads them."""

    def __init__(self, paths, size, channels):
        if channels not in (1, 3):
            raise ValueError(f"images have 1 channel (grey) or 3 (red, green, blue); the model is made for {channels}")
        self.paths, self.shape = np.array(paths, object), (len(paths), size, size, channels)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, indices):
        """(n,) integers, or a slice -> (n, size, size, channels) uint8"""
        paths = self.paths[indices]
        images = np.empty((len(paths), *self.shape[1:]), np.uint8)
        for target, path in zip(images, paths):
            target[...] = read(path, *self.shape[2:])
        return images


def read(path, size, channels):
    """One image, cut to its central square and resized: (size, size, channels) uint8.

    Transparent pixels become white, and 16 bits 8. Raises ValueError for a file that is not a PNG or JPEG image, and
    for one of more pixels than Pillow thinks safe.
    """
    from PIL import Image                       # installed with matplotlib

    with warnings.catch_warnings(), files.opened(path, "a PNG or JPEG image"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(path, formats=("PNG", "JPEG"))
        if image.mode.startswith("I"):          # grey, 16 bits
            image = Image.fromarray(((np.asarray(image, np.uint32) + 128) // 257).astype(np.uint8))
        elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            image = image.convert("RGBA")
        else:
            image = image.convert({1: "L", 3: "RGB"}[channels])
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC,
                             box=(left, top, left + side, top + side))
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert({1: "L", 3: "RGB"}[channels])).reshape(size, size, channels)
