"""Data sets: uint8 images (N, H, W, C), with labels if there are any, and batches of them."""

import functools
import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tinyddpm import files
from tinyddpm.backend import from_numpy, on_gpu
from tinyddpm.data import cifar10, folder, mnist

DATASETS = {            # name -> load(split, data_dir), which returns images and labels
    "digits": mnist.load_digits,
    "mnist": functools.partial(mnist.load, "mnist"),
    "fashion-mnist": functools.partial(mnist.load, "fashion-mnist"),
    "cifar10": cifar10.load,
}
CLASSES = {"digits": mnist.CLASSES["mnist"], "cifar10": cifar10.CLASSES, **mnist.CLASSES}         # what the labels mean


def scaled(images):
    """uint8 images as data in [-1, 1], in float32 and on the device."""
    return from_numpy(images).astype(np.float32) / 127.5 - 1


class Dataset:
    """Images (N, H, W, C) in uint8, an array or folder.Images, labels (N,) or None, and the names of the classes."""

    def __init__(self, images, labels=None, classes=()):
        self.images, self.labels, self.classes = images, labels, classes
        self._epoch = self._order = None

    def __len__(self):
        return len(self.images)

    def some(self, count, seed):
        """`count` images chosen at random, with their labels. Raises ValueError if there are fewer."""
        if len(self) < count:
            raise ValueError(f"{count} images are needed; the data set has {len(self)}")
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return Dataset(self.images[chosen], None if self.labels is None else self.labels[chosen], self.classes)

    def fingerprint(self):
        """A text by which to know the data set again: number, shape and checksum of its images.

        Images that are read from a folder batch by batch enter the checksum a hundred at most.
        """
        images, digest = self.images, hashlib.sha256()
        if not isinstance(images, np.ndarray):
            images = images[np.unique(np.linspace(0, len(self) - 1, 100).astype(int))]
        for a in (images, self.labels):
            digest.update(b"" if a is None else np.ascontiguousarray(a).data)
        return f"{len(self):,} images {self.images.shape[1:]}, checksum {digest.hexdigest()[:16]}"

    def require_classes(self, names, name):
        """Raise ValueError if the data set of this name has other classes than `names`; () stands for any."""
        if names and names != self.classes:
            raise ValueError(f"{name} has the classes {', '.join(self.classes)}; the model knows {', '.join(names)}")

    def to_device(self):
        """Move the images to the GPU, as bytes, if they are an array and not read from a folder batch by batch."""
        if isinstance(self.images, np.ndarray):
            self.images = from_numpy(self.images)

    def batch(self, number, size, seed, part=slice(None)):
        """Batch 0, 1, 2, ... of the endless sequence that a seed defines, or a part of it: images, and labels or None.

        Every epoch has a new random order; an incomplete batch at its end is left out.
        """
        per_epoch = len(self) // size
        if per_epoch == 0:
            raise ValueError(f"the data set has {len(self)} images, fewer than a batch of {size}: "
                             "choose a smaller --batch-size")
        epoch, i = divmod(number, per_epoch)
        if self._epoch != (seed, epoch):
            self._epoch, self._order = (seed, epoch), np.random.default_rng([seed, epoch]).permutation(len(self))
        chosen = self._order[i * size:(i + 1) * size][part]
        images = self.images[from_numpy(chosen) if on_gpu(self.images) else chosen]
        return images, None if self.labels is None else self.labels[chosen]

    def batches(self, first, size, seed, part=slice(None)):
        """Yield batch `first` and all that follow, or that part of each; a thread prefetches the next one."""
        if on_gpu(self.images):                                 # where a batch takes almost no time
            yield from (self.batch(number, size, seed, part) for number in itertools.count(first))
        with ThreadPoolExecutor(1) as pool:
            ready = pool.submit(self.batch, first, size, seed, part)
            for number in itertools.count(first + 1):
                batch = ready.result()
                ready = pool.submit(self.batch, number, size, seed, part)
                yield batch


def compare_with(name, config, split, data_dir):
    """The Dataset that a model is compared with, and its name with the split (None: test).

    config: with num_classes None, if labels do not matter
    Raises ValueError for a split of a folder of images, which has none.
    """
    is_folder = name not in DATASETS and Path(name).is_dir()
    if is_folder and split:
        raise ValueError(f"--split {split}: a folder of images has no splits")
    dataset = load(name, config, split or "test", data_dir)
    return dataset, name if is_folder else f"{name} ({split or 'test'})"


def classes(name):
    """The names of the classes of a data set, or of a folder of images whose sub-folders they are; () without labels.

    Raises ValueError for a folder with a single class.
    """
    if name in CLASSES:
        return CLASSES[name]
    return folder.classes(name) if name and Path(name).is_dir() else ()


def load(name, config, split="train", data_dir=None):
    """The data set of that name, or the folder of images of that path, at the size of a UNetConfig.

    Raises ValueError for an unknown name, and for images or labels that do not fit the configuration.
    """
    if name in DATASETS:
        dataset = Dataset(*DATASETS[name](split, data_dir), CLASSES[name])
    elif name and Path(name).is_dir():
        dataset = Dataset(folder.load(name, config.image_size, config.image_channels))
        if config.num_classes is not None:
            dataset.classes = folder.classes(name)
            dataset.labels = folder.labels(name, dataset.classes) if dataset.classes else None
    else:
        raise ValueError(f"no data set {name!r}; expected {', '.join(DATASETS)} or a folder of images, which --dataset "
                         "also names when it has moved")
    if dataset.images.shape[1:] != config.shape:
        raise ValueError(f"the images of {name} are {dataset.images.shape[1:]}; the model is made for {config.shape}")
    if config.num_classes not in (None, len(dataset.classes)):
        found = f"{len(dataset.classes)} classes" if dataset.classes else "no labels"
        raise ValueError(f"{name} has {found}, and the model has num_classes = {config.num_classes}")
    return dataset


def read_images(path, config):
    """uint8 (N, H, W, C): the images of a PNG or JPEG file, a folder of them or a .npy file, at a UNetConfig's size."""
    if Path(path).suffix == ".npy":
        return load_npy(path, config)
    if Path(path).is_dir():
        return folder.load(path, config.image_size, config.image_channels)
    return folder.read(path, config.image_size, config.image_channels)[None]


def load_npy(path, config):
    """The uint8 images (N, H, W[, C]) of a .npy file, as sample.py writes. Raises ValueError for any other file."""
    with files.opened(path, "a .npy file of numbers"):
        images = np.load(path, mmap_mode="r", allow_pickle=False)               # not yet in memory
        if not isinstance(images, np.memmap):
            raise ValueError("it does not hold one array")
        if images.offset + images.nbytes != Path(path).stat().st_size:
            raise ValueError("its size is not that of its array")
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.shape[1:] != config.shape:
        raise ValueError(f"{path} holds {images.dtype} {images.shape}; the model is made for uint8 "
                         f"(N, *{config.shape})")
    return np.array(images)
