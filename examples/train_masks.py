"""Train a diffusion of values instead of numbers: black and white digits behind masks, or a text.

    python examples/train_masks.py                           5,000 digits that come with the package
    python examples/train_masks.py --dataset mnist           all 60,000, downloaded once
    python examples/train_masks.py --dataset book.txt        a text in UTF-8, by a transformer
    python examples/train_masks.py --resume                  continue a run that was stopped
"""

from dataclasses import replace
from pathlib import Path

from tinyddpm import cli
from tinyddpm.data import text
from tinyddpm.diffusion.discrete import KINDS, LOSSES, DiscreteConfig
from tinyddpm.nn import TransformerConfig
from tinyddpm.presets import Preset, TrainingConfig, get
from tinyddpm.training import load_checkpoint, run
from tinyddpm.training.checkpoint import CHECKPOINT
from tinyddpm.training.discrete import DiscreteTrainer, load_data
from tinyddpm.training.fit import fit

LENGTH = 64                     # letters of a text that are seen at once
STEPS, BATCH = 3000, 64


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", metavar="NAME",
                        help="digits, mnist, fashion-mnist, or a text file (default digits)")
    cli.add_data_dir(parser)
    parser.add_argument("--process", choices=KINDS, default="absorbing", help="absorbing: masks (default); uniform: "
                        "any value in place of the true one")
    parser.add_argument("--loss", choices=LOSSES, default="cross-entropy", help="(default cross-entropy)")
    parser.add_argument("--steps", type=cli.at_least(1), metavar="N",
                        help=f"of training (default {STEPS:,}: ten minutes on two cores, a text half an hour)")
    parser.add_argument("--seed", type=cli.at_least(0), default=0, metavar="N", help="(default 0)")
    parser.add_argument("--out", metavar="DIR", help="folder for all files (default: runs/masks or runs/text)")
    parser.add_argument("--resume", action="store_true",
                        help="continue the run in --out (default: the newest in runs/masks, or with a text runs/text)")
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)
    active = cli.use_backend(args)
    is_text = Path(args.dataset or "digits").is_file()
    folder = run.run_folder(args.out, "text" if is_text else "masks", args.resume)
    if args.resume:
        cli.refuse(parser, args, ("process", "loss", "seed"), "--resume: the run has its own configuration")
        trainer = load_checkpoint(folder / CHECKPOINT, DiscreteTrainer)
        c = trainer.preset.training
        trainer.preset = replace(trainer.preset, dataset=args.dataset or trainer.preset.dataset,
                                 training=replace(c, steps=args.steps or c.steps))
    else:
        trainer = DiscreteTrainer((of_text if is_text else of_images)(args))
    dataset = load_data(trainer.preset, args.data_dir)
    if len(dataset) < BATCH:
        raise ValueError(f"{trainer.preset.dataset} has {len(dataset)} samples; expected at least a batch of {BATCH}")
    run.require_same_data(trainer, dataset)
    trainer.lock = run.claim(folder, new=not args.resume)
    print(f"{active}; {trainer.model.flat_values.size:,} parameters; {len(dataset):,} samples of "
          f"{trainer.preset.dataset}; files go to {folder}")
    if not fit(trainer, dataset, folder):
        return run.stopped(trainer, folder)
    print(f"samples: {trainer.save_samples(folder / 'samples')}\n"
          f"more, and the bits that it needs: python examples/unmask.py {folder / CHECKPOINT}")
    trainer.lock.close()
    return 0


def training(args):
    return TrainingConfig(steps=args.steps or STEPS, batch_size=BATCH, lr=2e-3, lr_final=1e-4, warmup=100,
                          adam_beta2=0.99, ema_decay=0.995, flip=False, save_every=250, sample_every=500,
                          seed=args.seed)


def of_images(args):
    """The network of the preset mnist, which sees black, white and masked pixels as three channels."""
    process = DiscreteConfig(2, args.process, loss=args.loss)
    model = replace(get("mnist").model, image_channels=process.make_schedule().states, num_classes=None)
    return Preset("masks", args.dataset or "digits", model, process, training(args))


def of_text(args):
    _, alphabet = text.load(args.dataset, LENGTH)
    process = DiscreteConfig(len(alphabet), args.process, loss=args.loss, alphabet=alphabet)
    return Preset("text", args.dataset, TransformerConfig(LENGTH, process.make_schedule().states), process,
                  training(args))


if __name__ == "__main__":
    cli.program(main)
