"""Lesson 13: what to predict, what to weigh.

    python lessons/13_predictions/lesson.py [--quick]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm import evaluation, plots, presets
from tinyddpm.diffusion import likelihood, objective, process, schedule
from tinyddpm.diffusion.prediction import PREDICTIONS, reverse_process
from tinyddpm.sampling.steps import ddim, last, spread

STEPS = 400
ROWS = [("eps", "simple", "large"), ("eps", "L", "large"), ("x0", "simple", "large"),
        ("v", "simple", "large"), ("mu", "L", "large"), ("eps", "hybrid", "learned")]


def all_from_x0(s, x0, xt, t):
    """What a network may predict: from x_0 and x_t follow the others."""
    a = s.alpha_bar[t]
    eps = (xt - np.sqrt(a) * x0) / np.sqrt(1 - a)               # Eq. 4, solved
    v = np.sqrt(a) * eps - np.sqrt(1 - a) * x0
    from_x0, from_xt = process.posterior_coefficients(s, t)     # Eq. 7
    return {"eps": eps, "v": v, "mu": from_x0 * x0 + from_xt * xt}


def error_of_x0(s, prediction, t, error):
    """How far x_0 is off when the prediction is off by so much: its slope."""
    return abs(PREDICTIONS[prediction].x0_slope(s, t)) * error


def learned_variance(s, v, t):
    """sigma_t^2 on a logarithmic scale: v = 1 is beta_t, v = -1 is beta_tilde_t."""
    large, small = np.log(s.beta[t]), np.log(s.variance("small")[t])
    return np.exp((v + 1) / 2 * large + (1 - v) / 2 * small)


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(13)
    s, t = schedule.linear(), 300
    x0, eps = rng.standard_normal((2, 4, 3))
    xt = process.q_sample(s, x0, t, eps)
    for name, value in all_from_x0(s, x0, xt, t).items():
        back = PREDICTIONS[name].to_x0(s, xt, t, value)
        print(f"x_0 -> {name} -> x_0: {np.abs(back - x0).max():.0e}; the library's target differs by "
              f"{np.abs(PREDICTIONS[name].target(s, x0, xt, t, eps) - value).max():.0e}")
    print("how far x_0 is off if a prediction is off by 0.01")
    for t in (1, 100, 999):
        print(f"t = {t:3}: "
              + ", ".join(f"{error_of_x0(s, name, t, 0.01):.2g} ({name})" for name in ("eps", "x0", "v", "mu")))
    for v in (-1.0, 0.0, 1.0):
        assert np.isclose(learned_variance(s, v, 500), np.exp(process.learned_log_variance(s, 500, np.array([v])))[0])
    for t in (500, 2):
        print(f"at t = {t} sigma^2 lies between {learned_variance(s, -1, t):.6f} and {learned_variance(s, 1, t):.6f}")
    probabilities = objective.time_probabilities(s)
    print(f"L draws t <= 10 in {probabilities[:10].sum():.0%} of its steps; drawn uniformly they would be 1%")

    tinyddpm.use("auto")
    images = course.digits()[0].reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4)).round().astype(np.uint8)
    train, test = images[:-256], images[-256:]
    base = course.paper(lesson.quick, image_size=14, patch_size=1, base_channels=16, lr=3e-3)
    extractor, _ = evaluation.extractor(presets.get("mnist").model)

    def statistics(images, what):
        """Of a classifier's features; it knows digits of 28 x 28 pixels, so each pixel is repeated."""
        return evaluation.measure(extractor, images.repeat(2, axis=1).repeat(2, axis=2), what)[0]

    real = statistics(images[:500] if lesson.quick else images, "digits")
    count, steps, bound_count = (8, 3, 4) if lesson.quick else (200, 50, 64)
    noise = rng.standard_normal((count, 14, 14, 1), dtype=np.float32)
    print("predicts, by, sigma^2: bits/dim, distance of classifier features")
    pictures = {}
    for prediction, loss, variance in ROWS:
        preset = base.override(prediction=prediction, loss=loss, variance=variance)
        trainer, _ = course.train(preset, train, 6 if lesson.quick else STEPS)
        model, p = trainer.model.eval(), reverse_process(trainer.model, preset.diffusion)
        model.flat_values[...] = trainer.optimizer.ema
        x = last(ddim(p, trainer.schedule, noise, rng, spread(trainer.schedule.T, steps)))
        bound = likelihood.evaluate(p, trainer.schedule, test[:bound_count], 4 if lesson.quick else 10)
        bits = bound.summary()["total"]
        distance = evaluation.fid(statistics(plots.to_uint8(x), "samples"), real)
        name = f"{prediction}, {'L_' * (loss == 'simple') + loss}, {variance}"
        print(f"{name}: {bits[0]:.2f} +- {bits[1]:.2f}, {distance:.2f}", flush=True)
        pictures[name] = x[:10]
    lesson.rows("figure_samples.png", pictures, (8, 4.2))

    figure, (left, right) = lesson.figure(1, 2, size=(9, 3.4))
    t = np.arange(1, s.T + 1)
    for name in ("eps", "x0", "v", "mu"):
        left.loglog(t, error_of_x0(s, name, t, 1.0), label=name)
    left.set(xlabel="t", ylabel="error of x_0", title="for an error of 1 of the prediction")
    left.legend()
    right.loglog(t, objective.bound_weights(s, t) / objective.bound_weights(s, t).mean(), label="L (Eq. 12)")
    right.loglog(t, np.ones(s.T), label="L_simple")
    right.loglog(t, np.minimum(s.snr[1:], 5) / s.snr[1:], label="Min-SNR: min(snr, 5) / snr")
    right.set(xlabel="t", ylabel="weight of the error of eps", title="three losses")
    right.legend()
    lesson.save(figure, "figure_weights.png")

    # What goes wrong: L with t drawn uniformly has the same mean and far more noise
    figure, axes = lesson.figure(size=(6, 3.2))
    weights = objective.bound_weights(s, t)
    uniform = np.full(s.T, 1 / s.T)
    for name, chances in (("t uniform", uniform), ("t as the weights", probabilities)):
        chosen = rng.choice(s.T, (2000, 64), p=chances)
        batch = (weights[chosen] / (s.T * chances[chosen])).mean(axis=1)
        axes.hist(np.log10(batch), np.linspace(-2.25, -1.35, 60), alpha=0.6, label=name)
        print(f"the loss L of a batch of 64 at errors of 1, {name}: mean {batch.mean():.4f}, spread {batch.std():.4f}")
    axes.set(xlabel="log10 of a batch's loss", ylabel="batches", yscale="log")
    axes.legend()
    lesson.save(figure, "figure_wrong.png")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
