"""The variational bound in bits per dimension: Eq. 5 term by term, with the discretized decoder of Eq. 13.

All terms are per sample, (N,), and per dimension: nats divided by the number of dimensions and by ln 2.
"""

import math
from dataclasses import dataclass

import numpy as np

from tinyddpm.backend import array_module, generator, to_numpy
from tinyddpm.data import scaled
from tinyddpm.diffusion import process
from tinyddpm.diffusion.normal import log_interval
from tinyddpm.diffusion.schedule import per_sample

BATCH = 64          # images that are evaluated together
HALF_BIN = 1 / 255  # half the distance between neighbours among the 256 values of data in [-1, 1]
EDGE = 0.999        # beyond it are the first and the last value, whose bins extend to infinity


# ---- the terms of Eq. 5 ----

def prior_term(s, x0):
    """L_T = KL(q(x_T | x_0) || N(0, I)) (Eq. 5)."""
    alpha_bar = s.alpha_bar[-1]
    kl = (alpha_bar * x0.astype(np.float64)**2 - alpha_bar - math.log1p(-alpha_bar)) / 2
    return bits_per_dim(kl)


def bound_terms(s, x0, xt, t, mean, log_variance, cdf="exact"):
    """L_{t-1} at this x_t (Eq. 5): the KL of q(x_{t-1} | x_t, x_0) and p; for t = 1 the decoder's -log p(x_0 | x_1).

    x0, xt, mean (N, ...), t (N,); log_variance of p, like mean, or (N, 1, ...), one for each sample; cdf: see decoder
    Returns the terms (N,) and the cache.
    """
    xp = array_module(x0)
    beta_tilde = s.beta_tilde[np.maximum(t, min(2, s.T))]               # t = 1 has another term, below
    log_ratio = log_variance - per_sample(np.log(beta_tilde), x0)
    error = mean - process.mu_from_x0(s, x0, xt, t)
    kl = (log_ratio + xp.expm1(-log_ratio) + error**2 * xp.exp(-log_variance)) / 2          # Eq. 8, with its constant C
    terms = bits_per_dim(kl)
    first, decoder_cache = xp.asarray(np.flatnonzero(t == 1)), None
    if len(first):
        log_p, decoder_cache = decoder(x0[first], mean[first], log_variance[first], cdf)
        terms[first] = bits_per_dim(-log_p)
    return terms, (error, log_ratio, log_variance, first, decoder_cache)


def bound_terms_backward(dterms, cache):
    """The gradients with respect to mean and log_variance, both in the shape of mean."""
    error, log_ratio, log_variance, first, decoder_cache = cache
    xp = array_module(error)
    precision = xp.exp(-log_variance)
    dmean = error * precision
    dlog_variance = (-xp.expm1(-log_ratio) - error**2 * precision) / 2
    if len(first):
        dmean[first], dlog_variance[first] = decoder_backward(-xp.ones_like(error[first]), decoder_cache)
    scale = dterms.reshape(-1, *[1] * (error.ndim - 1)) / (error[0].size * math.log(2))
    return dmean * scale, dlog_variance * scale


def bits_per_dim(nats):
    """Nats of each dimension (N, ...) -> bits per dimension of each sample (N,)."""
    return nats.reshape(len(nats), -1).mean(axis=1) / math.log(2)


# ---- Eq. 13 ----

def decoder(x0, mean, log_variance, cdf="exact"):
    """log p(x_0 | x_1), the discretized decoder (Eq. 13), for every dimension, computed in float64.

    A Gaussian is integrated over the bin of x0, of width 2 / 255; at -1 and 1 the bin extends to infinity.
    x0 (N, ...): data in [-1, 1] that takes the 256 values of a byte; mean and log_variance of the Gaussian
    cdf: "exact", or "tanh", the authors' approximation of the normal CDF with probabilities of at least 1e-12
    Returns log p, like x0, and the cache.
    """
    if cdf not in ("exact", "tanh"):
        raise ValueError(f"decoder: cdf is {cdf!r}; expected exact or tanh")
    xp = array_module(x0)
    x0, mean, log_variance = (a.astype(np.float64) for a in (x0, mean, log_variance))
    sigma = xp.exp(log_variance / 2)
    low = xp.where(x0 < -EDGE, -np.inf, (x0 - HALF_BIN - mean) / sigma)                                 # Eq. 13
    high = xp.where(x0 > EDGE, np.inf, (x0 + HALF_BIN - mean) / sigma)
    if cdf == "tanh":
        return xp.log(xp.maximum(tanh_cdf(high) - tanh_cdf(low), 1e-12)), None
    log_p = log_interval(low, high)
    return log_p, (low, high, sigma, log_p)


def decoder_backward(dlog_p, cache):
    """The gradients with respect to mean and log_variance, in float64."""
    low, high, sigma, log_p = cache
    xp = array_module(low)
    at_low, at_high = (xp.exp(-z**2 / 2 - log_p) / math.sqrt(2 * math.pi) for z in (low, high))         # densities / p
    low, high = (xp.where(xp.isinf(z), 0, z) for z in (low, high))      # their densities are 0
    return dlog_p * (at_low - at_high) / sigma, dlog_p * (low * at_low - high * at_high) / 2


