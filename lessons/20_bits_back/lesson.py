"""Lesson 20: bits back.

    python lessons/20_bits_back/lesson.py [--quick]
"""

import contextlib
import copy
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm import codec, training
from tinyddpm.diffusion import ans, bits_back, likelihood, prediction
from tinyddpm.sampling import samplers

class Stack:
    """A whole number that holds symbols. path: its bits after each push and pop."""

    def __init__(self, x):
        self.x, self.path = x, [math.log2(x)]

    def push(self, ends, symbol, factor=1):
        start, f, M = ends[symbol], ends[symbol + 1] - ends[symbol], ends[-1]
        self.x = self.x // f * M + (start + self.x % f) * pow(factor, -1, M) % M
        self.path.append(math.log2(self.x))

    def pop(self, ends, factor=1):
        M, place = ends[-1], self.x % ends[-1] * factor % ends[-1]
        symbol = sum(end <= place for end in ends) - 1      # in whose range it is
        self.x = self.x // M * (ends[symbol + 1] - ends[symbol]) + place - ends[symbol]
        self.path.append(math.log2(self.x))
        return symbol


def ranges(p, M=2**32):
    """Where the range of each symbol begins, and M at the end; none is empty."""
    below = np.append(0, np.cumsum(p)).tolist()
    return [int((M - len(p)) * (b / below[-1])) + k for k, b in enumerate(below)]


def encode(stack, x, q, p, prior, factor=0x9e3779b1):
    """q: for each step a function x -> ranges of z; p: back, z -> ranges of x."""
    for forward, backward in zip(q, p):
        z = stack.pop(forward(x), factor)               # takes the bits of q(z | x)
        stack.push(backward(z), x)
        x = z                                           # is what is left to send
    stack.push(prior, x)


def decode(stack, q, p, prior, factor=0x9e3779b1):
    x = stack.pop(prior)
    for forward, backward in zip(q[::-1], p[::-1]):
        z, x = x, stack.pop(backward(x))
        stack.push(forward(x), z, factor)               # gives them back
    return x


