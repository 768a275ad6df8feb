"""The Inception score, given the class probabilities of images."""

import numpy as np

from tinyddpm.backend import to_numpy


def inception_score(probabilities, splits=10):
    """exp(mean KL(p(y|x) || p(y))) (Salimans et al. 2016): its mean and standard deviation over parts of the images.

    probabilities (N, classes): p(y|x), a row for each image; p(y) is the mean over the rows of a part. Parts are
        consecutive rows: shuffle rows that are sorted by class first.
    splits: the number of parts
    Raises ValueError for rows that are not probabilities, and for fewer rows than parts.
    """
    p = np.asarray(to_numpy(probabilities), np.float64)
    if p.ndim != 2 or not (p >= 0).all() or not (abs(p.sum(axis=1) - 1) < 1e-4).all():
        raise ValueError(f"inception_score: {p.shape} numbers; expected rows of probabilities, (N, classes)")
    if not 1 <= splits <= len(p):
        raise ValueError(f"inception_score: {len(p)} rows in {splits} parts; expected at least one row for each part")
    bounds = [len(p) * i // splits for i in range(splits + 1)]
    scores = [np.exp(_divergence(p[i:j]).mean()) for i, j in zip(bounds, bounds[1:])]
    return float(np.mean(scores)), float(np.std(scores))


def _divergence(p):
    """KL(p_i || mean of all p_j) for each row, with 0 log 0 = 0. (n, classes) -> (n,)"""
    tiny = np.finfo(p.dtype).tiny
    return (p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(p.mean(axis=0), tiny)))).sum(axis=1)
