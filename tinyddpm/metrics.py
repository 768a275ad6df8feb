"""How good samples are: the Frechet Inception distance and the Inception score, given the features of images."""

import numpy as np

from tinyddpm.backend import to_numpy
from tinyddpm.nn import classifier
from tinyddpm.nn.inception import Inception
from tinyddpm.progress import Progress

BATCH = 100         # images that are measured together


def extractor(config, inception=None):
    """What measures the images that a UNetConfig describes, and how to name what it measures: text with {} for "FID".

    inception: a file with the weights of Inception-v3; without it, the small classifier for MNIST or CIFAR10
    Raises ValueError for images of another size, for which there is no classifier.
    """
    if inception:
        return Inception(inception), "Inception {0}"
    dataset = {(28, 1): "mnist", (32, 3): "cifar10"}.get((config.image_size, config.image_channels))
    if dataset is None:
        raise ValueError(f"there is no classifier for images of {config.image_size} pixels in {config.image_channels} channels: "
                         "give the weights of Inception-v3 with --inception")
    return (classifier.load_classifier(classifier.WEIGHTS / f"{dataset}.safetensors"),
            "classifier {0}, not comparable with Inception {0}")


def measure(extractor, images, what="images"):
    """The Statistics of the features of uint8 images (N, H, W, C), and their class probabilities (N, classes)."""
    statistics, probabilities = Statistics(), []
    for features, p in batches(extractor.measure, images, what):
        statistics.add(features)
        probabilities.append(to_numpy(p))
    return statistics, np.concatenate(probabilities)


def nearest(measure, images, queries, k):
    """The indices (M, k) of those of uint8 images (N, ...) nearest to each query (M, ...), the nearest first.

    measure(images): what the distance is taken of, arrays (N, D), such as pixels
    """
    points = np.asarray(to_numpy(measure(queries)), np.float32)
    distances = [[((x - point)**2).sum(axis=1) for point in points]
                 for x in (to_numpy(x) for x in batches(measure, images, "images to find the nearest"))]
    return np.argsort(np.concatenate(distances, axis=1), axis=1)[:, :k]


def pixels(images):
    """uint8 images (N, H, W, C) -> float32 (N, H W C)"""
    return images.reshape(len(images), -1).astype(np.float32)


def batches(measure, images, what):
    """measure(images) batch by batch, with a progress line. images: an array, or data.folder.Images"""
    progress = Progress()
    for start in range(0, len(images), BATCH):
        yield measure(images[start:start + BATCH])
        progress.count(f"measuring {what}", min(start + BATCH, len(images)), len(images))
    progress.close()


class Statistics:
    """Count, mean and covariance of features that come batch by batch, in float64.

    Each batch is centred on its own mean and then merged (Chan, Golub and LeVeque 1979). Sums of squares would
    lose the variance of features that are far from 0.
    """

    def __init__(self):
        self.count = 0
        self.mean = self._scatter = None        # (D,), and the sum of (x - mean)(x - mean)^T, (D, D)

    def add(self, features):
        """features (n, D), n of any size and D the same each time; ValueError for others, and for NaN or infinity."""
        x = np.asarray(to_numpy(features), np.float64)
        if x.ndim != 2 or 0 in x.shape or self.count and x.shape[1:] != self.mean.shape:
            raise ValueError(f"Statistics: the features are {x.shape}; expected (n, "
                             f"{len(self.mean) if self.count else 'D'}) with at least one row")
        if not np.isfinite(x).all():
            raise ValueError("Statistics: the features hold NaN or infinity; expected finite numbers")
        if not self.count:
            self.mean, self._scatter = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        n, mean = len(x), x.mean(axis=0)
        total, shift, centred = self.count + n, mean - self.mean, x - mean
        self._scatter += centred.T @ centred + np.outer(shift, shift * (self.count * n / total))
        self.mean = self.mean + shift * (n / total)
        self.count = total

    @property
    def covariance(self):
        """(D, D), unbiased: the sum over the samples divided by count - 1. Raises ValueError for fewer than two."""
        if self.count < 2:
            raise ValueError(f"Statistics: {self.count} samples have no covariance; expected at least two")
        return self._scatter / (self.count - 1)


def fid(a, b):
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Statistics: 0 for equal ones, but for rounding.

    It is the Frechet distance of two Gaussians, squared, which Heusel et al. (2017) take between the features of
    samples and of data. It falls with the number of samples: compare only values of equal counts.
    Raises ValueError for features of different widths and for fewer than two samples.
    """
    S1, S2 = a.covariance, b.covariance
    if S1.shape != S2.shape:
        raise ValueError(f"fid: the features are {len(S1)} and {len(S2)} wide; expected the same features")
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(S1) + np.trace(S2) - 2 * trace_sqrt_product(S1, S2))


def trace_sqrt_product(S1, S2):
    """tr((S1 S2)^(1/2)) of two symmetric positive semidefinite matrices (D, D), of any rank.

    With S1 = F1 F1^T and S2 = F2 F2^T, S1 S2 has the eigenvalues of (F1^T F2)(F1^T F2)^T (and zeros): their roots
    are the singular values of F1^T F2. So no root is taken of a zero that rounding has moved: from an error of
    1e-16 the root would make one of 1e-8, in each of thousands of directions.
    """
    return np.linalg.svd(_factor(S1).T @ _factor(S2), compute_uv=False).sum()


def _factor(S):
    """F (D, rank) with F F^T = S. Eigenvalues that are 0 within rounding are left out."""
    values, vectors = np.linalg.eigh(S)
    kept = values > values[-1] * len(S) * np.finfo(S.dtype).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def inception_score(probabilities, splits=10):
    """exp(mean KL(p(y|x) || p(y))) (Salimans et al. 2016): its mean and standard deviation over parts of the images.

    probabilities (N, classes): p(y|x), a row for each image; p(y) is the mean over the rows of a part. Their order
        decides what a part is: rows that are sorted by class should be shuffled first.
    splits: the number of parts
    Raises ValueError for rows that are not probabilities, and for fewer rows than parts.
    """
    p = np.asarray(to_numpy(probabilities), np.float64)
    if p.ndim != 2 or not (p >= 0).all() or not (abs(p.sum(axis=1) - 1) < 1e-4).all():
        raise ValueError(f"inception_score: {p.shape} numbers; expected rows of probabilities, (N, classes)")
    if not 1 <= splits <= len(p):
        raise ValueError(f"inception_score: {len(p)} rows in {splits} parts; expected a row at least for each part")
    bounds = [len(p) * i // splits for i in range(splits + 1)]
    scores = [np.exp(_divergence(p[i:j]).mean()) for i, j in zip(bounds, bounds[1:])]
    return float(np.mean(scores)), float(np.std(scores))


def _divergence(p):
    """KL(p_i || mean of all p_j) for each row, with 0 log 0 = 0. (n, classes) -> (n,)"""
    tiny = np.finfo(p.dtype).tiny
    return (p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(p.mean(axis=0), tiny)))).sum(axis=1)
