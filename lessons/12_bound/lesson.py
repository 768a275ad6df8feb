"""Lesson 12: the bound in bits.

    python lessons/12_bound/lesson.py [--quick]
"""

import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm import plots, presets
from tinyddpm.diffusion import likelihood, schedule
from tinyddpm.diffusion.prediction import reverse_process

STEPS = 750


def cdf(z):
    """The normal distribution function, number by number."""
    return np.vectorize(lambda a: math.erfc(-a / math.sqrt(2)) / 2)(z)


def decoder(x0, mean, sigma):
    """log p(x_0 | x_1) of bytes scaled to [-1, 1] (Eq. 13): a Gaussian, integrated over the bin of each value."""
    high = np.where(x0 > 0.999, 1, cdf((x0 + 1 / 255 - mean) / sigma))       # the last bin has no upper end
    low = np.where(x0 < -0.999, 0, cdf((x0 - 1 / 255 - mean) / sigma))       # the first no lower one
    return np.log(np.maximum(high - low, 1e-300))


def kl(mean, variance, other_mean, other_variance):
    """KL between two Gaussians, for each dimension, in bits."""
    nats = (np.log(other_variance / variance) + (variance + (mean - other_mean)**2) / other_variance - 1) / 2
    return nats / math.log(2)


def gaussian_bound(s, spread, rng, count):
    """The bound on data that are N(0, spread^2), with the exact reverse mean: (bound, what the data cost), bits a number."""
    x0, total = spread * rng.standard_normal(count), 0.0
    for t in range(1, s.T + 1):
        a = s.alpha_bar[t]
        xt = np.sqrt(a) * x0 + np.sqrt(1 - a) * rng.standard_normal(count)
        best = np.sqrt(a) * spread**2 / (a * spread**2 + 1 - a) * xt         # E[x_0 | x_t]
        before, after = s.alpha_bar[t - 1], s.beta[t]
        mean = lambda x: np.sqrt(before) * after / (1 - a) * x + np.sqrt(s.alpha[t]) * (1 - before) / (1 - a) * xt
        if t > 1:
            total += kl(mean(x0), s.beta_tilde[t], mean(best), s.beta[t]).mean()
        else:
            total += ((x0 - best)**2 / (2 * s.beta[1]) + np.log(2 * np.pi * s.beta[1]) / 2).mean() / math.log(2)
    a = s.alpha_bar[s.T]
    total += kl(np.sqrt(a) * x0, 1 - a, 0, 1).mean()
    return total, np.log2(2 * np.pi * np.e * spread**2) / 2


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(12)

    values = np.arange(256) / 127.5 - 1
    for mean, sigma in ((0.1, 0.01), (-1.0, 0.3)):
        print(f"the decoder's 256 probabilities, mean {mean}, sigma {sigma}: they sum to {np.exp(decoder(values, mean, sigma)).sum():.12f}")
    x0 = values[rng.integers(0, 256, (4, 5))]
    mean = x0 + 0.01 * rng.standard_normal(x0.shape)
    library, _ = likelihood.decoder(x0, mean, np.full(x0.shape, 2 * math.log(0.0074)))
    print(f"the decoder by hand and the library's: {np.abs(decoder(x0, mean, 0.0074) - library).max():.0e}")
    print(f"a bit is {math.log(2):.3f} nats; the paper's bounds on CIFAR10: 3.75 bits/dim by L_simple, 3.70 by L")
    errors = 0.0074 * np.random.default_rng(0).standard_normal(40_000)
    exact, off = (-decoder(np.full(40_000, values[128]), values[128] + error, 0.0074).mean() / math.log(2) for error in (0, errors))
    print(f"256 equal values cost {math.log2(256):.0f} bits; a decoder with sigma = 0.0074 costs {exact:.2f} where its mean is exact,")
    print(f"and {off:.2f} where the mean itself is wrong by an error with that standard deviation")

    for T in (25,) if lesson.quick else (25, 100, 1000):
        s = schedule.linear(T, 0.1 / T, 20 / T)
        bound, entropy = gaussian_bound(s, 0.5, rng, 20_000)
        print(f"data from one Gaussian, the exact mean, T = {T}: bound {bound:.3f} bits, the truth {entropy:.3f}")
        assert bound > entropy - 0.02
    s = schedule.linear()
    floor = sum(kl(0, s.beta_tilde[t], 0, s.beta[t]) for t in range(2, s.T + 1))
    print(f"sigma^2 = beta costs {floor:.6f} bits a dimension over t > 1 even where the mean is perfect")
    assert abs(floor - 0.486419) < 1e-6

    tinyddpm.use("auto")
    images, _ = course.digits()
    train, test = images[:-256], images[-256:]
    preset = course.small(presets.get("mnist").override(prediction="eps", schedule="linear", lr=2e-3), lesson.quick)
    found = {}
    for loss in ("simple", "L"):
        trainer, _ = course.train(preset.override(loss=loss), train, 15 if lesson.quick else STEPS)
        model, s = trainer.model.eval(), trainer.schedule
        model.flat_values[...] = trainer.optimizer.ema
        p = reverse_process(model, preset.diffusion)
        count, times = (4, 5) if lesson.quick else (64, 20)
        found[loss] = likelihood.evaluate(p, s, test[:count], times)
        parts = found[loss].summary()
        print(f"trained by {'L_simple' if loss == 'simple' else 'L'}: " + ", ".join(f"{name} {parts[name][0]:.4f}" for name in ("prior", "rate", "distortion", "total"))
              + f" bits/dim, +- {parts['total'][1]:.3f}, on {count} digits that it has not seen")

    times, rate, rmse = found["simple"].rate_distortion()
    plots.rate_distortion(lesson.folder / "figure_rate_distortion.png", times, rate, rmse)
    late_rate, late_rmse = found["simple"].at(0.9 * s.T)
    print(f"trained by L_simple: {late_rate:.3f} of the {rate[0]:.3f} bits of the rate have come by reverse time {0.9 * s.T:.0f}; "
          f"the RMSE is then {late_rmse:.1f} of 255, at the end {rmse[0]:.1f}")

    figure, (left, right) = lesson.figure(1, 2, size=(9, 3))
    for name, bound in found.items():
        middle = (bound.edges[:-1] + bound.edges[1:]) / 2
        left.loglog(middle, bound.kl.mean(axis=0), "o-", markersize=3, label={"simple": "L_simple", "L": "L"}[name])
    left.set(xlabel="t", title="the terms L_(t-1), bits/dim")
    left.legend()
    for sigma, colour in ((0.004, "tab:blue"), (0.02, "tab:orange")):
        right.step(np.arange(256), np.exp(decoder(values, values[128], sigma)), where="mid", color=colour, label=f"sigma = {sigma}")
    right.set(xlim=(118, 138), title="the decoder around the value 128")
    right.legend()
    lesson.save(figure, "figure_terms.png")

    figure, axes = lesson.figure(1, 1, size=(5, 2.8))
    means = np.array([0.1, 0.4, 0.7, 0.9, 1.0])                  # upper tails, for 1 - cdf would be 0 for the first two
    below, above = (cdf((means - edge) / 0.05) for edge in (1 - 1 / 255, 1 + 1 / 255))
    opened, closed = -np.log2(below), -np.log2(below - above)
    axes.plot(means, opened, "o-", label="the last bin reaches to infinity")
    axes.plot(means, closed, "o-", label="the last bin is closed")
    axes.set(xlabel="mean, sigma = 0.05", title="bits for a white pixel", yscale="log")
    axes.legend()
    print(f"a white pixel, mean 1: {opened[-1]:.2f} bits with an open last bin, {closed[-1]:.2f} with a closed one")
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
