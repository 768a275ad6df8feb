"""Bits back: images coded with a diffusion model, in about as many bits as its bound says (Townsend et al. 2019).

To send x_0, the sender pops x_1 from the stack as if it held samples of q(x_1 | x_0), and pushes x_0 with the
probabilities p(x_0 | x_1); pops x_2 from q(x_2 | x_1), and pushes x_1 with p(x_1 | x_2); and so on, at last x_T with
N(0, 1) (Kingma et al. 2019, Bit-Swap). The receiver does the reverse, and its stack gets back the bits that the sender
took. The cost is that of the bound (Eq. 3).

x_t is rounded to multiples of a power of two, its width, and so are the means of q and p. Then the frequencies are
integers that depend on t alone, and only the means must be the same, to their last bit, on both sides.
"""

import math

import numpy as np

from tinyddpm.backend import from_numpy, to_numpy
from tinyddpm.data import scaled
from tinyddpm.diffusion.ans import PRECISION
from tinyddpm.diffusion.normal import log_tail
from tinyddpm.diffusion.process import p_mean_variance, posterior_coefficients
from tinyddpm.diffusion.schedule import Schedule

FINE = 32               # widths in a standard deviation, at least
DEVIATIONS = 10         # of q, that a number may be from its mean
PARTS = 64              # of the distance of two bytes, to which the mean of a byte is rounded


class Uncodable(ValueError):
    """A value that has no range."""


class Normal:
    """A Gaussian around 0 of numbers on a grid, as frequencies out of 2^PRECISION.

    drawn: for q, whose numbers are popped before they are pushed. It must not draw what is next to impossible; for p,
        all numbers have a frequency of at least 1, so that they can be sent.
    """

    def __init__(self, deviation, width, farthest, drawn=False):
        self.drawn = drawn
        self.reach = int(farthest / width) + 1
        edges = (np.arange(-self.reach, self.reach + 2) - 0.5) * width / deviation
        self.ends = cumulative(edges, 0 if drawn else len(edges)) + (0 if drawn else np.arange(len(edges)))
        self.ends[0], self.ends[-1] = 0, 2**PRECISION

    def push(self, stacks, steps):
        """Push the numbers `steps` (n, D), in widths from their means."""
        places = steps + self.reach
        if places.min(initial=0) < 0 or places.max(initial=0) > 2 * self.reach:
            raise Uncodable("a value is too far from its mean to be coded")
        for place in places.T:
            stacks.push(self.ends[place], self.ends[place + 1] - self.ends[place], self.drawn)

    def pop(self, stacks, n, D):
        """Pop numbers (n, D), the last that were pushed."""
        places = np.empty((n, D), np.int64)
        for d in reversed(range(D)):
            place = np.searchsorted(self.ends, stacks.peek(n, self.drawn), side="right") - 1
            stacks.pop(self.ends[place], self.ends[place + 1] - self.ends[place], self.drawn)
            places[:, d] = place
        return places - self.reach


