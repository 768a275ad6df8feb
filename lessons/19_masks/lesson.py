"""Lesson 19: masks instead of noise.

    python lessons/19_masks/lesson.py [--quick]
"""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm import evaluation, plots
from tinyddpm.data import Dataset
from tinyddpm.diffusion import discrete
from tinyddpm.diffusion.discrete import Discrete, DiscreteConfig
from tinyddpm.sampling.unmask import generate
from tinyddpm.training import load_model
from tinyddpm.training.discrete import DiscreteTrainer, images, values

LANGUAGE = {"ab": 0.5, "ba": 0.3, "aa": 0.2}
LETTERS, MASK = "ab", "_"


def masked(word, hidden):
    """The word with a mask at each of the hidden positions."""
    return "".join(MASK if i in hidden else letter for i, letter in enumerate(word))


def network(x):
    """The perfect network: p(letter | x) at each position, of the words that fit."""
    fits = {word: p for word, p in LANGUAGE.items()
            if all(x[i] in (MASK, word[i]) for i in range(len(x)))}
    total = sum(fits.values())
    return [{letter: sum(p for word, p in fits.items() if word[i] == letter) / total
             for letter in LETTERS} for i in range(len(x))]


def bound(T):
    """The mean of the bound over the words, in bits: over all t and ways to mask."""
    total = 0.0
    for t, (word, share) in itertools.product(range(1, T + 1), LANGUAGE.items()):
        for hidden in ((), (0,), (1,), (0, 1)):
            shown = len(word) - len(hidden)
            chance = (t / T)**len(hidden) * (1 - t / T)**shown
            found = network(masked(word, hidden))
            for i in hidden:
                total -= share * chance / t * np.log2(found[i][word[i]])
    return total


def drawn(steps, rng):
    """A word: each mask falls in any of the steps with the same probability."""
    x, when = [MASK, MASK], rng.integers(steps, size=2)
    for step in sorted(set(when)):
        found = network(x)
        for i in np.flatnonzero(when == step):
            x[i] = LETTERS[int(rng.random() >= found[i]["a"])]
    return "".join(x)


def library_bound(d, words, shares):
    """The same by the library, for any discrete process, with its perfect network."""
    states, total = np.array([*itertools.product(range(d.states), repeat=2)]), 0.0
    for t in range(1, d.T + 1):
        same, a = states[:, None] == words, d.kept(t)
        joint = shares * np.prod(a * same + (1 - a) * d.noise[states][:, None], axis=2)     # of x_t and the word
        p = np.array([[joint[:, words[:, i] == k].sum(axis=1) for k in (0, 1)] for i in (0, 1)]).transpose(2, 0, 1)
        p /= np.maximum(p.sum(axis=2, keepdims=True), 1e-300)
        for word, chance in zip(words, joint.T):
            terms, _ = d.terms(np.broadcast_to(word, states.shape), states, t, p)
            total += (chance * terms.sum(axis=1)).sum()
    return total


def in_order(p, x0, order):
    """-log2 p of images x0 (N, H, W), one pixel after the other: the bits of each pixel, on average."""
    shape, x0, total = x0.shape, x0.reshape(len(x0), -1), 0.0
    x = np.full_like(x0, 2)
    for number, i in enumerate(order):
        t = np.full(len(x), 1000 * (1 - number / x.shape[1]))               # so much is masked
        found = p(x.reshape(shape), t).reshape(*x.shape, 2)
        total -= np.log2(found[range(len(x)), i, x0[:, i]])
        x[:, i] = x0[:, i]
    return total.mean() / x.shape[1]


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng, quick = np.random.default_rng(19), lesson.quick
    entropy = -sum(p * np.log2(p) for p in LANGUAGE.values())
    print(f"the entropy of the language: {entropy:.4f} bits a word")
    for T in (1, 2, 4, 16, 64):
        words = [drawn(T, rng) for _ in range(100 if quick else 10_000)]
        wrong = words.count("bb") / len(words)
        print(f"{T} step{'s' * (T > 1)}: the bound {bound(T):.4f} bits; {wrong:.1%} of the words are bb")
    words, shares = np.array([[LETTERS.index(a) for a in word] for word in LANGUAGE]), np.array([*LANGUAGE.values()])
    for kind in ("absorbing", "uniform"):
        found = [library_bound(Discrete(2, kind, T), words, shares) for T in (4, 16, 64)]
        print(f"the library's bound, {kind}, 4, 16, 64 steps: " + ", ".join(f"{one:.4f}" for one in found))

    tinyddpm.use("auto")
    digits, _ = course.digits()
    model, preset = load_model("masks", DiscreteConfig)
    trainer = DiscreteTrainer(replace(preset, training=replace(preset.training, steps=2 if quick else 150)))
    data = Dataset(digits[:4500])
    while trainer.progress < 1:
        trainer.step(data.batch(trainer.steps_done, 64, seed=0)[0])
    x0 = values(digits[-(16 if quick else 100):], rng)
    with trainer.averaged() as mine:
        for name, its in {"150 steps": mine, "the weights masks": model}.items():
            d, p = trainer.schedule, discrete.reverse_process(its, trainer.schedule)
            print(f"{name}: {discrete.bits(p, d, x0, rng, 1 if quick else 8).mean():.4f} bits a pixel")
    few = x0[:2 if quick else 8]
    orders = {"any order": rng.permutation(784), "row by row": np.arange(784)}
    for name, order in orders.items():
        print(f"one pixel at a time, {name}: {in_order(p, few, order[:8] if quick else order):.4f} bits a pixel")
    print(f"the bound for the same digits: {discrete.bits(p, d, few, rng, 1 if quick else 64).mean():.4f}")

    path = []
    generate(model, d, 8, (28, 28), seed=1, steps=4 if quick else 784, watch=lambda step, *_: path.append(step.x))
    lesson.rows("figure_path.png", {f"{share:.0%} masked": images(path[int((1 - share) * (len(path) - 1))])
                                    for share in (0.95, 0.8, 0.6, 0.3, 0)}, (8, 5))
    rows, (extract, _) = {}, evaluation.extractor(replace(preset.model, image_channels=1))
    features = lambda x: evaluation.measure(extract, plots.to_uint8(images(x)), "digits")[0]
    real = features(values(digits[:60 if quick else 2000], rng))
    print(f"other digits, black and white: FID {evaluation.fid(features(x0), real):.2f}")
    for steps in (1, 4, 16, 64, 256):
        x = generate(model, d, 10 if quick else 100, (28, 28), seed=2, steps=1 if quick else steps)
        fewer = Discrete(2, "absorbing", steps)
        slower = lambda xt, t: p(xt, t * 1000 / steps)
        cost = discrete.bits(slower, fewer, x0, rng, 1 if quick else min(steps, 8)).mean()
        print(f"{steps} step{'s' * (steps > 1)}: {cost:.4f} bits a pixel; FID {evaluation.fid(features(x), real):.2f}")
        rows[f"{steps} step{'s' * (steps > 1)}"] = images(x[:10])
    lesson.rows("figure_steps.png", rows, (8, 4))
    lesson.end()


if __name__ == "__main__":
    course.program(main)
