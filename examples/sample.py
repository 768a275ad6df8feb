"""Draw new images with a trained model, yours or one that comes with the package.

    python examples/sample.py mnist                                       a column for each class
    python examples/sample.py mnist --label 3,8 --guidance 2 --out film.gif
    python examples/sample.py runs/digits/checkpoint.safetensors --sampler ddpm
"""

import numpy as np

from tinyddpm import cli, plots, sampler_flags
from tinyddpm.progress import Progress
from tinyddpm.sampling.generate import by_class, generate
from tinyddpm.training import load_model

COUNT = 36


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    cli.add_checkpoint(parser)
    parser.add_argument("--count", type=cli.at_least(1), metavar="N",
                        help=f"how many images (default {COUNT}, or whole rows with a column for each class)")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, metavar="S", help="for other images (default 0)")
    parser.add_argument("--out", default="samples.png", metavar="FILE",
                        help=".png: a grid, .gif: a film of the sampling, .npy: uint8 (N, H, W[, C])")
    sampler_flags.add(parser)
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)

    out = cli.require_writable(parser, args, args.out, ".png", ".gif", ".npy")
    cli.use_backend(args)
    model, preset = load_model(args.checkpoint)
    count, labels, columns = by_class(sampler_flags.drawn_classes(args, preset), args.count or COUNT)
    if args.count and labels is not None:
        count, labels = args.count, labels[:args.count]
    sampler, title = sampler_flags.sampler(args, preset, labels)
    film, progress, evaluations = plots.Film(columns), Progress(), 0

    def watch(step, number, total):
        nonlocal evaluations
        evaluations = number
        progress.count("evaluation", number, total)
        film.add(step)

    images = generate(model, preset.diffusion, count, args.seed, watch=watch, **sampler)
    progress.show(f"{title}: {evaluations:,} evaluations of the network", always=True)
    progress.close()
    images = plots.to_uint8(images)
    if out.suffix == ".png":
        plots.save_png(out, plots.grid(images, columns))
    elif out.suffix == ".gif":
        film.save(out)
    else:
        np.save(out, images[..., 0] if images.shape[-1] == 1 else images)
    print(out)
    return 0


if __name__ == "__main__":
    cli.program(main)