class Bytes:
    """The discretized decoder of Eq. 13 around means that are given in parts of the distance of two bytes."""

    def __init__(self, deviation):
        self.far = 400 * PARTS
        self.table = cumulative(np.arange(-self.far, self.far + 1) / PARTS / 127.5 / deviation, 257)

    def ends(self, means, byte):
        """The beginning of each byte's range, with the means (n,); that of 256 is the end of all."""
        at = np.clip(byte * PARTS - PARTS // 2 - means, -self.far, self.far) + self.far
        found = self.table[at] + byte
        return np.where(byte <= 0, 0, np.where(byte > 255, 2**PRECISION, found))

    def push(self, stacks, means, values):
        for mean, byte in zip(means.T, values.T.astype(np.int64)):
            start = self.ends(mean, byte)
            stacks.push(start, self.ends(mean, byte + 1) - start)

    def pop(self, stacks, means):
        values = np.empty(means.shape, np.int64)
        for d in reversed(range(means.shape[1])):
            position, mean = stacks.peek(len(means)), means[:, d]
            byte = np.zeros(len(means), np.int64)
            for step in (128, 64, 32, 16, 8, 4, 2, 1):                      # bisection
                byte += step * (self.ends(mean, byte + step) <= position)
            start = self.ends(mean, byte)
            stacks.pop(start, self.ends(mean, byte + 1) - start)
            values[:, d] = byte
        return values


def cumulative(z, reserved):
    """Phi(z) as a frequency out of 2^PRECISION, less those that are reserved, rounded down."""
    z = np.asarray(z, np.float64)
    below = np.exp(log_tail(-abs(z)))
    return np.floor((2**PRECISION - reserved) * np.where(z > 0, 1 - below, below)).astype(np.int64)


def shortened(p, times):
    """The reverse process that visits only these times of p (prediction.py), ascending, and its Schedule.

    Its steps are long, so that their variance is the small one, beta_tilde.
    """
    times = np.array([0, *times])
    alpha_bar = p.s.alpha_bar[times]
    s = Schedule(np.append(0.0, 1 - alpha_bar[1:] / alpha_bar[:-1]))
    return lambda xt, t: p_mean_variance(s, p(xt, times[t])[2], xt, t, clip=False, variance="small"), s


class BitsBack:
    """The codec of a reverse process p(xt, t) with the small variance along s, for images of a shape (H, W, C)."""

    def __init__(self, p, s, shape):
        self.p, self.s, self.shape, self.sigma = p, s, shape, np.sqrt(s.variance("small"))
        self.kept, self.added = np.sqrt(1 - np.asarray(s.beta)), np.sqrt(np.asarray(s.beta))
        least = np.minimum(self.added[1:], np.append(self.sigma[2:], 1.0))  # of q and p, for x_1..x_T
        self.width = np.append(1.0, 2.0**np.floor(np.log2(least / FINE)))

    def encode(self, images, stacks):
        """Push uint8 images (n, H, W, C), one on each of the first stacks."""
        T, n = self.s.T, len(images)
        x = to_numpy(scaled(images)).reshape(n, -1)
        for t in range(1, T + 1):
            before, mean = x, self._rounded(self.kept[t] * x.astype(np.float64), t)
            x = self._at(mean + self._q(t).pop(stacks, *x.shape), t)
            if t == 1:
                Bytes(self.sigma[1]).push(stacks, self._byte_means(x), images.reshape(n, -1))
            else:
                self._p(t).push(stacks, self._rounded(before, t - 1) - self._means(x, t))
        self._prior().push(stacks, self._rounded(x, T))

    def decode(self, n, stacks):
        """Pop n images, the last that were pushed: uint8 (n, H, W, C)."""
        T, D = self.s.T, math.prod(self.shape)
        x = self._at(self._prior().pop(stacks, n, D), T)
        for t in range(T, 0, -1):
            after = x
            if t == 1:
                values = Bytes(self.sigma[1]).pop(stacks, self._byte_means(x)).astype(np.uint8)
                x = to_numpy(scaled(values))
            else:
                x = self._at(self._means(x, t) + self._p(t).pop(stacks, n, D), t - 1)
            self._q(t).push(stacks, self._rounded(after, t) - self._rounded(self.kept[t] * x.astype(np.float64), t))
        return values.reshape(n, *self.shape)

    def _q(self, t):
        return Normal(self.added[t], self.width[t], DEVIATIONS * self.added[t], drawn=True)

    def _p(self, t):
        """Its mean differs from that of q(x_{t-1} | x_t, x_0) by an error of x_0, at most 2, times its factor."""
        factor, _ = posterior_coefficients(self.s, t)
        return Normal(self.sigma[t], self.width[t - 1], DEVIATIONS * self.added[t] + 2 * factor)

    def _prior(self):
        return Normal(1.0, self.width[-1], DEVIATIONS)

    def _rounded(self, x, t):
        """x in widths at time t, as integers."""
        return np.rint(np.asarray(x, np.float64) / self.width[t]).astype(np.int64)

    def _at(self, steps, t):
        """x_t from whole widths: exact in float32."""
        return (steps * self.width[t]).astype(np.float32)

    def _mean(self, x, t):
        mean, _, _ = self.p(from_numpy(x.reshape(-1, *self.shape)), np.full(len(x), t))
        return to_numpy(mean).reshape(x.shape).astype(np.float64)

    def _means(self, x, t):
        """Of p(x_{t-1} | x_t), in widths."""
        return self._rounded(self._mean(x, t), t - 1)

    def _byte_means(self, x):
        """Of p(x_0 | x_1), in parts of the distance of two bytes."""
        return np.rint((self._mean(x, 1) + 1) * 127.5 * PARTS).astype(np.int64)
