"""Asymmetric numeral systems (Duda 2009): stacks of bits, on which a symbol takes about -log2 of its probability.

The range variant (rANS), for many stacks at once, in integers: a stack gives back exactly what was pushed.
"""

import numpy as np

PRECISION = 28                                  # probabilities are frequencies out of 2^28
LEAST, WORD = np.uint64(2**32), np.uint64(32)   # of a head, which holds 32 to 64 bits; the bits that leave it together
MASK, HALF = np.uint64(2**PRECISION - 1), np.uint64(PRECISION // 2)
FACTOR = 0x5851f42d                             # odd, so that it has an inverse
INVERSE = pow(FACTOR, -1, 2**PRECISION)


class Stacks:
    """N stacks that are never empty: they begin with random bits, and where words run out, random ones are added below.

    heads (N,) uint64: the top of each; words (N, capacity): what is below, 32 bits each, the bottom first; counts (N,)
    rng: of the random words; borrowed (N,) counts them. They come with what was pushed, and are left when it is popped.
    """

    def __init__(self, N, rng):
        self.heads, self.rng = rng.integers(LEAST, 2**64, N, dtype=np.uint64), rng
        self.words, self.counts = np.zeros((N, 1024), np.uint32), np.zeros(N, np.int64)
        self.borrowed = np.ones(N, np.int64)

    def push(self, start, frequency, mixed=False):
        """Push a symbol on each of the first stacks: its range start..start + frequency (n,) out of 2^PRECISION.

        mixed: it was, or will be, popped as if at random. The bits of symbols that are improbable, as pixels often are,
            are no random bits: popped by another distribution, they would give improbable symbols again.
        """
        head, start, frequency = self.heads[:len(start)], start.astype(np.uint64), frequency.astype(np.uint64)
        full = np.flatnonzero(head >> np.uint64(64 - PRECISION) >= frequency)
        if len(full):
            if self.counts[full].max() == self.words.shape[1]:
                self.words = np.concatenate([self.words, np.zeros_like(self.words)], axis=1)
            self.words[full, self.counts[full]] = head[full]                            # the low 32 bits
            self.counts[full] += 1
            head[full] >>= WORD
        quotient, rest = np.divmod(head, frequency)
        position = rest + start
        head[...] = (quotient << np.uint64(PRECISION)) + (_unmix(position) if mixed else position)

    def peek(self, n, mixed=False):
        """The position (n,) within 2^PRECISION that tells which symbol is on top of each of the first n stacks."""
        position = self.heads[:n] & MASK
        return (_mix(position) if mixed else position).astype(np.int64)

    def pop(self, start, frequency, mixed=False):
        """Pop the symbol with this range, which `peek` has told, from each of the first stacks."""
        position = self.peek(len(start), mixed).astype(np.uint64)
        head, start, frequency = self.heads[:len(start)], start.astype(np.uint64), frequency.astype(np.uint64)
        head[...] = frequency * (head >> np.uint64(PRECISION)) + position - start
        low = np.flatnonzero(head < LEAST)
        if len(low):
            empty = low[self.counts[low] == 0]
            if len(empty):
                self.words[empty, 0] = self.rng.integers(0, 2**32, len(empty), dtype=np.uint32)
                self.counts[empty] += 1
                self.borrowed[empty] += 1
            self.counts[low] -= 1
            head[low] = (head[low] << WORD) | self.words[low, self.counts[low]]


def _mix(position):
    """Another position for each, one to one, whose bits depend on all of its bits."""
    position = position * np.uint64(FACTOR) & MASK
    return (position ^ position >> HALF) * np.uint64(FACTOR) & MASK


def _unmix(position):
    position = position * np.uint64(INVERSE) & MASK
    return (position ^ position >> HALF) * np.uint64(INVERSE) & MASK
