"""Lesson 14: the full CIFAR10 DDPM: recipe, cost, precision, several GPUs, evaluation, published weights.

    python lessons/14_cifar10/lesson.py [--quick]
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import course

import tinyddpm
from tinyddpm import evaluation, plots, presets
from tinyddpm.diffusion import objective, schedule
from tinyddpm.interop import load_diffusers, save_diffusers
from tinyddpm.nn import UNet, UNetConfig
from tinyddpm.sampling.generate import generate
from tinyddpm.training import load_model

TINY = UNetConfig(image_size=8, base_channels=16, channel_multipliers=(1, 2), blocks_per_level=1,
                  attention_resolutions=(), groups=4, dropout=0.0)
GFLOP_FORWARD = 2 * 6.22        # of the paper's network for one image


def bf16(x):
    """float32 numbers, rounded to the half of their bits that bfloat16 keeps."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000
    return rounded.astype(np.uint32).view(np.float32)


def product(a, b, narrow):
    """A matrix product as the GPU makes it: narrow operands, sums in float32."""
    return narrow(a).astype(np.float32) @ narrow(b).astype(np.float32)


def gradient(model, s, x0, t, eps):
    model.flat_grads.fill(0)
    objective.loss_and_gradient(model, s, x0, t, eps)
    return model.flat_grads.copy()


def fit_line(narrow, steps, keep_master):
    """Gradient descent on (w - 1)^2. keep_master: the steps are taken in float32."""
    w, path = np.float32(0.0), []
    for _ in range(steps):
        w = w - np.float32(2e-3) * (narrow(w) - 1)
        if not keep_master:
            w = narrow(w)
        path.append(float(w))
    return path


def main():
    lesson = course.Lesson(__file__, __doc__)
    rng = np.random.default_rng(14)

    paper = presets.get("cifar10")
    for part in ("model", "diffusion", "training"):
        fields = asdict(getattr(paper, part)).items()
        print(f"the recipe, {part}: " + ", ".join(f"{name} {value}" for name, value in fields))
    parameters = UNet(paper.model).flat_values.size
    step = 3 * GFLOP_FORWARD * paper.training.batch_size / 1e3
    print(f"cost: {parameters:,} parameters; a step, forward and backward for 128 images, is {step:.2f} TFLOP")
    print(f"cost: {paper.training.steps:,} of them are {step * paper.training.steps / 1e6:.1f} million TFLOP")
    for name, rate in (("the paper's 21 steps a second", 21), ("2 CPU cores, at 200 GFLOP/s", 0.2 / step)):
        print(f"cost: {name}: {paper.training.steps / rate / 3600:,.1f} hours")
    print(f"cost: weights, gradients, two moments and the average: {5 * 4 * parameters / 1e6:,.0f} MB")

    # Precision
    a, b = rng.standard_normal((2, 256, 256)).astype(np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    for name, narrow in (("fp32", np.float32), ("fp16", np.float16), ("bf16", bf16)):
        error = np.abs(product(a, b, narrow) - exact).max() / np.abs(exact).max()
        print(f"a product with operands in {name}: largest error {error:.0e} of the largest value")
    model, s = UNet(TINY), schedule.linear()
    model.flat_values[...] += 0.05 * rng.standard_normal(model.flat_values.size).astype(np.float32)
    x0, eps = rng.standard_normal((2, 8, 8, 8, 3)).astype(np.float32)
    t = rng.integers(1, 1001, 8)
    whole = gradient(model, s, x0, t, eps)
    sizes = np.abs(whole[whole != 0])
    print(f"float16 ends at {np.finfo(np.float16).max:,.0f}, and its smallest number is {2.0**-24:.8f}")
    for scale in (1, 2**16):
        lost = np.mean((sizes / 1e4 * scale).astype(np.float16) == 0)
        print(f"of gradients ten thousand times smaller than these, times {scale:,}, fp16 makes {lost:.0%} zero")
    stuck, moves = (fit_line(bf16, 200 if lesson.quick else 3000, keep) for keep in (False, True))
    print(f"weights in bf16 alone stop at {stuck[-1]:.3f} of 1; with a float32 copy they reach {moves[-1]:.3f}")

    # Several GPUs: the mean of the parts' gradients is the gradient of the batch
    parts = [gradient(model, s, x0[i::2], t[i::2], eps[i::2]) for i in range(2)]
    difference = np.abs((parts[0] + parts[1]) / 2 - whole).max() / np.abs(whole).max()
    print(f"the mean of the gradients of two halves of a batch differs from the batch's by {difference:.0e}")

    # Evaluating: FID falls with the number of samples, even if they are real
    tinyddpm.use("auto")
    images, _ = course.digits()
    extractor, _ = evaluation.extractor(presets.get("mnist").model)
    half = 300 if lesson.quick else 2500
    reference = evaluation.measure(extractor, images[:half], "digits")[0]
    counts = (20, 40, 60, 80, 120, 200) if lesson.quick else (50, 100, 200, 500, 1000, 2000)
    measured = [evaluation.measure(extractor, images[half:half + n], "digits")[0] for n in counts]
    found = [evaluation.fid(statistics, reference) for statistics in measured]
    print("the distance of N real digits from other real digits:")
    print(", ".join(f"{d:.2f} ({n})" for n, d in zip(counts, found)))

    # Published weights: written, read, the same network
    tinyddpm.use("numpy")
    with tempfile.TemporaryDirectory() as folder:
        save_diffusers(model, folder)
        files = sorted(path.name for path in Path(folder).iterdir())
        again = load_diffusers(folder)
    difference = np.abs(again.forward(x0, t) - model.eval().forward(x0, t)).max()
    print(f"written as {' and '.join(files)}; read again: differs by {difference:g}")
    assert difference == 0

    # The same in a size for a laptop, by the weights that come with the package
    tinyddpm.use("auto")
    model, preset = load_model("cifar10-small")
    rows = 1 if lesson.quick else 5
    options = preset.sampling.arguments(preset.diffusion.T, np.arange(10 * rows) % 10)
    images = generate(model, preset.diffusion, 10 * rows, seed=1, **options | ({"steps": 2} if lesson.quick else {}))
    print(f"cifar10-small: {model.flat_values.size:,} parameters, guidance {preset.sampling.guidance:g}")
    plots.save_png(lesson.folder / "figure_small.png", plots.grid(plots.to_uint8(images), columns=10))
    tinyddpm.use("numpy")

    figure, (left, right) = lesson.figure(1, 2, size=(9, 3.2))
    numbers = np.logspace(-9, 6, 400).astype(np.float32)
    with np.errstate(all="ignore"):
        for name, narrow in (("bf16", bf16), ("fp16", np.float16)):
            error = np.abs(narrow(numbers).astype(np.float64) - numbers) / numbers + 1e-9
            left.loglog(numbers, error, ".", markersize=2, label=name)
    left.set(xlabel="number", ylabel="relative error of rounding", ylim=(1e-6, 10))
    left.legend(markerscale=5)
    right.loglog(counts, found, "o-")
    right.set(xlabel="number N of real digits", ylabel="distance from other real digits")
    lesson.save(figure, "figure_precision.png")

    lesson.curves("figure_wrong.png", {"float32 copy, bf16 in the products": moves, "bf16 alone": stuck},
                  xlabel="step", ylabel="weight, which should become 1")
    lesson.end()


if __name__ == "__main__":
    course.program(main)
