"""Lesson 10: training a DDPM.

    python lessons/10_training/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm import data
from tinyddpm.diffusion import objective, process, schedule
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.sampling.generate import generate
from tinyddpm.training import load_model

STEPS = 900


def algorithm_1(model, s, x0, rng):
    """The inner lines of Algorithm 1: one batch, one gradient."""
    t = rng.integers(1, s.T + 1, len(x0))                       # line 3
    eps = rng.standard_normal(x0.shape)                         # line 4
    xt = process.q_sample(s, x0, t, eps)
    difference = model.forward(xt, t) - eps                     # line 5
    model.backward(2 * difference / difference.size)
    return (difference**2).mean()


def kl(mean1, variance1, mean2, variance2):
    """KL(N(mean1, variance1) || N(mean2, variance2)) for numbers."""
    second = (variance1 + (mean1 - mean2)**2) / variance2
    return (np.log(variance2 / variance1) + second - 1) / 2


def loss_by_time(model, s, images, rng, bins=20):
    """The mean loss of L_simple in each of `bins` equal ranges of t, and their middles."""
    edges = np.linspace(1, s.T + 1, bins + 1).astype(int)
    found = []
    for low, high in zip(edges, edges[1:]):
        x0 = data.scaled(images[rng.integers(0, len(images), 64)])
        t, eps = rng.integers(low, high, 64), rng.standard_normal(x0.shape, dtype=np.float32)
        found.append(float(((model.forward(process.q_sample(s, x0, t, eps), t) - eps)**2).mean()))
    return (edges[:-1] + edges[1:]) / 2, np.array(found)


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(10)

    # From Eq. 5 to Eq. 14: a term of the bound is a weighted distance of noises
    s, t = schedule.linear(), 400
    x0, eps, guess = rng.standard_normal((3, 5))
    xt = process.q_sample(s, x0, t, eps)
    mean, variance = process.q_posterior(s, x0, xt, t)
    predicted = process.mu_from_eps(s, xt, t, guess)
    left = kl(mean, variance, predicted, s.beta[t])                                                 # Eq. 5
    same = kl(mean, variance, mean, s.beta[t]) + (mean - predicted)**2 / (2 * s.beta[t])            # Eq. 8
    right = kl(mean, variance, mean, s.beta[t]) + objective.bound_weights(s, t) * (eps - guess)**2  # Eq. 12
    print(f"a KL term, Eq. 8 and Eq. 12 agree to {max(np.abs(left - same).max(), np.abs(left - right).max()):.0e}")
    weights = objective.bound_weights(s, np.arange(1, s.T + 1))
    print(f"Eq. 12 weighs t = 1 with {weights[0]:.2f}, t = 10 with {weights[9]:.3f}, t = 1000 with {weights[-1]:.4f}")

    # Algorithm 1 by hand, and the library's: the same loss and the same gradient
    config = UNetConfig(image_size=8, image_channels=1, base_channels=8, channel_multipliers=(1, 2),
                        blocks_per_level=1, attention_resolutions=(), groups=4, dropout=0.0)
    model, x0 = UNet(config, dtype=np.float64), rng.standard_normal((4, 8, 8, 1))
    model.flat_values[...] += 0.1 * rng.standard_normal(model.flat_values.size)
    loss = algorithm_1(model, s, x0, np.random.default_rng(1))
    gradient, draws = model.flat_grads.copy(), np.random.default_rng(1)
    model.flat_grads.fill(0)
    t, eps = draws.integers(1, s.T + 1, 4), draws.standard_normal(x0.shape)
    library = objective.loss_and_gradient(model, s, x0, t, eps)
    print(f"Algorithm 1 by hand and the library's: losses differ by {abs(loss - library):.0e}, "
          f"gradients by {np.abs(gradient - model.flat_grads).max():.0e}")

    tinyddpm.use("auto")
    images, _ = course.digits()
    preset, steps = course.paper(lesson.quick), 20 if lesson.quick else STEPS
    slow = {}

    def watch(trainer):
        """Beside the run's own average, one with the paper's decay of 0.9999, which is made for 800,000 steps."""
        values = trainer.model.flat_values
        slow["ema"] = values.copy() if trainer.steps_done == 1 else slow["ema"] + 1e-4 * (values - slow["ema"])

    print(f"{len(images):,} digits, batches of {preset.training.batch_size}")
    trainer, losses = course.train(preset, images, steps, watch)
    tenth = max(1, steps // 10)
    print(f"trained: {steps:,} steps, {trainer.model.flat_values.size:,} parameters")
    print(f"mean loss of the first tenth {losses[:tenth].mean():.3f}, of the last {losses[-tenth:].mean():.4f}, "
          f"from batch to batch +- {losses[-tenth:].std():.4f}")
    assert losses[-tenth:].mean() < losses[:tenth].mean()

    model, raw = trainer.model.eval(), trainer.model.flat_values.copy()
    versions = {"slow average": slow["ema"], "last parameters": raw, "average": trainer.optimizer.ema.copy()}
    drawn = {}
    for name, values in versions.items():
        model.flat_values[...] = values
        drawn[name] = generate(model, preset.diffusion, 10, seed=3)
    times, by_time = loss_by_time(model, trainer.schedule, images, rng)
    print(f"the loss at t near {times[0]:.0f} is {by_time[0]:.3f}, at t near {times[-1]:.0f} {by_time[-1]:.4f}")
    longer, longer_preset = load_model("mnist-eps")
    drawn["10,000 steps"] = generate(longer, longer_preset.diffusion, 1 if lesson.quick else 10, seed=3)
    lesson.rows("figure_ema.png", drawn, size=(8, 3.2))

    figure, (left, right) = lesson.figure(1, 2, size=(9, 3))
    left.loglog(np.arange(1, steps + 1), losses, ".", markersize=2, color="0.75", label="each batch")
    window = max(1, steps // 50)
    left.loglog(np.arange(window, steps + 1), np.convolve(losses, np.ones(window) / window, "valid"),
                label=f"mean of {window}")
    left.legend()
    left.set(xlabel="step", ylabel="L_simple")
    right.semilogy(times, by_time, "o-")
    right.set(xlabel="t", ylabel="L_simple", title="by time, after the training")
    lesson.save(figure, "figure_loss.png")

    figure, axes = lesson.figure(size=(6, 3))
    axes.semilogy(np.arange(1, s.T + 1), weights, label="L (Eq. 12)")
    axes.semilogy(np.arange(1, s.T + 1), np.ones(s.T), label="L_simple (Eq. 14)")
    axes.set(xlabel="t", ylabel="weight of the error of eps")
    axes.legend()
    lesson.save(figure, "figure_weights.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