def decoded(coder, stacks):
    """Two batches of images from a copy of the stacks; grey from where a number is impossible."""
    stacks, found = copy.deepcopy(stacks), np.full((2, len(stacks.heads), 28, 28, 1), 100, np.uint8)
    with contextlib.suppress(ValueError), np.errstate(divide="ignore"):
        for i in (1, 0):                                # the last is on top
            found[i] = coder.decode(len(stacks.heads), stacks)
    return found.reshape(-1, 28, 28, 1)


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng, ends, stack, p = np.random.default_rng(20), [0, 5, 7, 8], Stack(1), np.array([5, 2, 1]) / 8
    for letter in "abac":
        stack.push(ends, "abc".index(letter))
        print(f"push {letter}: {stack.x}")
    print(f"popped: {', '.join('abc'[stack.pop(ends)] for _ in 'abac')}; {stack.x} is left")
    for letter in rng.permutation(np.repeat([0, 1, 2], [500, 200, 100])):
        stack.push(ends, letter)
    print(f"800 letters: {stack.path[-1] / 800:.4f} bits each; the entropy is {-p @ np.log2(p):.4f}")

    p_z, p_x = np.array([0.5, 0.3, 0.2]), np.array([[7, 1, 1, 1], [1, 7, 1, 1], [1, 1, 4, 4]]) / 10
    joint, text = p_z[:, None] * p_x, b"These bytes lay on the stack before."
    total, bits, third = joint.sum(axis=0), -np.log2(joint), np.full((3, 4), 1 / 3)
    sent = rng.permutation(np.repeat(range(4), np.rint(total * (100 if lesson.quick else 5000)).astype(int))).tolist()
    print(f"-log2 p(x) is {-total @ np.log2(total):.4f} on average; with the best z it takes {total @ bits.min(0):.4f}")
    for name, q, *factor in (("the posterior", joint / total), ("1/3", third), ("1/3, not mixed", third, 1)):
        stack, exact = Stack(int.from_bytes(text, "big")), (total * q * (bits + np.log2(q))).sum()
        model = [lambda x: ranges(q[:, x])], [lambda z: ranges(p_x[z])], ranges(p_z), *factor
        for x in sent:
            encode(stack, x, *model)
        print(f"q is {name}: {exact:.4f} by enumeration, {(stack.path[-1] - stack.path[0]) / len(sent):.4f} measured")
        assert [decode(stack, *model) for _ in sent] == sent[::-1]
    print("what is left:", stack.x.to_bytes(len(text), "big").decode())

    gaussian = lambda w, mean, variance: ranges(np.exp(-(np.arange(-6, 6 + w, w) - mean)**2 / (2 * variance)))
    step = lambda w, other: lambda k: gaussian(w, math.sqrt(0.7) * (k * other - 6), 0.3)
    sent = np.rint(8 * (rng.standard_normal(5 if lesson.quick else 60) + 6)).astype(int).tolist()
    truth = -np.log2(np.diff(gaussian(1 / 8, 0, 1)) / 2**32)[sent].mean()
    for T, width in ((10, 1 / 8), (10, 1 / 256), (40, 1 / 32), (10, 1 / 32)):
        stack, w = Stack(int.from_bytes(rng.bytes(500), "big")), [1 / 8] + [width] * T
        chain = [step(b, a) for a, b in zip(w, w[1:])], [step(a, b) for a, b in zip(w, w[1:])], gaussian(width, 0, 1)
        for x in sent:
            encode(stack, x, *chain)
        each = np.diff(stack.path).reshape(len(sent), -1).mean(axis=0)      # pop, push, pop, push, ..., push
        paths = [np.cumsum(np.append(0, d)) for d in (each, np.concatenate([each[:-1:2], each[1::2], each[-1:]]))]
        print(f"T = {T}, width 1/{1 / width:.0f}: {each.sum():.3f} bits, the truth {truth:.3f}; borrowed "
              f"{-paths[0].min():.1f}, all at once {-paths[1].min():.1f}")
        assert [decode(stack, *chain) for _ in sent] == sent[::-1]
    lesson.curves("figure_stack.png", dict(zip(("one by one", "all at once"), paths)), "o-", ylabel="bits on the stack")

    tinyddpm.use("numba")
    (model, preset), file = training.load_model("mnist-eps"), lesson.folder / "few.ddpm"
    T, lanes, count = (3, 2, 4) if lesson.quick else (16, 4, 12)
    images, stacks, sizes = course.digits()[0][-count:], ans.Stacks(lanes, np.random.default_rng(0)), []
    times = samplers.choose_times(preset.diffusion.make_schedule(), T, "logsnr")[::-1]
    p, s = bits_back.shortened(prediction.reverse_process(model.eval(), preset.diffusion), times)
    coder = bits_back.BitsBack(p, s, images.shape[1:])
    for i in range(0, count, lanes):
        coder.encode(images[i:i + lanes], stacks)
        sizes.append(32 * (stacks.counts + 2).sum() / images[:i + lanes].size)
    borrowed = 32 * (stacks.borrowed + 1).sum() / images[:lanes].size
    net, more = sizes - borrowed / np.arange(1, len(sizes) + 1), 2**np.arange(8)
    bound, error = likelihood.evaluate(p, s, images, T - 1).summary()["total"]
    print(f"{count} digits: {sizes[-1]:.2f} bits/dim, not borrowed {net[-1]:.2f}; the bound {bound:.2f} +- {error:.2f}")
    curves = {"if more are like these": (more, net[-1] + borrowed / more), "measured": sizes,
              "less the borrowed bits": net, "the bound": (more, np.full(8, bound))}
    lesson.curves("figure_bits.png", curves, "o-", xscale="log", xlabel="images on each stack", ylabel="bits/dim")
    codec.compress(file, model, preset, images[:lanes], T, lanes)
    print(f"a file of {lanes} digits: {file.stat().st_size:,} bytes")
    assert (codec.decompress(file, model, preset) == images[:lanes]).all()
    wrong = bits_back.BitsBack(lambda xt, t: (np.nextafter(p(xt, t)[0], np.float32(9)), 0, 0), s, coder.shape)
    rows = {"sent": images[-2 * lanes:], "received": decoded(coder, stacks), "last bits": decoded(wrong, stacks)}
    tinyddpm.use("numpy")
    rows["another backend"] = decoded(coder, stacks)
    for name, found in rows.items():
        print(f"{name}: {(found == rows['sent']).all(axis=(1, 2, 3)).sum()} of {2 * lanes} digits are right")
    lesson.rows("figure_wrong.png", rows, (8, 4), low=0, high=255)
    try:
        codec.decompress(file, model, preset)
    except ValueError as refusal:
        print("refused: it needs", str(refusal).split(" needs ")[1].split(":")[0])
    file.unlink()
    lesson.end()


if __name__ == "__main__":
    course.program(main)
