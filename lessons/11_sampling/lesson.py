"""Lesson 11: sampling.

    python lessons/11_sampling/lesson.py [--quick]
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm import evaluation, plots, presets
from tinyddpm.diffusion import process
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.sampling import latents, steps
from tinyddpm.sampling.steps import ddpm, last, spread

STEPS = 900


def algorithm_2(predict_x0, s, x, rng, variance="large", clip=True):
    """From noise x_T to images: ask for x_0, form the mean of the step before (Eq. 7), add noise."""
    sigma2 = s.variance(variance)                                            # beta_t, or beta_tilde_t
    for t in range(s.T, 0, -1):
        x0 = predict_x0(x, np.full(len(x), t))
        if clip:
            x0 = np.clip(x0, -1, 1)                                          # before the mean is formed
        x = process.mu_from_x0(s, x0, x, t)
        if t > 1:                                                            # z = 0 at the last step
            x = x + np.float32(np.sqrt(sigma2[t])) * rng.standard_normal(x.shape, dtype=np.float32)
    return x


def ddim_times(s, steps):
    """From T down to 1 in equal strides, and 0, the data."""
    return [*np.round(np.linspace(s.T, 1, steps)).astype(int), 0]


def ddim(predict_x0, s, x, times):
    """Some of the times only, and no noise: from x_t straight towards x_0, and back to the noise level of the next time."""
    for t, following in zip(times, times[1:]):
        x0 = np.clip(predict_x0(x, np.full(len(x), t)), -1, 1)
        eps = (x - np.sqrt(s.alpha_bar[t]) * x0) / np.sqrt(1 - s.alpha_bar[t])
        x = (np.sqrt(s.alpha_bar[following]) * x0 + np.sqrt(1 - s.alpha_bar[following]) * eps).astype(np.float32)
    return x


def main():
    lesson = course.Lesson(__file__, __doc__)
    tinyddpm.use("auto")
    images, _ = course.digits()
    preset = course.small(presets.get("mnist"), lesson.quick)
    trainer, losses = course.train(preset, images, 15 if lesson.quick else STEPS)
    print(f"trained: {len(losses):,} steps, mean loss of the last tenth {losses[-len(losses) // 10:].mean():.4f}")
    model, s = trainer.model.eval(), trainer.schedule
    model.flat_values[...] = trainer.optimizer.ema
    predict_x0 = lambda x, t: model.forward(x, t)                            # this preset's network predicts x_0
    p = reverse_process(model, preset.diffusion)
    noise = lambda count, seed: np.random.default_rng(seed).standard_normal((count, 28, 28, 1), dtype=np.float32)

    mine = algorithm_2(predict_x0, s, noise(4, 5), np.random.default_rng(6))
    library = last(ddpm(p, s, noise(4, 5), np.random.default_rng(6), range(s.T, 0, -1)))
    print(f"Algorithm 2 by hand and the library's: {np.abs(mine - library).max():.0e}")
    few = 5 if lesson.quick else 50
    mine = ddim(predict_x0, s, noise(4, 5), ddim_times(s, few))
    library = last(steps.ddim(p, s, noise(4, 5), None, spread(s.T, few)))
    print(f"DDIM by hand and the library's: {np.abs(mine - library).max():.0e}")

    # Both variances, and what clipping does
    count = 4 if lesson.quick else 8
    variants = {"sigma^2 = beta": {}, "sigma^2 = beta tilde": {"variance": "small"}, "x_0 not clipped": {"clip": False}}
    drawn = {name: algorithm_2(predict_x0, s, noise(count, 1), np.random.default_rng(2), **options) for name, options in variants.items()}
    for name, x in drawn.items():
        print(f"trained, {name}: {np.mean(np.abs(x) > 1.05):.1%} of the pixels lie outside of [-1, 1] by more than 0.05")

    # How many steps does DDIM need? Judged by a small classifier's features: a distance for comparison among these alone
    extractor, _ = evaluation.extractor(preset.model)
    data = evaluation.measure(extractor, images[:500] if lesson.quick else images, "digits")[0]
    table = []
    for few in (3, 5) if lesson.quick else (5, 10, 25, 50, 100):
        started, batch = time.perf_counter(), 8 if lesson.quick else 128
        x = last(steps.ddim(p, s, noise(batch, 3), None, spread(s.T, few)))
        seconds = time.perf_counter() - started
        table.append((few, evaluation.fid(evaluation.measure(extractor, plots.to_uint8(x), "samples")[0], data), seconds))
        print(f"trained, DDIM with {few} steps: {seconds:.1f} s for {batch} images, distance {table[-1][1]:.2f}")

    rng = np.random.default_rng(7)
    times = tuple(s.T * k // 8 for k in (8, 4, 2, 1))
    rows = latents.progressive(p, s, noise(3, 8), rng, columns=10)
    shared = latents.shared(p, s, noise(1, 9), rng, times, columns=8)
    pairs = images[[3, 5, 0]].astype(np.float32) / 127.5 - 1, images[[8, 12, 7]].astype(np.float32) / 127.5 - 1
    mixed = latents.interpolate(p, s, *pairs, s.T // 2, rng, columns=9)
    shares = [np.abs(row[1:, None] - row[None, 1:]).mean() for row in shared]
    print("trained, samples that share x_t differ by " + ", ".join(f"{d:.2f} (t = {t})" for d, t in zip(shares, times)))

    for name, grid in (("figure_progressive.png", rows), ("figure_shared.png", shared), ("figure_interpolation.png", mixed)):
        plots.save_png(lesson.folder / name, plots.grid(plots.to_uint8(grid.reshape(-1, 28, 28, 1)), columns=grid.shape[1]))
    figure, axes = lesson.figure(3, count, size=(7, 3))
    for row, (name, x) in enumerate(drawn.items()):
        for i in range(count):
            course.show(axes[row, i], x[i], name if i == count // 2 else None)
    lesson.save(figure, "figure_variants.png")

    figure, (left, right) = lesson.figure(1, 2, size=(8, 2.8))
    left.plot([row[0] for row in table], [row[1] for row in table], "o-")
    left.set(xlabel="steps of DDIM", title="distance of classifier features")
    strides = np.arange(s.T, 0, -s.T // 10)              # T, 9/10 T, ..., 1/10 T: and the rest is forgotten
    bad = ddim(predict_x0, s, noise(4, 1), strides)
    print(f"ten strides that end at t = {strides[-1]}: noise of spread {np.sqrt(1 - s.alpha_bar[strides[-1]]):.2f} is left")
    right.imshow(plots.grid(plots.to_uint8(bad), 4)[..., 0], cmap="gray")
    right.set(title="DDIM that stops a stride too early")
    right.set_axis_off()
    lesson.save(figure, "figure_steps.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
