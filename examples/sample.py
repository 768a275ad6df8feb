"""Draw new images with a trained model.

    python examples/sample.py runs/digits/checkpoint.safetensors
    python examples/sample.py runs/digits/checkpoint.safetensors --sampler ddim --steps 50 --out film.gif
"""

import numpy as np

from tinyddpm import cli, plots
from tinyddpm.progress import Progress
from tinyddpm.sampling.generate import generate
from tinyddpm.training import load_model


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    cli.add_checkpoint(parser)
    parser.add_argument("--count", type=cli.at_least(1), default=36, metavar="N", help="how many images (default 36)")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, metavar="S", help="for other images (default 0)")
    parser.add_argument("--label", type=cli.at_least(0), metavar="L",
                        help="draw only this class, from a model with classes")
    parser.add_argument("--out", default="samples.png", metavar="FILE",
                        help=".png: a grid, .gif: a film of the sampling, .npy: uint8 (N, H, W[, C])")
    cli.add_sampler_flags(parser)
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)

    out = cli.require_writable(parser, args, args.out, ".png", ".gif", ".npy")
    cli.use_backend(args)
    model, preset = load_model(args.checkpoint)
    sampler, _ = cli.sampler(args, preset.diffusion.T)
    labels = None if args.label is None else np.full(args.count, args.label)
    film, progress = plots.Film(), Progress()

    def watch(step, number, total):
        progress.count("step", number, total)
        film.add(step)

    images = generate(model, preset.diffusion, args.count, args.seed, labels=labels, watch=watch, **sampler)
    progress.close()
    images = plots.to_uint8(images)
    if out.suffix == ".png":
        plots.save_png(out, plots.grid(images))
    elif out.suffix == ".gif":
        film.save(out)
    else:
        np.save(out, images[..., 0] if images.shape[-1] == 1 else images)
    print(out)
    return 0


if __name__ == "__main__":
    cli.program(main)
