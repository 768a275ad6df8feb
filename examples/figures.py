"""Draw the figures of the paper with a trained model.

    python examples/figures.py runs/mnist/checkpoint.safetensors progressive
    python examples/figures.py runs/mnist/checkpoint.safetensors interpolation --rows 4
"""

from tinyddpm import cli
from tinyddpm.figures import FIGURES, Figure
from tinyddpm.training import load_model


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0], formatter_class=cli.Lines,
                        epilog="figures:\n" + "\n".join(f"  {name:16} {f.__doc__}" for name, f in FIGURES.items()))
    cli.add_checkpoint(parser)
    parser.add_argument("figure", metavar="FIGURE", choices=FIGURES, help="one of those listed below")
    parser.add_argument("--rows", type=cli.at_least(1), default=6, metavar="N",
                        help="rows of the figure, if it can vary (default 6)")
    parser.add_argument("--count", type=cli.at_least(2), default=500, metavar="N",
                        help="samples for each point of the figure samplers (default 500)")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, metavar="S",
                        help="for samples, noise and chosen images (default 0)")
    parser.add_argument("--out", metavar="FILE", help="the picture (default: FIGURE.png, or FIGURE.gif for the film)")
    cli.add_data_flags(parser)
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)

    cli.use_backend(args)
    model, preset = load_model(args.checkpoint)
    args.dataset = args.dataset or preset.dataset
    suffix = ".gif" if args.figure == "film" else ".png"
    out = cli.require_writable(parser, args, args.out or args.figure + suffix, suffix)
    FIGURES[args.figure](Figure(model, preset, out, args.rows, args.count, args.seed, args.dataset, args.data_dir,
                                args.inception))
    print(out)
    return 0


if __name__ == "__main__":
    cli.program(main)
