"""Train a small DDPM on handwritten digits, and draw new ones.

    python examples/train_mnist.py                           5,000 digits that come with the package
    python examples/train_mnist.py --dataset mnist           all 60,000, downloaded once
    python examples/train_mnist.py --resume                  continue a run that was stopped
"""

from tinyddpm import cli, data, presets
from tinyddpm.training import run
from tinyddpm.training.fit import fit

QUICK = dict(steps=30, batch_size=16, sample_every=20, save_every=20, T=50)
SAMPLES = 64


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    cli.add_run_flags(parser, f"{', '.join(data.DATASETS)}, or a folder of images (default: digits)")
    args = parser.parse_args(argv)
    trainer, dataset, folder = cli.prepare(args, presets.get("mnist"), QUICK)
    if not fit(trainer, dataset, folder):
        return run.stopped(trainer, folder)
    run.draw(trainer, folder, SAMPLES)
    return run.finished(trainer, folder)


if __name__ == "__main__":
    cli.program(main)
