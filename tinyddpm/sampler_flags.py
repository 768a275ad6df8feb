"""The flags that choose how a trained model is drawn from, and what they mean for generate, and samples by them."""

import argparse
import math
from dataclasses import replace

import numpy as np

from tinyddpm import cli, data, plots
from tinyddpm.data import CLASSES
from tinyddpm.evaluation.classifier import load_classifier
from tinyddpm.progress import Progress
from tinyddpm.sampling.generate import generate
from tinyddpm.sampling.samplers import OPTIONS, SAMPLERS, SPACINGS


def add(parser):
    titles = "; ".join(f"{name}: {s.title}, {s.steps or ('all T' if s.evaluations else 'its own')} steps"
                       for name, s in SAMPLERS.items())
    parser.add_argument("--sampler", choices=SAMPLERS, help=f"{titles} (default: the model's own choice)")
    parser.add_argument("--steps", type=cli.at_least(1), metavar="K",
                        help="number of steps, for samplers that can skip some")
    parser.add_argument("--spacing", choices=SPACINGS,
                        help="of their times: logsnr and sigma are denser near the data (default: as fits the sampler)")
    parser.add_argument("--clip", action=argparse.BooleanOptionalAction,
                        help="keep the predicted x_0 within [-1, 1] (default: the model's own choice)")
    parser.add_argument("--guidance", type=cli.at_least(-math.inf, float), metavar="W",
                        help="of models with classes: 1 draws what the label says, 0 ignores it, more exaggerates it, "
                             "less than 0 avoids it (default: the model's own choice)")
    parser.add_argument("--interval", type=span, metavar="T,T",
                        help="the times t, the smaller first, between which guidance acts (default: all)")
    parser.add_argument("--label", metavar="L[,L...]",
                        help="classes to draw, numbers or names, or none (default: all classes, if the model has any)")
    parser.add_argument("--classifier", metavar="FILE",
                        help="guide by a classifier of noisy images, which train_classifier.py --noisy makes")
    parser.add_argument("--classifier-scale", type=cli.at_least(-math.inf, float), metavar="S",
                        help="how many times it counts (default 1)")
    parser.add_argument("--avoid", metavar="L", help="a class from which guidance leads away, instead of from no label")
    for name, default in OPTIONS.items():
        whose = ", ".join(s.title for s in SAMPLERS.values() if name in s.options)
        parser.add_argument(f"--{name}", type=type(default), metavar="X", help=f"of {whose} (default {default})")


def span(text):
    """The type of a flag whose value is two whole numbers."""
    first, last = map(int, text.split(","))
    return first, last


def classes(flag, text, preset):
    """The classes that the text of a flag lists by number or name, as numbers; None for `none`. Raises ValueError."""
    n, names = preset.model.num_classes, preset.classes
    if text == "none":
        return None
    if n is None:
        raise ValueError(f"{flag} {text}: the model has no classes")
    found = [names.index(one) if one in names else int(one) if one.isdecimal() else n for one in text.split(",")]
    if max(found) >= n:
        known = f", or {', '.join(names)}" if names and names != CLASSES["digits"] else ""
        raise ValueError(f"{flag} {text}: expected 0 to {n - 1}{known}")
    return found


def drawn_classes(args, preset):
    """The classes that --label chooses: a list, or None for a model without classes and for `--label none`.

    With --classifier, those of the classifier, for a model without classes.
    """
    if args.classifier:
        n = load_classifier(args.classifier).config.classes
        if preset.model.num_classes not in (None, n):
            raise ValueError(f"--classifier {args.classifier}: it knows {n} classes; the model has "
                             f"{preset.model.num_classes}")
        preset = replace(preset, model=replace(preset.model, num_classes=n))
    return preset.labels if args.label is None else classes("--label", args.label, preset)


