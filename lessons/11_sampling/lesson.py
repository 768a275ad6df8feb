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
from tinyddpm import data, evaluation, plots
from tinyddpm.diffusion import process
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.diffusion.schedule import Schedule
from tinyddpm.sampling import latents, steps
from tinyddpm.sampling.steps import ddpm, last, spread
from tinyddpm.training import load_model


def algorithm_2(predict_x0, s, x, rng, variance="large", clip=True):
    """From noise x_T to images: predict x_0, form the mean of Eq. 7, add noise."""
    sigma2 = s.variance(variance)               # beta_t, or beta_tilde_t
    for t in range(s.T, 0, -1):
        x0 = predict_x0(x, np.full(len(x), t))
        if clip:
            x0 = np.clip(x0, -1, 1)             # before the mean is formed
        x = process.mu_from_x0(s, x0, x, t)
        if t > 1:                               # z = 0 at the last step
            z = rng.standard_normal(x.shape, dtype=np.float32)
            x = x + np.float32(np.sqrt(sigma2[t])) * z
    return x


def shortened(s, times):
    """The schedule that visits only some times of s, in ascending order."""
    alpha_bar = s.alpha_bar[[0, *times]]
    return Schedule(np.append(0.0, 1 - alpha_bar[1:] / alpha_bar[:-1]))


def ddim_times(s, steps):
    """From T down to 1 in equal strides, and 0, the data."""
    return [*np.round(np.linspace(s.T, 1, steps)).astype(int), 0]


def ddim(predict_x0, s, x, times):
    """From x_t to x_0, and back to the noise level of the next time."""
    for t, following in zip(times, times[1:]):
        a, b = s.alpha_bar[t], s.alpha_bar[following]
        x0 = np.clip(predict_x0(x, np.full(len(x), t)), -1, 1)
        eps = (x - np.sqrt(a) * x0) / np.sqrt(1 - a)
        x = (np.sqrt(b) * x0 + np.sqrt(1 - b) * eps).astype(np.float32)
    return x


