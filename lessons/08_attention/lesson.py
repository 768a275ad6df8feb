"""Lesson 8: self-attention and its backward.

    python lessons/08_attention/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

from tinyddpm import gradcheck, ops, plots


def attention_loops(q, k, v):
    """y_i = sum over j of p_ij v_j, p_i = softmax(q_i k_j / sqrt(d)). (L, d) each"""
    L, d = q.shape
    y = np.zeros_like(v)
    for i in range(L):
        weights = np.array([np.exp(q[i] @ k[j] / np.sqrt(d)) for j in range(L)])
        for j in range(L):
            y[i] += weights[j] / weights.sum() * v[j]
    return y


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(q, k, v):
    """The same in two products. (N, L, d) each"""
    scale = 1 / np.sqrt(q.shape[-1])
    p = softmax(q @ k.swapaxes(-1, -2) * scale)     # (N, L, L): a row for each query
    return p @ v, (q, k, v, p, scale)


def attention_backward(dy, cache):
    q, k, v, p, scale = cache
    dv = p.swapaxes(-1, -2) @ dy                                 # y = p v
    dp = dy @ v.swapaxes(-1, -2)
    dlogits = p * (dp - (p * dp).sum(axis=-1, keepdims=True))    # p = softmax(logits)
    dq = dlogits @ k * scale                                     # logits = q k^T scale
    dk = dlogits.swapaxes(-1, -2) @ q * scale
    return dq, dk, dv


def entropy(p):
    """How many positions a row of p attends to: e to its entropy."""
    return np.exp(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)).mean()


def features(image, size=4):
    """A vector for each size x size patch of a digit: its pixels, centred and of length one. -> (L, size size)"""
    patches, _ = ops.patchify(image[None], size)
    rows = patches.reshape(-1, patches.shape[-1])
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(8)
    q, k, v = rng.standard_normal((3, 2, 5, 4))
    y, cache = attention(q, k, v)
    print(f"two products against the loops: {np.abs(y[0] - attention_loops(q[0], k[0], v[0])).max():.0e}")
    print(f"one head of the library's: {np.abs(y - ops.attention(q, k, v)[0]).max():.0e}")
    print(f"the backward: largest relative error {gradcheck.check(attention, attention_backward, q, k, v):.0e}")
    wrong = {"q and k swapped": lambda dy, c: (lambda g: (g[1], g[0], g[2]))(attention_backward(dy, c)),
             "softmax's sum left out": lambda dy, c: ((c[3] * (dy @ c[2].swapaxes(-1, -2))) @ c[1] * c[4],
                                                      *attention_backward(dy, c)[1:]),
             "the scale forgotten": lambda dy, c: [g / by for g, by in zip(attention_backward(dy, c), (c[4], c[4], 1))]}
    course.controls({name: (attention, backward, q, k, v) for name, backward in wrong.items()})

    # It does not know where things are: shuffle the positions, and the results are shuffled
    order = rng.permutation(5)
    shuffled, _ = attention(q[:, order], k[:, order], v[:, order])
    print(f"positions shuffled: the same results, shuffled, to {np.abs(shuffled - y[:, order]).max():.0e}")
    L = 256
    print(f"16 x 16 pixels: {L * L:,} weights for each image; 32 x 32 would be {(4 * L)**2:,}")

    widths, attended = (2, 8, 32, 128, 512), {"divided by the root": [], "not divided": []}
    for d in widths:
        q, k = rng.standard_normal((2, 8, 64, d))
        attended["divided by the root"].append(entropy(softmax(q @ k.swapaxes(-1, -2) / np.sqrt(d))))
        attended["not divided"].append(entropy(softmax(q @ k.swapaxes(-1, -2))))
    print(f"how many of 64 positions a row attends to, at the widths {', '.join(map(str, widths))}")
    for name, found in attended.items():
        print(f"{name}: " + ", ".join(f"{n:.1f}" for n in found))
    assert attended["not divided"][-1] < 2 < attended["divided by the root"][-1]

    # Which patches of a digit look alike? Queries and keys are the patches themselves
    images, _ = course.digits(40)
    digit = images[9] / 127.5 - 1
    patches = features(digit)
    p = softmax(patches @ patches.T * 8)
    asking = [int(i) for i in np.argsort(-np.ptp(ops.patchify(digit[None], 4)[0].reshape(49, -1), axis=1))[[0, 3, 12]]]
    figure, axes = lesson.figure(1, 4, size=(8, 2.3))
    course.show(axes[0], digit, "three patches ask")
    for ax, i, colour in zip(axes[1:], asking, plots.COLOURS):
        corner = np.array([i % 7, i // 7]) * 4 - 0.5
        axes[0].add_patch(Rectangle(corner, 4, 4, fill=False, edgecolor=colour, linewidth=2))
        course.show(ax, digit)
        ax.imshow(p[i].reshape(7, 7), extent=(-0.5, 27.5, 27.5, -0.5), cmap="hot", alpha=0.7)
        ax.add_patch(Rectangle(corner, 4, 4, fill=False, edgecolor=colour, linewidth=2))
        ax.set_title("what this one attends to", loc="center", fontsize="small", color=colour)
    lesson.save(figure, "figure_patches.png")

    figure, (left, right) = lesson.figure(1, 2, size=(8, 3))
    z = rng.standard_normal(12)
    for factor in (0.3, 1, 5):
        left.plot(softmax(factor * z), ".-", label=f"softmax({factor:g} z)")
    left.legend()
    left.set(xlabel="position", ylabel="weight", title="the larger z, the harder the choice")
    factors = np.logspace(-1, 2, 30)
    slope = [np.abs(ops.softmax_backward(rng.standard_normal(12), softmax(f * z))).mean() for f in factors]
    right.loglog(factors, slope)
    right.set(xlabel="factor of z", ylabel="mean size of dz", title="what its backward passes on")
    lesson.save(figure, "figure_softmax.png")

    lesson.curves("figure_wrong.png", {name: (widths, found) for name, found in attended.items()}, ".-",
                  xlabel="width of q and k", ylabel="positions attended to", xscale="log")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
