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
from tinyddpm import plots
from tinyddpm.diffusion import likelihood, process, schedule
from tinyddpm.diffusion.prediction import reverse_process

STEPS = 580
NAMES = {"simple": "L_simple", "L": "L"}


def cdf(z):
    """The normal distribution function, number by number."""
    return np.vectorize(lambda a: math.erfc(-a / math.sqrt(2)) / 2)(z)


def decoder(x0, mean, sigma):
    """log p(x_0 | x_1) of bytes scaled to [-1, 1] (Eq. 13)."""
    above, below = (x0 + 1 / 255 - mean) / sigma, (x0 - 1 / 255 - mean) / sigma
    high = np.where(x0 > 0.999, 1, cdf(above))          # the last bin has no upper end
    low = np.where(x0 < -0.999, 0, cdf(below))          # the first has no lower one
    return np.log(np.maximum(high - low, 1e-300))


def kl(mean, variance, other_mean, other_variance):
    """KL between two Gaussians, for each dimension, in bits."""
    second = (variance + (mean - other_mean)**2) / other_variance
    return (np.log(other_variance / variance) + second - 1) / 2 / math.log(2)


def gaussian_bound(s, spread, rng, count):
    """The bound for data from N(0, spread^2), with the exact reverse mean, in bits."""
    x0, total = spread * rng.standard_normal(count), 0.0
    for t in range(1, s.T + 1):
        a, beta = s.alpha_bar[t], s.beta[t]
        xt = np.sqrt(a) * x0 + np.sqrt(1 - a) * rng.standard_normal(count)
        best = np.sqrt(a) * spread**2 / (a * spread**2 + 1 - a) * xt    # E[x_0 | x_t]
        if t > 1:
            exact, mean = (process.mu_from_x0(s, guess, xt, t) for guess in (x0, best))
            total += kl(exact, s.beta_tilde[t], mean, beta).mean()
        else:
            nats = (x0 - best)**2 / (2 * beta) + np.log(2 * np.pi * beta) / 2
            total += nats.mean() / math.log(2)
    return total + kl(np.sqrt(a) * x0, 1 - a, 0, 1).mean()              # L_T


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(12)

    values = np.arange(256) / 127.5 - 1
    for mean, sigma in ((0.1, 0.01), (-1.0, 0.3)):
        total = np.exp(decoder(values, mean, sigma)).sum()
        print(f"the decoder's 256 probabilities, mean {mean}, sigma {sigma}: they sum to {total:.12f}")
    x0 = values[rng.integers(0, 256, (4, 5))]
    mean = x0 + 0.01 * rng.standard_normal(x0.shape)
    library, _ = likelihood.decoder(x0, mean, np.full(x0.shape, 2 * math.log(0.0074)))
    print(f"the decoder by hand and the library's: {np.abs(decoder(x0, mean, 0.0074) - library).max():.0e}")
    print(f"a bit is {math.log(2):.3f} nats; the paper's bounds on CIFAR10: 3.75 bits/dim by L_simple, 3.70 by L")
    errors = 0.0074 * np.random.default_rng(0).standard_normal(40_000)
    bits = lambda error: -decoder(np.full(40_000, values[128]), values[128] + error, 0.0074).mean() / math.log(2)
    exact, off = bits(0), bits(errors)
    print(f"256 equal values cost {math.log2(256):.0f} bits")
    print(f"a decoder with sigma = 0.0074 costs {exact:.2f} where its mean is exact,")
    print(f"and {off:.2f} where the mean itself is wrong by an error with that standard deviation")

    for T in (25,) if lesson.quick else (25, 100, 1000):
        s = schedule.linear(T, 0.1 / T, 20 / T)
        bound, entropy = gaussian_bound(s, 0.5, rng, 20_000), np.log2(2 * np.pi * np.e * 0.5**2) / 2
        print(f"data from one Gaussian, the exact mean, T = {T}: bound {bound:.3f} bits, the truth {entropy:.3f}")
        assert bound > entropy - 0.02
    s = schedule.linear()
    floor = sum(kl(0, s.beta_tilde[t], 0, s.beta[t]) for t in range(2, s.T + 1))
    print(f"sigma^2 = beta costs {floor:.6f} bits a dimension over t > 1 even where the mean is perfect")
    assert abs(floor - 0.486419) < 1e-6

    tinyddpm.use("auto")
    images, _ = course.digits()
    train, test = images[:-256], images[-256:]
    preset = course.paper(lesson.quick)
    found = {}
    print(f"bits/dim of {4 if lesson.quick else 64} digits that they have not seen:")
    for loss in NAMES:
        trainer, _ = course.train(preset.override(loss=loss), train, 15 if lesson.quick else STEPS)
        model, s = trainer.model.eval(), trainer.schedule
        model.flat_values[...] = trainer.optimizer.ema
        p = reverse_process(model, preset.diffusion)
        count, times = (4, 5) if lesson.quick else (64, 20)
        found[loss] = likelihood.evaluate(p, s, test[:count], times)
        parts = found[loss].summary()
        print(f"trained by {NAMES[loss]}: "
              + ", ".join(f"{name} {parts[name][0]:.3f}" for name in ("prior", "rate", "distortion"))
              + f", total {parts['total'][0]:.3f} +- {parts['total'][1]:.3f}")

    times, rate, rmse = found["simple"].rate_distortion()
    plots.rate_distortion(lesson.folder / "figure_rate_distortion.png", times, rate, rmse)
    late_rate, late_rmse = found["simple"].at(0.9 * s.T)
    print(f"trained by L_simple: {late_rate:.3f} of the {rate[0]:.3f} bits have come by reverse time {0.9 * s.T:.0f};")
    print(f"the RMSE is then {late_rmse:.1f} of 255, at the end {rmse[0]:.1f}")

    figure, (left, right) = lesson.figure(1, 2, size=(9, 3.2))
    for (loss, bound), colour in zip(found.items(), plots.COLOURS):
        middle = (bound.edges[:-1] + bound.edges[1:]) / 2
        left.loglog(middle, bound.kl.mean(axis=0), "o-", markersize=4, color=colour,
                    label=f"{NAMES[loss]}: each KL term")
        left.loglog(1, bound.summary()["distortion"][0], "s", markersize=8, color=colour, label=f"{NAMES[loss]}: L_0")
    left.set(xlabel="t", ylabel="bits/dim", title="the terms of the bound")
    left.legend(fontsize="small")
    for sigma in (0.004, 0.02):
        right.step(np.arange(256), np.exp(decoder(values, values[128], sigma)), where="mid", label=f"sigma = {sigma}")
    right.set(xlim=(118, 138), xlabel="byte", ylabel="probability", title="the decoder with its mean at 128")
    right.legend()
    lesson.save(figure, "figure_terms.png")

    figure, axes = lesson.figure(size=(6, 3.2))
    means = np.array([0.1, 0.4, 0.7, 0.9, 1.0])                  # upper tails, for 1 - cdf would be 0 for the first two
    below, above = (cdf((means - edge) / 0.05) for edge in (1 - 1 / 255, 1 + 1 / 255))
    opened, closed = -np.log2(below), -np.log2(below - above)
    axes.plot(means, opened, "o-", label="the last bin reaches to infinity")
    axes.plot(means, closed, "o-", label="the last bin is closed")
    axes.set(xlabel="mean of a Gaussian with sigma = 0.05", ylabel="bits for a white pixel", yscale="log")
    axes.legend()
    print(f"a white pixel, mean 1, sigma 0.05: {opened[-1]:.2f} bits, with a closed last bin {closed[-1]:.2f}")
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
