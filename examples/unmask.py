"""Draw from a model of train_masks.py, or find how many bits its data take.

    python examples/unmask.py masks --steps 20 --out digits.gif
    python examples/unmask.py runs/text/checkpoint.safetensors --out text.txt
    python examples/unmask.py masks --bits
"""

import numpy as np

from tinyddpm import cli, plots
from tinyddpm.backend import generator, to_numpy
from tinyddpm.diffusion import discrete
from tinyddpm.diffusion.discrete import DiscreteConfig
from tinyddpm.progress import Progress
from tinyddpm.sampling.generate import BATCH
from tinyddpm.sampling.unmask import generate
from tinyddpm.training import load_model
from tinyddpm.training.discrete import IMAGES, TEXTS, images, load_data, save, texts, values


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT",
                        help="the checkpoint.safetensors of train_masks.py, or masks, which comes with the package")
    parser.add_argument("--count", type=cli.at_least(1), metavar="N",
                        help="how many samples, or with --bits how many of the data set (default 36, a text 6; 1,000)")
    parser.add_argument("--steps", type=cli.at_least(1), default=100, metavar="N",
                        help="in which a sample is unmasked (default 100)")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, metavar="N", help="(default 0)")
    parser.add_argument("--out", metavar="FILE", help=".png, of images also .gif, a film; .txt (default samples.png)")
    parser.add_argument("--bits", action="store_true", help="the bound in bits, for test data, instead of samples")
    parser.add_argument("--dataset", metavar="NAME", help="of --bits (default: the model's)")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="of --bits (default test)")
    cli.add_data_dir(parser)
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)
    if args.bits:
        cli.refuse(parser, args, ("out", "steps"), "--bits")
    else:
        cli.refuse(parser, args, ("dataset", "split", "data_dir"), "samples: add --bits")
    cli.use_backend(args)
    model, preset = load_model(args.checkpoint, DiscreteConfig)
    (measure if args.bits else draw)(parser, args, model, preset)
    return 0


def draw(parser, args, model, preset):
    """Samples, as a picture, a film or a text."""
    d, alphabet, progress = preset.diffusion.make_schedule(), preset.diffusion.alphabet, Progress()
    suffixes = [".txt"] if alphabet else [".png", ".gif"]
    out = cli.require_writable(parser, args, args.out or "samples" + suffixes[0], *suffixes)
    film, steps = plots.Film(6), min(args.steps, d.T)

    def watch(step, number, total):
        progress.count("step", number, total)
        if out.suffix == ".gif":
            film.add(step._replace(t=1 if number % steps == 0 else step.t + 1, x=images(to_numpy(step.x))))

    x = generate(model, d, args.count or (TEXTS if alphabet else IMAGES), model.config.shape[:-1], args.seed, steps,
                 watch)
    progress.close()
    if out.suffix == ".gif":
        film.save(out)
    else:
        save(out.with_suffix(""), x, alphabet)
    if alphabet:
        print("\n\n".join(texts(x, alphabet)))
    print(out)


def measure(parser, args, model, preset):
    """The bound of -log2 p in bits for each position, and its standard error."""
    dataset = load_data(preset, args.data_dir, args.split, args.dataset)
    d, rng, progress = preset.diffusion.make_schedule(), generator(args.seed, "bits"), Progress()
    dataset = dataset.some(min(args.count or 1000, len(dataset)), args.seed)
    p, found = discrete.reverse_process(model, d), []
    for start in range(0, len(dataset), BATCH):
        x0 = values(dataset.images[start:start + BATCH], rng)
        found.append(to_numpy(discrete.bits(p, d, x0, rng)))
        progress.count("sample", min(start + BATCH, len(dataset)), len(dataset))
    progress.close()
    found = np.concatenate(found)
    print(f"{len(found):,} samples of {args.dataset or preset.dataset}: at most {found.mean():.4f} "
          f"+- {found.std() / len(found)**0.5:.4f} bits for each {'letter' if preset.diffusion.alphabet else 'pixel'}")


if __name__ == "__main__":
    cli.program(main)
