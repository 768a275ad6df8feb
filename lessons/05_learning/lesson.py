"""Lesson 5: learning. Adam, the moving average, clipping, and a network of two layers that draws digits.

    python lessons/05_learning/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course
import diagrams

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
        m = beta1 * m + (1 - beta1) * g             # a running mean of the gradient
        v = beta2 * v + (1 - beta2) * g**2          # and of its square
        m_hat = m / (1 - beta1**step)               # both started at 0
        v_hat = v / (1 - beta2**step)
        x -= lr * m_hat / (np.sqrt(v_hat) + eps)    # about lr, whatever g's size

    return update


def plain(lr):
    def update(x, g, step):
        x -= lr * g
    return update


def moving_average(path, decay):
    """A second set of parameters, which follows the first slowly."""
    ema = [path[0]]
    for x in path[1:]:
        ema.append(decay * ema[-1] + (1 - decay) * x)
    return np.array(ema)


def clipped(gradients, largest):
    """The gradient, scaled down to this length if it is longer."""
    norm = np.sqrt((gradients**2).sum())
    return gradients * min(1, largest / norm)


def train(model, s, images, steps, rng, batch=256):
    """Algorithm 1 with an MLP that predicts x_0. Returns the losses, and the optimizer
    with the averaged parameters."""
    config = TrainingConfig(lr=1e-3, lr_final=5e-5, warmup=50, adam_beta2=0.99,
                            ema_decay=0.998)
    optimizer, losses = Adam(model, config), []
    for step in range(1, steps + 1):
        x0 = images[rng.integers(0, len(images), batch)].astype(np.float32) / 127.5 - 1
        t = rng.integers(1, s.T + 1, batch)
        eps = rng.standard_normal(x0.shape, dtype=np.float32)
        model.flat_grads.fill(0)
        loss = objective.loss_and_gradient(model, s, x0, t, eps, prediction="x0")
        losses.append(float(loss))
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
    paths = {"gradient descent": descend(valley, (-4, 1.0), 60, plain(0.035)),
             "Adam": descend(valley, (-4, 1.0), 60, adam(0.25))}
    for name, path in paths.items():
        print(f"{name}: {np.hypot(*path[-1]):.3f} from the lowest point after 60 steps")
    steep = clipped(np.array([300.0, 400.0]), 1.0)
    print(f"a gradient of (300, 400), clipped to length 1: ({steep[0]:.1f}, {steep[1]:.1f})")

    noisy = lambda x: valley(x) + rng.normal(0, (4, 30))         # as from batches of a few images
    path = descend(noisy, (-4, 1.0), 600, plain(0.02))
    ema = moving_average(path, decay=0.99)
    away, ema_away = np.hypot(*path[300:].T), np.hypot(*ema[300:].T)
    print(f"noisy gradients: {away.mean():.2f} from the lowest point in steps 300 to 600; "
          f"their average: {ema_away.mean():.2f}")

    images, _ = course.digits()
    config = DiffusionConfig(T=100 if lesson.quick else 300, schedule="cosine", prediction="x0")
    s, steps = config.make_schedule(), 120 if lesson.quick else 3600
    model = MLP((28, 28, 1), hidden=128 if lesson.quick else 1024)
    print(f"a network of two layers: {model.flat_values.size:,} parameters")
    losses, optimizer = train(model, s, images, steps, rng)
    print(f"loss: {losses[0]:.2f} in the first step, {losses[-50:].mean():.4f} in the last fifty of {steps:,}")
    jumping = draw(model, config, 16, 1)
    model.flat_values[...] = optimizer.ema
    averaged = draw(model, config, 16, 1)
    assert losses[-20:].mean() < losses[:10].mean() / 2

    averages = {"noisy gradients": path, "moving average (EMA)": ema}
    for name, found in (("figure_adam.png", paths), ("figure_average.png", averages)):
        lesson.draw(name, diagrams.valley, found, size=(7, 3))
    lesson.rows("figure_digits.png", {"last parameters": jumping[:12], "average": averaged[:12]}, size=(8, 1.4))

    curves = {}
    for lr in (1e-4, 1e-3, 0.3):
        small, rng, found = MLP((28, 28, 1), hidden=64), np.random.default_rng(5), []
        optimizer = Adam(small, TrainingConfig())
        for step in range(1, 41 if lesson.quick else 301):
            x0 = images[rng.integers(0, len(images), 64)].astype(np.float32) / 127.5 - 1
            t, eps = rng.integers(1, s.T + 1, 64), rng.standard_normal(x0.shape, dtype=np.float32)
            small.flat_grads.fill(0)
            found.append(float(objective.loss_and_gradient(small, s, x0, t, eps, prediction="x0")))
            optimizer.update(step, lr)
        curves[f"learning rate {lr:g}"] = found
        print(f"learning rate {lr:g}: loss {np.mean(found[-20:]):.2f} after {len(found)} steps")
    lesson.curves("figure_wrong.png", curves, xlabel="step", ylabel="loss", xscale="log", yscale="log")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
