"""The Frechet Inception distance, given the features of images."""

import numpy as np

from tinyddpm.backend import to_numpy


class Statistics:
    """Count, mean and covariance of features that arrive batch by batch, in float64.

    Each batch is centred on its own mean and then merged (Chan, Golub and LeVeque 1979). Sums of squares would
    lose the variance of features that are far from 0.
    """

    def __init__(self):
        self.count = 0
        self.mean = self._scatter = None        # (D,), and the sum of (x - mean)(x - mean)^T, (D, D)

    def add(self, features):
        """Add features (n, D), any n but the same D each time. Raises ValueError for other shapes, NaN or infinity."""
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
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Statistics: 0 for equal ones, up to rounding.

    It is the squared Frechet distance of two Gaussians, which Heusel et al. (2017) fit to the features of samples and
    of data. It decreases with the number of samples: compare only values for equal counts.
    Raises ValueError for features of different widths and for fewer than two samples.
    """
    S1, S2 = a.covariance, b.covariance
    if S1.shape != S2.shape:
        raise ValueError(f"fid: the features are {len(S1)} and {len(S2)} wide; expected the same features")
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(S1) + np.trace(S2) - 2 * trace_sqrt_product(S1, S2))


def trace_sqrt_product(S1, S2):
    """tr((S1 S2)^(1/2)) of two symmetric positive semidefinite matrices (D, D), of any rank.

    With S1 = F1 F1^T and S2 = F2 F2^T, S1 S2 has the eigenvalues of (F1^T F2)(F1^T F2)^T (and zeros), whose roots
    are the singular values of F1^T F2. This avoids the root of an eigenvalue that is 0 up to rounding, which would
    turn an error of 1e-16 into one of 1e-8, in each of thousands of directions.
    """
    return np.linalg.svd(_factor(S1).T @ _factor(S2), compute_uv=False).sum()


def _factor(S):
    """F (D, rank) with F F^T = S. Eigenvalues that are 0 up to rounding are left out."""
    values, vectors = np.linalg.eigh(S)
    kept = values > values[-1] * len(S) * np.finfo(S.dtype).eps
    return vectors[:, kept] * np.sqrt(values[kept])