def tanh_cdf(z):
    """The authors' approximation of the normal CDF (Page 1977), with an error of at most 1.79e-4."""
    xp = array_module(z)
    z = xp.clip(z, -100, 100)
    return (1 + xp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2


# ---- the bound of a data set ----

@dataclass(frozen=True)
class Bound:
    """The bound of N images, estimated from the data and noise that were drawn.

    The times 2..T are divided into K strata, and for each image one time is drawn from each; with K = T - 1 that is
    every time, and the bound is complete. All in bits per dimension, except mse, the squared error of the predicted x0.
    """

    prior: np.ndarray           # (N,) L_T
    decoder: np.ndarray         # (N,) L_0
    kl: np.ndarray              # (N, K) L_{t-1}, at the time drawn from each stratum
    mse: np.ndarray             # (N, K + 1), first that at t = 1, then those of the strata
    edges: np.ndarray           # (K + 1,) stratum k holds the times edges[k] <= t < edges[k + 1]

    @property
    def sizes(self):
        """The number of times in each stratum: the weight of its term."""
        return np.diff(self.edges)

    @property
    def rate(self):
        """(N,) the bits for x_1: the prior's and those of all t > 1"""
        return self.prior + self.kl @ self.sizes

    @property
    def total(self):
        """(N,) the whole bound on the negative log likelihood (Eq. 3); Eq. 16 groups the same sum differently"""
        return self.rate + self.decoder

    def summary(self):
        """The contents of evaluate.py's JSON file: [mean, standard error] of each part, the terms by t, and Table 4."""
        reverse_time, rate, rmse = (column.tolist() for column in self.rate_distortion())
        parts = {"prior": self.prior, "rate": self.rate, "distortion": self.decoder, "total": self.total}
        terms = [mean_and_error(column) for column in self.kl.T]
        return {"images": len(self.prior), **{name: mean_and_error(values) for name, values in parts.items()},
                "terms": {"first_t": self.edges[:-1].tolist(), "mean_and_error": terms},
                "rate_distortion": {"reverse_time": reverse_time, "rate": rate, "rmse": rmse}}

    def rate_distortion(self):
        """Table 4 and Figure 5: the columns reverse time T - t + 1, rate, and distortion, the RMSE of x_0 on 0..255.

        At x_t the receiver has the bits of L_T and of all later terms. A stratum is represented by its mean time, and
        half of its bits count as later: with 100 strata or more, the rates are accurate to a few percent.
        """
        kl, sizes = self.kl.mean(axis=0), self.sizes
        later = np.append(np.cumsum((kl * sizes)[::-1])[::-1], 0)       # bits of the strata k, k + 1, ...
        rate = np.append(later[0], later[1:] + kl * (sizes - 1) / 2) + self.prior.mean()
        t = np.append(1, (self.edges[:-1] + self.edges[1:] - 1) / 2)
        return self.edges[-1] - t, rate, np.sqrt(self.mse.mean(axis=0)) * 127.5

    def at(self, reverse_time):
        """The rate and the distortion at any reverse time, interpolated between those of rate_distortion."""
        times, *columns = (column[::-1] for column in self.rate_distortion())
        return [float(np.interp(reverse_time, times, column)) for column in columns]


def evaluate(p, s, images, times=None, seed=0, cdf="exact", watch=None, labels=None):
    """The Bound of uint8 images (N, H, W, C) (Eq. 5).

    p: the reverse process, p(xt, t) -> mean, variance, x_0 of p(x_{t-1} | x_t)
    labels: (N,) for the bound on log p(image | label); then p(labels) returns the reverse process for those labels
    times: None for all t, or how many of 2..T to draw for each image: a quick estimate with unbiased rate and total
    cdf: see decoder; watch(number, total) is called after each evaluation of a batch
    """
    times = s.T - 1 if times is None else times
    if not 1 <= times <= s.T - 1:
        raise ValueError(f"times is {times}; expected 1 to T - 1 = {s.T - 1}")
    edges = strata(s.T, times)
    starts, parts = range(0, len(images), BATCH), []
    for number, start in enumerate(starts):
        x0 = scaled(images[start:start + BATCH])
        noise, choices = generator(seed, "bound", start), np.random.default_rng([seed, start])
        p_batch = p if labels is None else p(labels[start:start + BATCH])
        decoder_term, mse = one_term(p_batch, s, x0, np.ones(len(x0), int), noise, cdf)
        kl, errors = [], [mse]
        for k in range(times):
            t = choices.integers(edges[k], edges[k + 1], len(x0))
            term, mse = one_term(p_batch, s, x0, t, noise, cdf)
            kl.append(term)
            errors.append(mse)
            if watch:
                watch(number * times + k + 1, len(starts) * times)
        parts.append([to_numpy(prior_term(s, x0)), decoder_term, np.stack(kl, 1), np.stack(errors, 1)])
    return Bound(*(np.concatenate(part) for part in zip(*parts)), edges)


def strata(T, K):
    """The K + 1 edges of K strata of the times 2..T, narrower at small t, where the terms are large and differ most."""
    edges = np.round(2 + (T - 1) * np.linspace(0, 1, K + 1)**3).astype(int)
    k = np.arange(K + 1)
    return np.maximum.accumulate(edges - k) + k         # at least one time in each


def one_term(p, s, x0, t, rng, cdf):
    """L_{t-1} with one draw of x_t, and the mean squared error of the x_0 predicted there: two NumPy arrays (N,)."""
    xt = process.q_sample(s, x0, t, rng.standard_normal(x0.shape, dtype=x0.dtype))
    mean, variance, predicted = p(xt, t)
    terms, _ = bound_terms(s, x0, xt, t, mean, array_module(x0).log(variance), cdf)
    return to_numpy(terms), to_numpy(((predicted - x0)**2).reshape(len(x0), -1).mean(axis=1))


def mean_and_error(values):
    """The mean of (N,) values and its standard error over the images, Monte Carlo noise included."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
