"""Lesson 10: training a DDPM.

    python lessons/10_training/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm import presets
from tinyddpm.diffusion import objective, process, schedule
from tinyddpm.diffusion.prediction import PREDICTIONS
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.sampling.generate import generate

STEPS = 1300


def algorithm_1(model, s, x0, rng):
    """The inner lines of Algorithm 1: one batch, one gradient."""
    t = rng.integers(1, s.T + 1, len(x0))                                    # line 3
    eps = rng.standard_normal(x0.shape)                                      # line 4
    xt = process.q_sample(s, x0, t, eps)
    difference = model.forward(xt, t) - eps                                  # line 5
    model.backward(2 * difference / difference.size)
    return (difference**2).mean()


def kl(mean1, variance1, mean2, variance2):
    """KL(N(mean1, variance1) || N(mean2, variance2)) for numbers."""
    return (np.log(variance2 / variance1) + (variance1 + (mean1 - mean2)**2) / variance2 - 1) / 2


def loss_by_time(model, s, images, prediction, rng, bins=10):
    """The mean loss of L_simple in each tenth of the times."""
    edges = np.linspace(1, s.T + 1, bins + 1).astype(int)
    found = []
    for low, high in zip(edges, edges[1:]):
        x0 = images[rng.integers(0, len(images), 64)].astype(np.float32) / 127.5 - 1
        t, eps = rng.integers(low, high, 64), rng.standard_normal(x0.shape, dtype=np.float32)
        xt = process.q_sample(s, x0, t, eps)
        target = PREDICTIONS[prediction].target(s, x0, xt, t, eps)
        found.append(float(((model.forward(xt, t) - target)**2).mean()))
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
    left = kl(mean, variance, predicted, s.beta[t])                                                          # Eq. 5
    same = kl(mean, variance, mean, s.beta[t]) + (mean - predicted)**2 / (2 * s.beta[t])                     # Eq. 8
    right = kl(mean, variance, mean, s.beta[t]) + objective.bound_weights(s, t) * (eps - guess)**2           # Eq. 12
    print(f"a KL term, Eq. 8 and Eq. 12 agree to {max(np.abs(left - same).max(), np.abs(left - right).max()):.0e}")
    weights = objective.bound_weights(s, np.arange(1, s.T + 1))
    print(f"Eq. 12 weighs t = 1 with {weights[0]:.2f}, t = 10 with {weights[9]:.3f}, t = 1000 with {weights[-1]:.4f}; L_simple gives all the same")

    # Algorithm 1 by hand, and the library's: the same loss and the same gradient
    config = UNetConfig(image_size=8, image_channels=1, base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1, attention_resolutions=(),
                        groups=4, dropout=0.0)
    model, x0 = UNet(config, dtype=np.float64), rng.standard_normal((4, 8, 8, 1))
    model.flat_values[...] += 0.1 * rng.standard_normal(model.flat_values.size)
    loss = algorithm_1(model, s, x0, np.random.default_rng(1))
    gradient, draws = model.flat_grads.copy(), np.random.default_rng(1)
    model.flat_grads.fill(0)
    t, eps = draws.integers(1, s.T + 1, 4), draws.standard_normal(x0.shape)
    library = objective.loss_and_gradient(model, s, x0, t, eps)
    print(f"Algorithm 1 by hand and the library's: losses differ by {abs(loss - library):.0e}, gradients by {np.abs(gradient - model.flat_grads).max():.0e}")

    tinyddpm.use("auto")
    images, _ = course.digits()
    preset, steps = course.small(presets.get("mnist"), lesson.quick), 20 if lesson.quick else STEPS
    slow = {}

    def watch(trainer):
        """Beside the run's own average, one with the paper's decay of 0.9999, which is made for 800,000 steps."""
        values = trainer.model.flat_values
        slow["ema"] = values.copy() if trainer.steps_done == 1 else slow["ema"] + 1e-4 * (values - slow["ema"])

    print(f"{len(images):,} digits, batches of {preset.training.batch_size}")
    trainer, losses = course.train(preset, images, steps, watch)
    tenth = max(1, steps // 10)
    print(f"trained: {steps:,} steps, {trainer.model.flat_values.size:,} parameters; mean loss of the first tenth {losses[:tenth].mean():.3f}, "
          f"of the last {losses[-tenth:].mean():.4f}, from batch to batch +- {losses[-tenth:].std():.4f}")
    assert losses[-tenth:].mean() < losses[:tenth].mean()

    model, raw = trainer.model.eval(), trainer.model.flat_values.copy()
    versions = {"the last parameters": raw, "their average over the last steps": trainer.optimizer.ema.copy(), "an average with decay 0.9999": slow["ema"]}
    drawn = {}
    for name, values in versions.items():
        model.flat_values[...] = values
        drawn[name] = generate(model, preset.diffusion, 12, seed=3, sampler="ddim", steps=10 if lesson.quick else 100)
    model.flat_values[...] = versions["their average over the last steps"]
    times, by_time = loss_by_time(model, trainer.schedule, images, preset.diffusion.prediction, rng)
    print(f"trained: the loss at small t is {by_time[0]:.4f}, at large t {by_time[-1]:.3f}: most of what a batch's loss says is which t it drew")

    figure, axes = lesson.figure(3, 12, size=(9, 2.9))
    for row, (name, pictures) in enumerate(drawn.items()):
        for i in range(12):
            course.show(axes[row, i], pictures[i], name if i == 5 else None)
    lesson.save(figure, "figure_ema.png")

    figure, (left, right) = lesson.figure(1, 2, size=(9, 3))
    left.loglog(np.arange(1, steps + 1), losses, ".", markersize=2, color="0.75", label="each batch")
    window = max(1, steps // 50)
    left.loglog(np.arange(window, steps + 1), np.convolve(losses, np.ones(window) / window, "valid"), label=f"mean of {window}")
    left.legend()
    left.set(xlabel="step", title="the loss")
    right.plot(times, by_time, "o-")
    right.set(xlabel="t", title="the loss by time, x_0 predicted")
    lesson.save(figure, "figure_loss.png")

    figure, axes = lesson.figure(1, 1, size=(4.5, 2.8))
    axes.semilogy(np.arange(1, s.T + 1), weights)
    axes.set(xlabel="t", title="the weights of Eq. 12")
    lesson.save(figure, "figure_weights.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
