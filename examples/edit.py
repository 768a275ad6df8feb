"""Edit images with a trained model: fill holes, enlarge, colour, or vary them. It knows what images look like; none of
this was trained.

    python examples/edit.py mnist digit.png --task inpaint --mask centre
    python examples/edit.py cifar10-small photos/ --task upscale --factor 4 --label horse
    python examples/edit.py mnist digit.png --task edit --strength 0.6 --label 3

A row for each image: the image, what of it is known, and the answers.
"""

import numpy as np

from tinyddpm import cli, data, files, plots, sampler_flags
from tinyddpm.backend import from_numpy
from tinyddpm.data import scaled
from tinyddpm.progress import Progress
from tinyddpm.sampling import editing
from tinyddpm.training import load_model

MASKS = "left", "centre", "random"
TASKS = "inpaint", "edit", "upscale", "colorize"


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n\n")[0])
    cli.add_checkpoint(parser)
    parser.add_argument("images", metavar="IMAGES", help="a PNG or JPEG file, a folder of them, or a .npy file, uint8")
    parser.add_argument("--task", choices=TASKS, default="inpaint")
    parser.add_argument("--method", choices=editing.METHODS, default="reconstruction",
                        help="how what is known guides; reconstruction fits best (default), the others are simpler")
    parser.add_argument("--mask", default="centre", metavar="MASK",
                        help=f"of inpaint, what to fill: {', '.join(MASKS)}, or a PNG file, white (default centre)")
    parser.add_argument("--factor", type=cli.at_least(2), default=4, metavar="N", help="of upscale (default 4)")
    parser.add_argument("--strength", type=float, default=0.5, metavar="S",
                        help="of edit: 0 keeps the image, 1 forgets it (default 0.5)")
    parser.add_argument("--answers", type=cli.at_least(1), default=4, metavar="N", help="for each image (default 4)")
    parser.add_argument("--count", type=cli.at_least(1), default=8, metavar="N", help="images at most (default 8)")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, metavar="S", help="for other answers (default 0)")
    parser.add_argument("--out", default="edited.png", metavar="FILE",
                        help=".png, or .npy: uint8 (N, answers, H, W, C)")
    sampler_flags.add(parser)
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)

    out = cli.require_writable(parser, args, args.out, ".png", ".npy")
    cli.use_backend(args)
    model, preset = load_model(args.checkpoint)
    x0 = scaled(data.read_images(args.images, preset.model)[:args.count])
    classes = sampler_flags.drawn_classes(args, preset) if args.label else None
    if classes and len(classes) > 1:
        raise ValueError(f"--label {args.label}: expected one class")
    x0 = x0.repeat(args.answers, axis=0)
    how, _ = sampler_flags.sampler(args, preset, classes and np.repeat(classes, len(x0)))
    task = {"inpaint": inpaint, "upscale": upscale, "colorize": colorize}.get(args.task)
    measurement, progress = task and task(args, preset.model), Progress()
    answers = editing.edit(model, preset.diffusion, x0, measurement, args.method, args.strength, args.seed,
                           lambda number: progress.count("step", number, None), **how)
    progress.close()
    seen = x0 if measurement is None else measurement.back(measurement.of(x0))
    shown = [one.reshape(-1, args.answers, *one.shape[1:]) for one in map(plots.to_uint8, (x0, seen, answers))]
    if out.suffix == ".npy":
        np.save(out, shown[2])
    else:
        rows = np.concatenate([shown[0][:, :1], *[shown[1][:, :1]] * bool(measurement), shown[2]], axis=1)
        plots.save_png(out, plots.grid(rows.reshape(-1, *rows.shape[2:]), rows.shape[1]))
    print(out)
    return 0


def inpaint(args, config):
    """The measurement of the pixels that the mask leaves."""
    H = config.image_size
    known = np.ones((1, H, H, 1), np.float32)
    if args.mask == "left":
        known[:, :, :H // 2] = 0
    elif args.mask == "centre":
        known[:, H // 4:-(H // 4), H // 4:-(H // 4)] = 0
    elif args.mask == "random":
        known[...] = np.random.default_rng(args.seed).random(known.shape) < 0.25
    else:
        from PIL import Image               # installed with matplotlib

        with files.opened(args.mask, "a PNG image"), Image.open(args.mask) as mask:
            if mask.size != (H, H):
                raise ValueError(f"it has {mask.width} x {mask.height} pixels; the model's images have {H} x {H}")
            known[0, :, :, 0] = np.asarray(mask.convert("L")) < 128
    if known.all() or not known.any():
        raise ValueError(f"--mask {args.mask}: expected something to fill, and something that is known")
    return editing.masked(from_numpy(known))


def upscale(args, config):
    """The measurement of squares' means."""
    if config.image_size % args.factor:
        raise ValueError(f"--factor {args.factor}: expected a divisor of {config.image_size}, the model's pixels")
    return editing.smaller(args.factor)


def colorize(args, config):
    """The measurement of the channels' mean."""
    if config.image_channels == 1:
        raise ValueError("--task colorize: the model's images are grey")
    return editing.grey(config.image_channels)


if __name__ == "__main__":
    cli.program(main)
