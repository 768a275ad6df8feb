"""Lesson 15: guidance.

    python lessons/15_guidance/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import clouds
import course

import tinyddpm
from tinyddpm import evaluation, plots
from tinyddpm.diffusion import schedule
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.sampling.guidance import by_classifier
from tinyddpm.sampling.samplers import choose_times
from tinyddpm.sampling.solvers import dpmpp_2m
from tinyddpm.sampling.steps import ddim, last, spread
from tinyddpm.training import load_model

MEANS, SIGMA = np.array([-2.0, 2.0]), 1.2       # two classes, whose ends overlap


class Classifier:
    """The perfect classifier of noisy numbers: the probability of +2 is a sigmoid, by Bayes."""

    def __init__(self, s):
        self.s = s

    def forward(self, xt, t):
        a = self.s.alpha_bar[t][:, None]
        self.slope = np.sqrt(a) * MEANS / (a * SIGMA**2 + 1 - a)
        return xt * self.slope              # the logits of both classes, but for what they share

    def backward(self, dlogits):
        return (dlogits * self.slope).sum(axis=1, keepdims=True)


def toward_class(classifier, xt, t, label):
    """The gradient of log p(label | x_t) with respect to x_t."""
    logits = classifier.forward(xt, t)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    one_hot = np.arange(p.shape[1]) == label
    return classifier.backward(one_hot - p)             # of log softmax, lesson 8


def with_classifier(s, x0_free, classifier, label, scale):
    """A network that is guided by a classifier: Bayes and Tweedie."""
    def x0(xt, t):
        a = s.alpha_bar[t][:, None]
        gradient = toward_class(classifier, xt, t, label)
        return x0_free(xt, t) + scale * (1 - a) / np.sqrt(a) * gradient
    return x0


def classifier_free(given, free, w):
    """What a network predicts with the label, and without, mixed: b + w (a - b)."""
    return lambda xt, t: free(xt, t) + w * (given(xt, t) - free(xt, t))


def tilted(w):
    """Mean and spread of q(x_0) p(+2 | x_0)^w, normalized."""
    x = np.linspace(-12, 12, 4001)
    density = clouds.density(x, 1, MEANS, SIGMA, (0.5, 0.5)) / (1 + np.exp(-4 * x / SIGMA**2))**w
    density /= density.sum()
    mean = (x * density).sum()
    return mean, np.sqrt(((x - mean)**2 * density).sum())


def main():
    lesson = course.Lesson(__file__, __doc__)
    s = schedule.cosine()
    free = clouds.perfect_x0(s, MEANS[:, None], SIGMA, (0.5, 0.5))
    given = clouds.perfect_x0(s, MEANS[1:, None], SIGMA, (1,))
    x, classifier = np.linspace(-5, 5, 201)[:, None], Classifier(s)
    for t in (50, 500, 950):
        a, times = s.alpha_bar[t], np.full(len(x), t)
        scores = [(np.sqrt(a) * x0(x, times) - x) / (1 - a) for x0 in (free, given)]           # Tweedie
        apart = np.abs(scores[0] + toward_class(classifier, x, times, 1) - scores[1]).max()
        print(f"t = {t}: score of all + classifier's gradient - score of +2: at most {apart:.0e}")

    times, rng = spread(s.T, 100), np.random.default_rng(15)
    noise = rng.standard_normal((500 if lesson.quick else 4000, 1))
    draw = lambda x0: last(ddim(clouds.reverse(s, x0), s, noise, None, times))[:, 0]
    guided = by_classifier(clouds.reverse(s, free), s, classifier, np.ones(len(noise), int), 2.0, clip=False)
    library = last(ddim(guided, s, noise, None, times))[:, 0]
    by_hand, mixed = draw(with_classifier(s, free, classifier, 1, 2.0)), draw(classifier_free(given, free, 2.0))
    print(f"guided by the classifier, by hand and by the library: {np.abs(by_hand - library).max():.0e}; "
          f"without a classifier: {np.abs(by_hand - mixed).max():.0e}")

    samples = {w: draw(classifier_free(given, free, w)) for w in (0, 1, 2, 4, 8)}
    print("samples: mean p(+2 | x_0), mean, spread; mean and spread of the tilted density")
    for w, found in samples.items():
        fidelity = (1 / (1 + np.exp(-4 * found / SIGMA**2))).mean()
        print(f"w = {w}: {fidelity:.3f}, {found.mean():5.2f}, {found.std():.2f}; "
              + "{:5.2f}, {:.2f}".format(*tilted(w)))

    figure, axes = lesson.figure(1, 4, size=(9, 2.4), sharey=True)
    line = np.linspace(-7, 7, 400)
    for ax, w in zip(axes, (0, 1, 2, 8)):
        ax.hist(samples[w], np.linspace(-7, 7, 70), density=True, color="0.8")
        ax.plot(line, clouds.density(line, 1, MEANS, SIGMA, (0.5, 0.5)), label="all data")
        ax.plot(line, clouds.density(line, 1, MEANS[1:], SIGMA, (1,)), label="the class +2")
        ax.set(xlabel="x_0", title=f"w = {w}")
    axes[0].set(ylabel="density")
    axes[0].legend(fontsize="small", loc="upper left")
    lesson.save(figure, "figure_clouds.png")

    tinyddpm.use("auto")
    model, preset = load_model("mnist")
    s, count, steps = preset.diffusion.make_schedule(), 20 if lesson.quick else 200, 5 if lesson.quick else 20
    labels, rng = np.arange(count) % 10, np.random.default_rng(3)
    noise = rng.standard_normal((count, 28, 28, 1), dtype=np.float32)
    times = choose_times(s, steps, "logsnr")
    extractor, _ = evaluation.extractor(preset.model)

    def digits(w, clip=True):
        p = reverse_process(model, preset.diffusion, labels, guidance=w, clip=clip)
        return last(dpmpp_2m(p, s, noise, None, times))

    images, of = course.digits()
    real, _ = evaluation.measure(extractor, images, "digits")
    varied = lambda x: np.mean([x[labels == k].std(axis=0).mean() for k in range(10)])
    drawn = {}
    for w in (0, 1, 1.4, 3, 8):
        drawn[w] = digits(w)
        features, read = evaluation.measure(extractor, plots.to_uint8(drawn[w]), "samples")
        asked, distance = np.mean(read.argmax(axis=1) == labels), evaluation.fid(features, real)
        print(f"digits, w = {w}: {asked:.0%} are read as asked, distance {distance:.2f}, spread {varied(drawn[w]):.2f}")
    same = np.stack([images[of == k][:count // 10] for k in range(10)], axis=1).reshape(noise.shape) / 127.5 - 1
    print(f"spread of as many real digits: {varied(same):.2f}")
    lesson.rows("figure_digits.png", {f"w = {w}": x[:10] for w, x in drawn.items()}, (8, 4))

    wild = digits(8, clip=False)
    pictures = {"w = 1.4": drawn[1.4], "w = 8": drawn[8], "w = 8, not clipped": wild}
    for name, x in pictures.items():
        print(f"{name}: {np.mean(np.abs(x) > 0.99):.0%} of the pixels beyond 0.99 in size, "
              f"{np.mean(np.abs(x) > 1.05):.0%} beyond 1.05, largest {np.abs(x).max():.1f}")
    lesson.rows("figure_wrong.png", {name: x[:10] for name, x in pictures.items()}, (8, 2.5))
    lesson.end()


if __name__ == "__main__":
    course.program(main)
