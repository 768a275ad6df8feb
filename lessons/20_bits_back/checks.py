"""The tasks of homework 20."""

import math

import numpy as np
from tasks import attempt, expect, library, question

from tinyddpm.diffusion import bits_back

IMPORTS = """import numpy as np

from tinyddpm.diffusion.ans import PRECISION                 # probabilities are out of 2^PRECISION
from tinyddpm.diffusion.normal import log_tail               # log Phi(b), for b <= 0"""


def words(x):
    """A whole number of any size in 16 bits each, the lowest first, all of which the grader can compare."""
    if isinstance(x, Exception) or not isinstance(x, (int, np.integer)) or x < 0:
        return x if isinstance(x, Exception) else TypeError(f"got {type(x).__name__}; expected a whole number")
    return [int(x) >> shift & 0xffff for shift in range(0, 1024, 16)]


def some_ranges(rng, n, M):
    return [0, *sorted(rng.choice(np.arange(1, M), n - 1, replace=False).tolist()), M]


def stack(f, rng):
    for x, n, M in ((1, 3, 8), (1000, 4, 16), (2**70 + int(rng.integers(1000)), 5, 2**16),
                    (int.from_bytes(rng.bytes(80), "big"), 200, 2**28)):
        ends, what = some_ranges(rng, n, M), f"{n} symbols out of {M}, x of {x.bit_length()} bits"
        for symbol in (0, n // 2, n - 1):
            yield f"push: symbol {symbol}, {what}", words(attempt(f.push, x, ends, symbol))
        for place in (x % M, ends[1], ends[-2] - 1):                # a range's first number, and another's last
            found = attempt(f.pop, x // M * M + place, ends)
            found = found if isinstance(found, Exception) else expect(found, 2, "pop", "symbol and x")
            yield f"pop: the symbol, {what}", found if isinstance(found, Exception) else found[0]
            yield f"pop: x, {what}", words(found if isinstance(found, Exception) else found[1])


def frequencies(f, rng):
    for p, M in ((rng.random(5), 100), (rng.random(40)**8, 2**16), (np.array([0, 0, 0.9, 0.1, 0]), 64), ([1.0], 16)):
        p = np.array(p) / np.sum(p)
        found = attempt(f.frequencies, p.copy(), M)
        yield f"{len(p)} symbols out of {M}", found
        yield f"their sum, {len(p)} out of {M}", found if isinstance(found, Exception) else np.sum(found)


class Recorded:
    """A stack that writes down what is done with it."""

    def __init__(self, x):
        self.x, self.done = x, []

    def push(self, ends, symbol):
        self.done.append([1, ends[1], symbol])
        f = ends[symbol + 1] - ends[symbol]
        self.x = self.x // f * ends[-1] + ends[symbol] + self.x % f

    def pop(self, ends):
        place = self.x % ends[-1]
        symbol = sum(end <= place for end in ends) - 1
        self.done.append([0, ends[1], symbol])
        self.x = self.x // ends[-1] * (ends[symbol + 1] - ends[symbol]) + place - ends[symbol]
        return symbol


def pixels(f, rng):
    """Any number holds an image, so that the receiver is checked without a sender."""
    K, D = 4, 6
    p_z, p_x, q = (some_ranges(rng, K, 256), [some_ranges(rng, 3, 256) for _ in range(K)],
                   [[some_ranges(rng, K, 256) for _ in range(3)] for _ in range(D)])
    choose = lambda x: q[int(np.sum(x)) % D][int(x[0])]
    for number in range(1, 4):
        x = rng.integers(0, 3, D).tolist()
        for name, use in (("send", lambda stack: f.send(stack, list(x), p_z, p_x, choose)),
                          ("receive", lambda stack: f.receive(stack, D, p_z, p_x, choose))):
            stack = Recorded(int.from_bytes(rng.bytes(40), "big"))
            found = attempt(use, stack)
            failed = isinstance(found, Exception)
            if name == "receive":
                yield f"receive: image {number}", found
            yield f"{name}: the stack afterwards, image {number}", found if failed else words(stack.x)
            yield f"{name}: what was popped (0) and pushed (1), image {number}", found if failed else stack.done


def lengths(f, rng):
    for Z, X in ((2, 2), (3, 5), (6, 4)):
        p_z, p_x, q = rng.dirichlet(np.ones(Z)), rng.dirichlet(np.ones(X), Z), rng.dirichlet(np.ones(Z), X).T
        posterior = p_z[:, None] * p_x / (p_z @ p_x)
        certain = np.eye(Z)[posterior.argmax(axis=0)].T
        for name, chosen in (("some q", q), ("the posterior", posterior), ("a q that is certain", certain)):
            yield f"{Z} values of z, {X} of x, {name}", attempt(f.net_length, p_z, p_x, chosen)


def cumulative(f, rng):
    for z, reserved in ((rng.normal(0, 1, 8), 0), (rng.normal(0, 1, (2, 4)), 1001), (np.linspace(-9, -4, 30), 0),
                        (np.linspace(-5, -4.5, 20), 257), (np.array([40.0, -40.0, 0.0]), 5)):
        yield f"z from {z.min():.1f} to {z.max():.1f}, {reserved} reserved", attempt(f.cumulative, z.copy(), reserved)


def push_answer(x, ends, symbol):
    """In blocks: each of M numbers has as many of this symbol as its range is long."""
    blocks, place = divmod(x, ends[symbol + 1] - ends[symbol])
    return sum((blocks * ends[-1], ends[symbol], place))


def pop_answer(x, ends):
    """x is the number of smaller ones with the same symbol: those in whole blocks, and those in its own."""
    blocks, place = divmod(x, ends[-1])
    symbol = max(k for k, start in enumerate(ends[:-1]) if start <= place)
    return symbol, sum((blocks * (ends[symbol + 1] - ends[symbol]), place, -ends[symbol]))


def frequencies_answer(p, M):
    found = [1 + math.floor((M - len(p)) * float(each)) for each in p]
    for _ in range(M - sum(found)):
        found[max(range(len(p)), key=lambda k: (p[k], -k))] += 1
    return found


def send_answer(stack, x, p_z, p_x, q):
    """One operation after another, from a list of them."""
    z = stack.pop(q(x))
    todo = [(p_x[z], value) for value in x] + [(p_z, z)]
    while todo:
        stack.push(*todo.pop(0))


def receive_answer(stack, D, p_z, p_x, q):
    z, x = stack.pop(p_z), []
    while len(x) < D:
        x.insert(0, stack.pop(p_x[z]))
    stack.push(q(x), z)
    return x


def net_length_answer(p_z, p_x, q):
    """Over all pairs, one by one."""
    total = 0.0
    for x in range(p_x.shape[1]):
        share = sum(p_z[z] * p_x[z, x] for z in range(len(p_z)))
        for z in range(len(p_z)):
            if q[z, x] > 0:
                total += share * q[z, x] * (math.log2(q[z, x]) - math.log2(p_z[z]) - math.log2(p_x[z, x]))
    return total


OPEN = ("Compress a hundred digits with `python examples/compress.py mnist-eps encode DIGITS.npy OUT.ddpm --steps 25`, "
        "once with `--lanes 50` and once with `--lanes 5`, and decode both. Which file is smaller, which is faster, "
        "and what would make this codec useful?",
        "Five lanes: each stack borrows about 15 bits/dim once, so two digits a stack pay 7 bits/dim each for it, and "
        "twenty pay less than one. Fifty lanes are faster, because each symbol's push and pop is done for all lanes "
        "together, and so are the network's evaluations. Useful would be: a model trained by the bound L, with fewer "
        "steps, since half of the bits go to the last bits of pixels; other data to fill the stacks with at the "
        "beginning, such as images compressed otherwise; and arithmetic that is the same on all machines.")

TASKS = [
    question("20.1", "Push and pop", 2, stack, '''
def push(x, ends, symbol):
    """The number that holds x and this symbol: the x-th (from 0) of those whose remainder modulo M is in its range.

    x: a Python integer of any size; ends: where each symbol's range begins, and M; symbol: 0, 1, ... -> an integer
    """


def pop(x, ends):
    """The symbol on top of x, and what is below it."""
''', {"push": push_answer, "pop": pop_answer},
             hints={"push": "stay with Python's integers: np.int64 overflows, floats round"},
             push=["M = ends[-1]; of every M numbers, f = ends[symbol + 1] - ends[symbol] hold this symbol",
                   "x // f whole blocks of M come before it; in its own it is at ends[symbol] + x % f"],
             pop=["x % M is in the symbol's range", "undo the push"]),
    question("20.2", "Whole numbers for probabilities", 1, frequencies, '''
def frequencies(p, M):
    """Frequencies out of M, none of them 0: each symbol has 1, and its share p of the other M - n, rounded down.

    What rounding leaves over goes to the most probable symbol. p (n,) sums to 1 -> (n,) integers that sum to M
    """
''', {"frequencies": frequencies_answer}, frequencies=["np.floor, .astype(int), and p.argmax()"]),
    question("20.3", "Bits back for an image with one latent variable", 3, pixels, '''
def send(stack, x, p_z, p_x, q):
    """Push the pixels x, a list of symbols, by bits back.

    stack.push(ends, symbol), stack.pop(ends) -> symbol; p_z: the ranges of z; p_x[z]: those of every pixel, given z;
    q(x): those of z, given the whole image
    """


def receive(stack, D, p_z, p_x, q):
    """The list of D pixels that were sent; the stack is what it was before."""
''', {"send": send_answer, "receive": receive_answer},
             hints={"send": "z by q, the pixels from the first to the last, z by p_z",
                    "receive": "what was pushed last comes first, and z goes back"},
             send=["pop z, push the pixels in order, push z"],
             receive=["all of it backwards; the pixels come from the last to the first"]),
    question("20.4", "The length on average", 2, lengths, '''
def net_length(p_z, p_x, q):
    """The mean bits of bits back, E[-log2 p(x | z) - log2 p(z) + log2 q(z | x)], x from the model and z from q.

    p_z (Z,), p_x (Z, X) with rows that sum to 1, q (Z, X) with columns that sum to 1, in which there may be zeros
    -> a number
    """
''', {"net_length": net_length_answer},
             net_length=["the probability of a pair is p(x) q(z | x), with p(x) the sum of p(z) p(x | z) over z",
                         "a pair with q = 0 counts nothing: np.where, or leave it out"]),
    library("20.5", "The normal distribution in whole numbers", 2, cumulative, [bits_back.cumulative],
            cumulative=["Phi(z) for z <= 0 is the exponential of log_tail(z); for z > 0 it is 1 - Phi(-z)",
                        "times 2^PRECISION less what is reserved, np.floor, np.int64"]),
]
