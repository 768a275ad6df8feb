"""Lesson 5: learning. Adam, the moving average, clipping, and a network of two layers that draws digits.

    python lessons/05_learning/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm.diffusion import objective
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.nn import MLP
from tinyddpm.presets import TrainingConfig
from tinyddpm.sampling.steps import ddpm, last
from tinyddpm.training.optimizer import Adam


def descend(gradient, start, steps, update):
    """The path of a point that `update` moves along a gradient."""
    x, path = np.array(start, float), [start]
    for step in range(1, steps + 1):
        update(x, gradient(x), step)
        path.append(x.copy())
    return np.array(path)


def adam(lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """Adam (Kingma and Ba 2015), one line for each of its ideas."""
    m = v = 0

    def update(x, g, step):
        nonlocal m, v
        m = beta1 * m + (1 - beta1) * g                          # a running mean of the gradient
        v = beta2 * v + (1 - beta2) * g**2                       # and of its square
        m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)          # both started at 0
        x -= lr * m_hat / (np.sqrt(v_hat) + eps)                 # a step of about lr, whatever the gradient's size

    return update


def plain(lr):
    def update(x, g, step):
        x -= lr * g
    return update


def clipped(gradients, largest):
    """The gradient, scaled down to this length where it is longer."""
    norm = np.sqrt((gradients**2).sum())
    return gradients * min(1, largest / norm)


def train(model, s, images, steps, rng, batch=256):
    """Algorithm 1 with an MLP that predicts x_0. Returns the losses and the optimizer, which has the averaged parameters."""
    optimizer = Adam(model, TrainingConfig(lr=1e-3, lr_final=5e-5, warmup=50, adam_beta2=0.99, ema_decay=0.998))
    losses = []
    for step in range(1, steps + 1):
        x0 = images[rng.integers(0, len(images), batch)].astype(np.float32) / 127.5 - 1
        t, eps = rng.integers(1, s.T + 1, batch), rng.standard_normal(x0.shape, dtype=np.float32)
        model.flat_grads.fill(0)
        losses.append(float(objective.loss_and_gradient(model, s, x0, t, eps, prediction="x0")))
        optimizer.update(step, optimizer.learning_rate(step, step / steps))
    return np.array(losses), optimizer


def draw(model, config, count, seed):
    """Digits by Algorithm 2."""
    s, rng = config.make_schedule(), np.random.default_rng(seed)
    p = reverse_process(model.eval(), config)
    return last(ddpm(p, s, rng.standard_normal((count, 28, 28, 1), dtype=np.float32), rng, range(s.T, 0, -1)))


def main():
    lesson = course.Lesson(__file__, __doc__)
    tinyddpm.use("auto")
    rng = np.random.default_rng(0)

    valley = lambda x: np.array([x[0], 50 * x[1]])               # the gradient of x^2 / 2 + 25 y^2
    paths = {"gradient descent": descend(valley, (-4, 1.0), 60, plain(0.035)), "Adam": descend(valley, (-4, 1.0), 60, adam(0.25))}
    for name, path in paths.items():
        print(f"{name}: {np.hypot(*path[-1]):.3f} from the lowest point after 60 steps")
    steep = clipped(np.array([300.0, 400.0]), 1.0)
    print(f"a gradient of (300, 400), clipped to length 1: ({steep[0]:.1f}, {steep[1]:.1f})")

    noisy = 1 + rng.standard_normal(2000)
    ema = np.empty_like(noisy)
    ema[0] = noisy[0]
    for i in range(1, len(noisy)):
        ema[i] = ema[i - 1] + 0.01 * (noisy[i] - ema[i - 1])
    print(f"numbers that jump about 1 with spread {noisy.std():.2f}: their moving average with decay 0.99 has spread {ema[1000:].std():.2f}")

    images, _ = course.digits()
    config = DiffusionConfig(T=100 if lesson.quick else 300, schedule="cosine", prediction="x0")
    s, steps = config.make_schedule(), 120 if lesson.quick else 5000
    model = MLP((28, 28, 1), hidden=128 if lesson.quick else 1024)
    print(f"a network of two layers: {model.flat_values.size:,} parameters")
    losses, optimizer = train(model, s, images, steps, rng)
    print(f"loss: {losses[0]:.2f} in the first step, {losses[-50:].mean():.4f} in the last fifty of {steps:,}")
    last = draw(model, config, 16, 1)
    model.flat_values[...] = optimizer.ema
    averaged = draw(model, config, 16, 1)
    assert losses[-20:].mean() < losses[:10].mean() / 2

    figure, axes = lesson.figure(1, 2, size=(8, 3))
    grid = np.meshgrid(np.linspace(-4.5, 2, 80), np.linspace(-1.2, 1.2, 80))
    axes[0].contour(*grid, grid[0]**2 / 2 + 25 * grid[1]**2, 12, colors="0.8")
    for name, path in paths.items():
        axes[0].plot(*path.T, ".-", linewidth=0.8, markersize=3, label=name)
    axes[0].legend()
    axes[1].plot(noisy, ".", color="0.8", markersize=2)
    axes[1].plot(ema)
    axes[1].set(title="a moving average")
    lesson.save(figure, "figure_adam.png")

    figure, axes = lesson.figure(2, 16, size=(9, 1.7))
    for i in range(16):
        course.show(axes[0, i], last[i], "the last parameters" if i == 3 else None)
        course.show(axes[1, i], averaged[i], "their moving average" if i == 3 else None)
    lesson.save(figure, "figure_digits.png")

    figure, axes = lesson.figure(1, 1, size=(4.5, 3))
    for lr in (1e-4, 1e-3, 0.3):
        small = MLP((28, 28, 1), hidden=64)
        optimizer = Adam(small, TrainingConfig(lr=lr, lr_final=lr, warmup=0))
        found = []
        for step in range(1, 41 if lesson.quick else 301):
            x0 = images[rng.integers(0, len(images), 64)].astype(np.float32) / 127.5 - 1
            t, eps = rng.integers(1, s.T + 1, 64), rng.standard_normal(x0.shape, dtype=np.float32)
            small.flat_grads.fill(0)
            found.append(float(objective.loss_and_gradient(small, s, x0, t, eps, prediction="x0")))
            optimizer.update(step, 0)
        axes.loglog(found, label=f"{lr:g}")
        print(f"learning rate {lr:g}: loss {np.mean(found[-20:]):.2f} after {len(found)} steps")
    axes.set(xlabel="step", title="too small, right, too large a learning rate")
    axes.legend()
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
