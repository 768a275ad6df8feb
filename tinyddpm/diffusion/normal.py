"""Probabilities of a standard normal variable, accurate even far out in its tails."""

import math
from functools import cache

import numpy as np
from numpy.polynomial.chebyshev import chebinterpolate, chebval

from tinyddpm.backend import array_module

DEGREE = 30         # of the polynomial in erfcx: the error stays below 1e-14


def log_interval(a, b):
    """log(Phi(b) - Phi(a)) for a < b in float64, where Phi is the normal CDF; a may be -inf, b may be inf.

    Differences of Phi cancel, and underflow beyond 38 standard deviations. Here the interval is mirrored to
    the left, and exp(-b^2 / 2) is factored out: the relative error of the probability stays near 1e-14 / (b - a).
    """
    xp = array_module(a)
    mirror = a + b > 0
    a, b = xp.where(mirror, -b, a), xp.where(mirror, -a, b)
    left = xp.minimum(b, 0)             # b itself, except for intervals around 0
    scaled = erfcx(-left / math.sqrt(2)) - erfcx(-a / math.sqrt(2)) * xp.exp((left**2 - a**2) / 2)
    tails = log_tail(a), log_tail(-b)   # log probabilities outside an interval around 0
    with np.errstate(divide="ignore"):
        return xp.where(b > 0, xp.log1p(-xp.exp(tails[0]) - xp.exp(tails[1])), xp.log(scaled / 2) - left**2 / 2)


def log_tail(b):
    """log Phi(b) for b <= 0, however far from 0. The values for b > 0 are meaningless."""
    xp = array_module(b)
    left = xp.minimum(b, 0)
    with np.errstate(divide="ignore"):
        return xp.log(erfcx(-left / math.sqrt(2)) / 2) - left**2 / 2


def erfcx(z):
    """exp(z^2) erfc(z) for z >= 0, computed as u exp(P(u)) with u = 2 / (2 + z) and a Chebyshev series P."""
    xp = array_module(z)
    u = 2 / (2 + z)
    return u * xp.exp(chebval(2 * u - 1, _coefficients(), tensor=False))


@cache
def _coefficients():
    """The coefficients of P in erfcx, the polynomial through the exact values at the Chebyshev points."""
    def exact(z):
        if z < 3:
            return math.exp(z * z) * math.erfc(z)
        fraction = z
        for k in range(60, 0, -1):                           # Laplace's continued fraction, from its end
            fraction = z + k / 2 / fraction
        return 1 / (math.sqrt(math.pi) * fraction)

    def log_ratio(x):
        u = (x + 1) / 2
        return np.array([math.log(exact(2 / each - 2) / each) for each in u])

    return chebinterpolate(log_ratio, DEGREE)
