"""Features and class probabilities of images, by Inception-v3 or by a small classifier."""

import numpy as np

from tinyddpm.backend import to_numpy
from tinyddpm.evaluation.classifier import WEIGHTS, load_classifier
from tinyddpm.evaluation.fid import Statistics
from tinyddpm.evaluation.inception import Inception
from tinyddpm.progress import Progress

BATCH = 100         # images that are measured together


def extractor(config, inception=None):
    """The network that measures images of a UNetConfig, and a text that names the result, with {0} in place of "FID".

    inception: a file with the weights of Inception-v3; without it, the small classifier for MNIST or CIFAR10
    Raises ValueError if there is no classifier for images of that size.
    """
    if inception:
        return Inception(inception), "Inception {0}"
    dataset = {(28, 1): "mnist", (32, 3): "cifar10"}.get((config.image_size, config.image_channels))
    if dataset is None:
        raise ValueError(f"there is no classifier for images of {config.image_size} pixels in {config.image_channels} "
                         "channels: give the weights of Inception-v3 with --inception")
    return (load_classifier(WEIGHTS / f"{dataset}.safetensors"),
            "classifier {0}, not comparable with Inception {0}")


def measure(extractor, images, what="images"):
    """The Statistics of the features of uint8 images (N, H, W, C), and their class probabilities (N, classes)."""
    statistics, probabilities = Statistics(), []
    for features, p in batches(extractor.measure, images, what):
        statistics.add(features)
        probabilities.append(to_numpy(p))
    return statistics, np.concatenate(probabilities)


def nearest(measure, images, queries, k):
    """The indices (M, k) of the uint8 images (N, ...) nearest to each query (M, ...), the nearest first.

    measure(images): the arrays (N, D) between which the distance is taken, such as pixels
    """
    points = np.asarray(to_numpy(measure(queries)), np.float32)
    distances = [[((x - point)**2).sum(axis=1) for point in points]
                 for x in (to_numpy(x) for x in batches(measure, images, "images to find the nearest"))]
    return np.argsort(np.concatenate(distances, axis=1), axis=1)[:, :k]


def pixels(images):
    """uint8 images (N, H, W, C) -> float32 (N, H W C)"""
    return images.reshape(len(images), -1).astype(np.float32)


def batches(measure, images, what):
    """Yield measure(images) batch by batch, with a progress line. images: an array, or data.folder.Images"""
    progress = Progress()
    for start in range(0, len(images), BATCH):
        yield measure(images[start:start + BATCH])
        progress.count(f"measuring {what}", min(start + BATCH, len(images)), len(images))
    progress.close()
