"""Measure a trained model: its bits/dim, its rates and distortions, its FID or its Inception score; learn a schedule.

    python examples/evaluate.py runs/mnist/checkpoint.safetensors nll
    python examples/evaluate.py runs/mnist/checkpoint.safetensors nll --ode
    python examples/evaluate.py runs/mnist/checkpoint.safetensors rate-distortion --count 256 --times 100
    python examples/evaluate.py runs/mnist/checkpoint.safetensors fid --count 1000 --sampler ddim --steps 100
    python examples/evaluate.py runs/mnist/checkpoint.safetensors schedule

Each command prints its results and writes a JSON file.
"""

import json
from dataclasses import replace

import numpy as np

from tinyddpm import cli, data, evaluation, files, sampler_flags
from tinyddpm.backend import state
from tinyddpm.diffusion import likelihood
from tinyddpm.sampling.samplers import OPTIONS
from tinyddpm.training import load_model

SPLITS, ROWS = 10, 10               # parts of the samples for the Inception score; rows of Table 4
OF_SAMPLES = ("samples", "sampler", "steps", "spacing", *OPTIONS, "clip", "guidance", "interval", "classifier",
              "classifier_scale", "avoid", "inception")


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    cli.add_checkpoint(parser)
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--split", choices=("test", "train"), help="(default: test; a folder has no splits)")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--count", type=cli.at_least(1), metavar="N",
                        help="images to measure or draw (256; fid, is: 1000)")
    images.add_argument("--samples", metavar="FILE.npy", help="measure these uint8 images, not new samples")
    parser.add_argument("--times", type=cli.at_least(0), metavar="K",
                        help="times t > 1 drawn for each image (default: 20, for rate-distortion 100; 0: all)")
    parser.add_argument("--cdf", choices=("exact", "tanh"), default="exact", help="the decoder's; tanh: the authors'")
    parser.add_argument("--ode", action="store_true",
                        help="of nll: besides the bound, the likelihood by the probability-flow ODE, for --tolerance")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, metavar="S", help="of all randomness (default 0)")
    parser.add_argument("--out", metavar="FILE", help="the JSON file (default: nll.json and so on)")
    sampler_flags.add(parser)
    cli.add_data_flags(parser)
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)
    of_images = ("times", "cdf", "ode")
    cli.refuse(parser, args, {"nll": [flag for flag in OF_SAMPLES if flag != "tolerance" or not args.ode],
                              "rate-distortion": (*OF_SAMPLES, "ode"), "schedule": (*OF_SAMPLES, *of_images)}
               .get(args.what, of_images), args.what)
    out = cli.require_writable(parser, args, args.out or f"{args.what}.json", ".json")
    cli.use_backend(args)
    model, preset = load_model(args.checkpoint)
    results = {"measured": args.what, "checkpoint": args.checkpoint, "backend": state.backend, "seed": args.seed}
    results |= MEASURES[args.what](args, model, preset)
    with files.replacing(out, "w") as file:
        file.write(json.dumps(results, indent=1) + "\n")
    print(f"written to {out}")
    return 0


def images_for(args, preset):
    """Some images, their labels or None, the data set's name, and words for all of it."""
    if args.label not in (None, "none"):
        raise ValueError(f"--label {args.label}: a likelihood has the true labels, or with --label none, none")
    labelled = preset.labels is not None and args.label is None
    config = preset.model if labelled else replace(preset.model, num_classes=None)
    dataset, name = data.compare_with(args.dataset or preset.dataset, config, args.split, args.data_dir)
    if labelled:
        dataset.require_classes(preset.classes, name)
    some = dataset.some(args.count or min(256, len(dataset)), args.seed)
    given = "" if preset.labels is None else ", given their labels" if labelled else ", without their labels"
    return some.images, some.labels if labelled else None, name, f"{len(some):,} images of {name}{given}"


def bound(args, model, preset):
    """Print and return the terms of Eq. 5 over some images, and Table 4."""
    images, labels, name, what = images_for(args, preset)
    T = preset.diffusion.T
    strata = {None: min(20 if args.what == "nll" else 100, T - 1), 0: T - 1}.get(args.times, args.times)
    found = evaluation.bound(model, preset, images, labels, strata, args.seed, args.cdf)
    print(f"{what}, {strata} of the {T - 1} times t > 1 for each, and t = 1; bits/dim:")
    results = found.summary()
    for part in ("prior", "rate", "distortion", "total"):
        print("  {:10}  {:9.5f} +- {:.5f}".format(part, *results[part]))
    if args.ode:
        bits = evaluation.ode_bits(model, preset, images, labels, args.seed, args.tolerance or 1e-4)
        results["ode"] = likelihood.mean_and_error(bits)
        print("  {:10}  {:9.5f} +- {:.5f}".format("ODE", *results["ode"]))
    if args.what == "rate-distortion":
        print("  reverse time T - t + 1   rate (bits/dim)   distortion (RMSE of 255)")
        for time in T * np.arange(ROWS, 0, -1) / ROWS:
            print("  {:22.0f}   {:15.5f}   {:24.5f}".format(time, *found.at(time)))
    return {"data": name, "labels": labels is not None, "times": strata, "T": T, "cdf": args.cdf} | results


def learned(args, model, preset):
    """Print and return the shares of a schedule that makes the bound's estimate vary less."""
    images, labels, name, what = images_for(args, preset)
    shares, own, new = evaluation.learned_shares(model, preset, images, labels, args.seed)
    print(f"{what}; the bound's estimate from one time and one image, mean and standard deviation in bits/dim:")
    for which, found in ((preset.diffusion.schedule, own), ("learned", new)):
        print("  {:12}{:9.3f} +- {:.3f}".format(which, *found))
    print(f"to train along it: --schedule learned --shares {','.join(map(str, shares))}")
    return {"data": name, "labels": labels is not None, "shares": shares, "own": own, "learned": new}


def quality(args, model, preset):
    """Print and return the FID between samples and a data set, or the Inception score of samples."""
    extractor, naming = evaluation.extractor(model.config, args.inception)
    measure = naming.format({"fid": "FID", "is": "score"}[args.what])
    if args.what == "fid":
        config = replace(preset.model, num_classes=None)
        dataset, name = data.compare_with(args.dataset or preset.dataset, config, args.split, args.data_dir)
    samples, how, labels = sampler_flags.samples(args, model, preset, 2 if args.what == "fid" else SPLITS)
    statistics, probabilities = evaluation.measure(extractor, samples, "samples")
    results = {"measure": measure, "samples": how}
    if args.what == "is":
        value, spread = evaluation.inception_score(probabilities, SPLITS)
        print(f"{measure}: {value:.3f} +- {spread:.3f}  ({how})")
        results["spread"] = spread
    else:
        value = evaluation.fid(evaluation.measure(extractor, dataset.images, name)[0], statistics)
        print(f"{measure}: {value:.3f}  ({how} against {len(dataset):,} images of {name})")
        results |= {"data": name, "images": len(dataset)}
    if labels is not None and not args.inception:
        results["read as asked"] = float((probabilities.argmax(axis=1) == labels).mean())
        print(f"read as their label: {results['read as asked']:.1%}")
    return results | {"value": value}


MEASURES = {"nll": bound, "rate-distortion": bound, "fid": quality, "is": quality, "schedule": learned}


if __name__ == "__main__":
    cli.program(main)