def sampler(args, preset, labels):
    """What the flags choose for a trained model and labels (N,) or None: arguments for generate, and a description.

    Raises ValueError for flags that do not fit each other or the model.
    """
    name = args.sampler or preset.sampling.sampler
    chosen = SAMPLERS[name]
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    wrong = [option for option in options if option not in chosen.options]
    wrong += [option for option in ("steps", "spacing") if chosen.steps is None and getattr(args, option) is not None]
    if wrong:
        raise ValueError(f"--{wrong[0]} does not belong to --sampler {name}, {chosen.title}: choose another")
    found = preset.sampling.arguments(preset.diffusion.T, labels) | {"sampler": name} | options
    if name != preset.sampling.sampler:
        found |= {"steps": None, "spacing": None}
    found["steps"] = found["steps"] or chosen.steps and min(chosen.steps, preset.diffusion.T)
    found |= {name: getattr(args, name) for name in ("steps", "spacing", "clip") if getattr(args, name) is not None}
    found |= guided(args, preset, labels)
    if args.classifier:
        found |= by_classifier(args, preset, labels)
    elif args.classifier_scale is not None:
        raise ValueError("--classifier-scale needs a --classifier")
    what = [f"{option} {value:g}" for option, value in options.items() if value]
    if chosen.steps:
        evaluations = chosen.evaluations(found["steps"])
        what.insert(0, f"{found['steps']} steps" + f", {evaluations} evaluations" * (evaluations != found["steps"]))
    if found["guidance"] != 1:
        what.append(f"guidance {found['guidance']:g}")
    if args.classifier:
        what.append(f"a classifier's guidance {found['scale']:g}")
    return found, chosen.title + " with " * bool(what) + " and ".join(what)


def guided(args, preset, labels):
    """The arguments of generate for --guidance and --avoid. Raises ValueError where they would change nothing."""
    avoid = None if args.avoid is None else classes("--avoid", args.avoid, preset)
    if avoid is not None and len(avoid) > 1:
        raise ValueError(f"--avoid {args.avoid}: expected one class")
    w = args.guidance
    if w is None:
        w = 1.0 if labels is None and avoid is None else preset.sampling.guidance
    elif preset.model.num_classes is None or labels is None and avoid is None:
        raise ValueError(f"--guidance {w:g}: the images have no label" if preset.model.num_classes else
                         f"--guidance {w:g}: the model has no classes")
    if avoid and w == 1:
        raise ValueError(f"--avoid {args.avoid}: it needs a --guidance other than 1")
    if args.interval and w == 1:
        raise ValueError(f"--interval {args.interval[0]},{args.interval[1]}: there is no guidance")
    return {"guidance": w, "avoid": avoid and avoid[0], "interval": args.interval}


def by_classifier(args, preset, labels):
    """The arguments of generate for --classifier. Raises ValueError where it does not fit the model."""
    found, ours = load_classifier(args.classifier), preset.diffusion.make_schedule()
    if found.diffusion is None:
        raise ValueError(f"--classifier {args.classifier}: it was trained on clean images; train one with --noisy")
    if found.config.image_channels != preset.model.image_channels:
        raise ValueError(f"--classifier {args.classifier}: it is made for {found.config.image_channels} channels; the "
                         f"model's images have {preset.model.image_channels}")
    theirs = found.diffusion.make_schedule()
    if theirs.T != ours.T or abs(theirs.alpha_bar - ours.alpha_bar).max() > 1e-6:
        raise ValueError(f"--classifier {args.classifier}: its images had other noise ({found.diffusion.schedule}, "
                         f"T = {theirs.T}) than the model's ({preset.diffusion.schedule}, T = {ours.T})")
    if labels is None:
        raise ValueError(f"--classifier {args.classifier}: the images have no label")
    return {"classifier": found.eval(gradients=True), "labels": labels,
            "scale": 1.0 if args.classifier_scale is None else args.classifier_scale}


def samples(args, model, preset, least):
    """New samples or those of --samples, uint8, how they were made, and their labels. ValueError below `least`."""
    images = data.load_npy(args.samples, preset.model) if args.samples else None
    count = (args.count or 1000) if images is None else len(images)
    if count < least:
        raise ValueError(f"{count} samples are too few to measure: expected at least {least}")
    if args.samples:
        return images, f"{count:,} images of {args.samples}", None
    classes, progress = drawn_classes(args, preset), Progress()
    labels = None if classes is None else np.resize(classes, count)
    how, title = sampler(args, preset, labels)
    images = generate(model, preset.diffusion, count, args.seed, **how,
                      watch=lambda step, number, total: progress.count("sampling, evaluation", number, total))
    progress.close()
    return plots.to_uint8(images), f"{count:,} samples by {title}", labels
