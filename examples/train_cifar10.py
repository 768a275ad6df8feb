"""Train the paper's model on CIFAR10, or another of its models on a folder of images, and draw samples.

    python examples/train_cifar10.py                                     the paper's CIFAR10 model: for a GPU
    python examples/train_cifar10.py --preset cifar10-small              a small one, overnight on two cores
    python examples/train_cifar10.py --loss L --prediction mu            another row of Table 2
    python examples/train_cifar10.py --preset celebahq-256 --dataset FOLDER
"""

from tinyddpm import cli, presets
from tinyddpm.training import run
from tinyddpm.training.fit import fit

PRESETS = [name for name in presets.PRESETS if name != "mnist"]
QUICK = dict(base_channels=32, groups=8, blocks_per_level=1, steps=10, batch_size=8, warmup=0, sample_every=0, T=50,
             beta_1=0.002, beta_T=0.4)
SAMPLES = 16


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, help="the configuration to start from (default: cifar10)")
    cli.add_run_flags(parser, "cifar10, or a folder of images (default: the preset's)")
    args = parser.parse_args(argv)
    if args.preset and args.start:
        parser.error("--preset and --from exclude each other")
    trainer, dataset, folder = cli.prepare(args, presets.get(args.preset or "cifar10"), QUICK)
    if args.preset and args.preset != trainer.preset.name:
        parser.error(f"--preset {args.preset}: the run to resume has the preset {trainer.preset.name}")
    if not fit(trainer, dataset, folder):
        return run.stopped(trainer, folder)
    run.draw(trainer, folder, SAMPLES)
    return run.finished(trainer, folder)


if __name__ == "__main__":
    cli.program(main)