def main():
    lesson = course.Lesson(__file__, __doc__)
    tinyddpm.use("auto")
    images, _ = course.digits()
    model, preset = load_model("mnist-eps")
    if lesson.quick:
        preset = preset.override(T=50, beta_1=2e-3, beta_T=0.3)
    s = preset.diffusion.make_schedule()

    def predictor(labels):
        """The network's x_0: it predicts the noise, and Eq. 4 is solved for x_0."""
        return lambda x, t: process.x0_from_eps(s, x, t, model.forward(x, t, labels=labels))

    noise = lambda count, seed: np.random.default_rng(seed).standard_normal((count, 28, 28, 1), dtype=np.float32)

    few, count, labels = min(50, s.T), 4, np.arange(4)
    p = reverse_process(model, preset.diffusion, labels)
    mine = algorithm_2(predictor(labels), s, noise(count, 5), np.random.default_rng(6))
    library = last(ddpm(p, s, noise(count, 5), np.random.default_rng(6), range(s.T, 0, -1)))
    print(f"Algorithm 2 by hand and the library's: {np.abs(mine - library).max():.0e}")
    mine = ddim(predictor(labels), s, noise(count, 5), ddim_times(s, few))
    library = last(steps.ddim(p, s, noise(count, 5), None, spread(s.T, few)))
    print(f"DDIM by hand and the library's: {np.abs(mine - library).max():.0e}")

    def in_few_steps(count, labels, x, variance):
        """Algorithm 2 along a schedule of `count` steps, the network still asked at its own times."""
        times = ddim_times(s, count)[-2::-1]
        predict_x0 = predictor(labels)
        return algorithm_2(lambda x, t: predict_x0(x, np.array(times)[t - 1]), shortened(s, times), x,
                           np.random.default_rng(2), variance)

    # Both variances and clipping in all steps; and in five
    labels = np.arange(10)
    whole = {"beta": {}, "beta tilde": {"variance": "small"}, "beta, not clipped": {"clip": False}}
    drawn = {name: algorithm_2(predictor(labels), s, noise(len(labels), 1), np.random.default_rng(2), **options)
             for name, options in whole.items()}
    for name, x in drawn.items():
        outside = np.mean(np.abs(x) > 1.05)
        print(f"{s.T:,} steps, {name}: {outside:.1%} of the pixels lie outside [-1, 1] by more than 0.05")
    print(f"an error of the noise at t = {s.T}, in x_0: {np.sqrt((1 - s.alpha_bar[-1]) / s.alpha_bar[-1]):.0f} times")
    lesson.rows("figure_variants.png", drawn, (8, 2.5))
    drawn = {name: in_few_steps(5, labels, noise(len(labels), 1), kind) for name, kind in
             (("Algorithm 2, beta", "large"), ("Algorithm 2, beta tilde", "small"))}
    drawn["DDIM"] = ddim(predictor(labels), s, noise(len(labels), 1), ddim_times(s, 5))
    lesson.rows("figure_few.png", drawn, (8, 2.4))
    short = shortened(s, ddim_times(s, 5)[-2::-1])
    print(f"the step from {ddim_times(s, 5)[-3]} to 1 adds noise of spread {np.sqrt(short.beta[2]):.3f} (beta) "
          f"or {np.sqrt(short.beta_tilde[2]):.3f} (beta tilde)")

    # How many steps? Judged by a small classifier's features: a distance for comparison among these alone
    extractor, _ = evaluation.extractor(preset.model)
    real = evaluation.measure(extractor, images[:500] if lesson.quick else images, "digits")[0]
    labels, table = np.arange(10 if lesson.quick else 200) % 10, {}
    for few in (3, 5) if lesson.quick else (5, 10, 25, 50):
        for name, kind in (("DDIM", None), ("Algorithm 2, beta tilde", "small"), ("Algorithm 2, beta", "large")):
            started, x = time.perf_counter(), noise(len(labels), 3)
            x = in_few_steps(few, labels, x, kind) if kind else ddim(predictor(labels), s, x, ddim_times(s, few))
            seconds = time.perf_counter() - started
            distance = evaluation.fid(evaluation.measure(extractor, plots.to_uint8(x), "samples")[0], real)
            table.setdefault(name, []).append((few, distance))
            print(f"{few} steps, {name}: distance {distance:.2f}, {seconds:.1f} s for {len(x)} images")
    lesson.curves("figure_steps.png", {name: tuple(zip(*found)) for name, found in table.items()}, "o-",
                  xlabel="steps", ylabel="distance from the digits", xscale="log", yscale="log")

    rng, free = np.random.default_rng(7), reverse_process(model, preset.diffusion)          # without labels
    p = reverse_process(model, preset.diffusion, np.array([3, 5, 8]))
    rows = latents.progressive(p, s, noise(3, 8), rng)
    lesson.rows("figure_progressive.png", dict(zip(("three", "five", "eight"), rows)), (8, 2.6),
                [f"t = {t}" for t in spread(s.T, 10)])
    times = tuple(s.T * k // 8 for k in (8, 4, 2, 1))
    shared = latents.shared(free, s, noise(1, 9), rng, times, columns=9)
    distances = [np.abs(row[1:, None] - row[None, 1:]).mean() for row in shared]
    print("samples of one x_t differ, " + ", ".join(f"t = {t}: {d:.2f}" for d, t in zip(distances, times)))
    lesson.rows("figure_shared.png", {f"t = {t}": row for t, row in zip(times, shared)}, (8, 3.4),
                ["x_t", *["sample"] * (shared.shape[1] - 1)])
    a, b = data.scaled(images[[3, 5, 0]]), data.scaled(images[[8, 12, 7]])
    mixed = latents.interpolate(free, s, a, b, s.T // 2, rng, columns=9)
    titles = ["a digit", *(f"{w:.2g}" for w in np.linspace(0, 1, 7)), "another"]
    lesson.rows("figure_interpolation.png", dict(zip(("", " ", "  "), mixed)), (8, 2.5), titles)

    strides = np.arange(s.T, 0, -s.T // 10)              # T, 9/10 T, ..., 1/10 T: and the rest is forgotten
    early, whole = (ddim(predictor(np.arange(10)), s, noise(10, 1), times) for times in (strides, [*strides, 0]))
    spread_left = np.sqrt(1 - s.alpha_bar[strides[-1]])
    print(f"ten strides that end at t = {strides[-1]}: noise of spread {spread_left:.2f} is left")
    lesson.rows("figure_wrong.png", {"to the end": whole, "a stride too few": early}, (8, 1.7))
    lesson.end()


if __name__ == "__main__":
    course.program(main)
