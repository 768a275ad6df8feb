"""Train the small classifier that evaluate.py uses on MNIST and CIFAR10, or one of noisy images that guides samples.

    python examples/train_classifier.py --dataset mnist --out tinyddpm/evaluation/weights/mnist.safetensors
    python examples/train_classifier.py --dataset cifar10 --out tinyddpm/evaluation/weights/cifar10.safetensors
    python examples/train_classifier.py --dataset mnist --noisy mnist --out noisy.safetensors
    python examples/sample.py mnist --guidance 0 --classifier noisy.safetensors --classifier-scale 2
"""

import math
from dataclasses import replace

import numpy as np

from tinyddpm import cli, data, ops
from tinyddpm.backend import from_numpy, to_numpy
from tinyddpm.data import scaled
from tinyddpm.diffusion.process import q_sample
from tinyddpm.evaluation.classifier import Classifier, ClassifierConfig, save_classifier
from tinyddpm.presets import TrainingConfig
from tinyddpm.progress import Progress
from tinyddpm.training import load_model
from tinyddpm.training.optimizer import Adam

CONFIGS = {"mnist": ClassifierConfig(1, (32, 48)), "cifar10": ClassifierConfig(3, (64, 96))}
BATCH, SHIFT = 100, 3           # images per step; pixels by which a batch may be shifted


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", choices=CONFIGS, default="mnist")
    cli.add_data_dir(parser)
    parser.add_argument("--noisy", metavar="MODEL",
                        help=f"on images with the noise of this model, to guide it: {cli.MODELS}")
    parser.add_argument("--epochs", type=cli.at_least(1), default=6, metavar="N",
                        help="passes over the training images (default 6)")
    parser.add_argument("--out", required=True, metavar="FILE", help="the .safetensors file to write")
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)
    cli.require_writable(parser, args, args.out, ".safetensors")

    cli.use_backend(args)
    train, test = (data.Dataset(*data.DATASETS[args.dataset](split, args.data_dir)) for split in ("train", "test"))
    config = CONFIGS[args.dataset]
    model = Classifier(replace(config, time_width=64) if args.noisy else config).train()
    if args.noisy:
        model.diffusion = load_model(args.noisy)[1].diffusion
    steps = args.epochs * (len(train) // BATCH)
    optimizer = Adam(model, TrainingConfig(lr=3e-3, lr_final=1e-5, warmup=100, ema_decay=0.995))
    rng, progress, mean = np.random.default_rng(0), Progress(), None
    for step in range(steps):
        images, labels = train.batch(step, BATCH, seed=0)
        if args.dataset == "cifar10" and rng.random() < 0.5:
            images = images[:, :, ::-1]
        images = np.roll(images, rng.integers(-SHIFT, SHIFT + 1, 2), axis=(1, 2))
        model.flat_grads.fill(0)
        logits = model.forward(*noisy(model, scaled(images), rng))
        loss, cache = ops.cross_entropy(logits, from_numpy(labels))
        model.backward(ops.cross_entropy_backward(1.0, cache))
        lr = optimizer.learning_rate(step + 1, step / steps)
        if not math.isfinite(optimizer.update(step + 1, lr, loss)):
            raise ValueError(f"the gradient is not finite at step {step + 1}")
        mean = float(loss) if mean is None else mean + (float(loss) - mean) / 100
        progress.show(f"step {step + 1:,} of {steps:,}  loss {mean:.4f}")
    progress.close()

    model.flat_values[...] = optimizer.ema
    model.eval()
    times = [max(1, model.diffusion.T * tenths // 10) for tenths in range(11)] if args.noisy else [None]
    found = [accuracy(model, test, t, rng) for t in times]
    for t, right in zip(times, found):
        if t:
            print(f"  t = {t:5}: right on {right:7.2%} of the test images")
    text = f"{found[0]:.2%} of the test images"
    save_classifier(model, args.out, dataset=args.dataset, accuracy=text)
    print(f"{args.out}: {model.flat_values.size:,} parameters, right on {text}" + " at t = 1" * bool(args.noisy))
    return 0


def noisy(model, x0, rng, t=None):
    """The arguments of the classifier: images, or x_t at the given time or at random ones, and t."""
    if model.diffusion is None:
        return (x0,)
    s = model.diffusion.make_schedule()
    t = rng.integers(1, s.T + 1, len(x0)) if t is None else np.full(len(x0), t)
    return q_sample(s, x0, t, from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))), t


def accuracy(model, test, t, rng):
    """The share of the test images that the classifier reads as their label; at time t, if it is of noisy ones."""
    right = [to_numpy(model.forward(*noisy(model, scaled(images), rng, t)).argmax(axis=1)) == labels
             for images, labels in (test.batch(i, BATCH, seed=0) for i in range(len(test) // BATCH))]
    return np.mean(right)


if __name__ == "__main__":
    cli.program(main)
