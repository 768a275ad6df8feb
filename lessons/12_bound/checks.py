"""The tasks of homework 12."""

import math

import numpy as np
from tasks import library, question

from tinyddpm.diffusion import likelihood, schedule

IMPORTS = """import math

import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.diffusion.likelihood import EDGE, HALF_BIN, tanh_cdf       # 0.999, 1 / 255, and the authors' CDF
from tinyddpm.diffusion.normal import log_interval        # log(CDF(high) - CDF(low)) without underflow"""


def bits_per_dim(f, rng):
    for shape in ((3, 4), (2, 3, 3, 2)):
        yield f"bits_per_dim of {shape}", f.bits_per_dim(rng.standard_normal(shape))


def prior_term(f, rng):
    for T, beta_T in ((10, 0.3), (1000, 0.02)):
        yield f"prior_term, T = {T}", f.prior_term(schedule.linear(T, 1e-4, beta_T), rng.uniform(-1, 1, (3, 2, 2, 1)))


def decoder(f, rng):
    x0 = rng.integers(0, 256, (2, 3, 4)) / 127.5 - 1
    x0[0, 0, :2] = -1, 1
    mean = x0 + 0.02 * rng.standard_normal(x0.shape)
    log_variance = np.full(x0.shape, 2 * math.log(0.01)) + 0.3 * rng.standard_normal(x0.shape)
    yield "log p", f.decoder(x0, mean, log_variance)[0]
    yield "log p of far means", f.decoder(x0, mean + 0.3, log_variance)[0]
    yield "log p by the authors' CDF", f.decoder(x0, mean, log_variance, "tanh")[0]
    yield "log p of far means by the authors' CDF", f.decoder(x0, mean + 0.3, log_variance, "tanh")[0]


def decoder_of_levels(f, rng):
    levels = int(rng.integers(3, 17))
    x0 = 2 * rng.integers(0, levels, (3, 5)) / (levels - 1) - 1
    x0[0, :2] = -1, 1
    yield f"log p, {levels} values", f.decoder_of_levels(x0, x0 + 0.1 * rng.standard_normal(x0.shape), 0.2, levels)


def levels_answer(x0, mean, sigma, levels):
    cdf, half = lambda z: (1 + math.erf(z / math.sqrt(2))) / 2, 1 / (levels - 1)
    out = np.empty_like(x0)
    for i in np.ndindex(x0.shape):
        low = 0 if x0[i] < -1 + half else cdf((x0[i] - half - mean[i]) / sigma)
        high = 1 if x0[i] > 1 - half else cdf((x0[i] + half - mean[i]) / sigma)
        out[i] = math.log(high - low)
    return out


OPEN = ("Estimate the bits per dimension of mnist-eps for digits, for digits upside down, for their negatives (255 - "
        "x), for black images and for noise of bytes. Put them in order before you look.",
        "In a trial: black 1.4, digits 2.35, upside down 2.38, negatives 19, noise 26. Eight bits would be a model "
        "that knows nothing: the model is worse than that on what it has never seen. And a black image costs less "
        "than any digit, though it is not one. A small number of bits does not mean 'looks like the data': most bits "
        "pay for the exact values of pixels, and black has none to pay for.")

TASKS = [
    library("12.1", "Bits per dimension", 1, bits_per_dim, [likelihood.bits_per_dim],
            bits_per_dim=["the mean over all axes but the first", "a bit is ln 2 nats"]),
    library("12.2", "What is left at T", 2, prior_term, [likelihood.prior_term],
            prior_term=["q(x_T | x_0) has mean sqrt(alpha_bar_T) x_0 and variance 1 - alpha_bar_T",
                        "its KL from N(0, 1): (mean^2 + variance - 1 - log variance) / 2",
                        "as bits per dimension of each sample, (N,)"]),
    library("12.3", "The discretized decoder (Eq. 13)", 4, decoder, [likelihood.decoder],
            decoder=["in float64; sigma from the log variance", "the two ends of the bin, in units of sigma from the "
                                                                "mean; no end at the first and last value",
                     "exact: log_interval(low, high); tanh: log of the difference of tanh_cdf, at least 1e-12",
                     "return log p and a cache (None will do here)"]),
    question("12.4", "Another bin", 3, decoder_of_levels, '''
def decoder_of_levels(x0, mean, sigma, levels):
    """log p of data that take `levels` evenly spread values from -1 to 1, a bin around each; the outer bins reach to
    infinity.

    x0, mean (N, ...), sigma a number -> log p like x0
    """
''', {"decoder_of_levels": levels_answer}, decoder_of_levels=["how far apart are the values? 256 of them give Eq. 13"]),
]
