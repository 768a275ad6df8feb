"""Distil a trained model into one that draws in a few steps, or one: it learns where its teacher's steps lead.

    python examples/distill.py mnist --to 1                  students of 8, 4, 2 steps and 1, one after the other
    python examples/distill.py mnist --method consistency --to 2
    python examples/distill.py mnist --method reflow         straighter paths, for any number of steps
    python examples/distill.py mnist --to 1 --resume         continue after Ctrl-C
    python examples/sample.py runs/distilled/progressive-1/checkpoint.safetensors

Each student has a folder of its own. It has learned its teacher's guidance, and needs none.
"""

from dataclasses import replace
from pathlib import Path

from tinyddpm import cli, data
from tinyddpm.progress import Progress
from tinyddpm.training import Trainer, load_checkpoint, load_model, run
from tinyddpm.training.checkpoint import CHECKPOINT
from tinyddpm.training.distill import METHODS, student_preset
from tinyddpm.training.fit import fit

FIRST = 8           # steps of the first progressive student, whose teacher takes twice as many


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    cli.add_checkpoint(parser)
    parser.add_argument("--method", choices=METHODS, default="progressive")
    parser.add_argument("--to", type=cli.at_least(1), default=1, metavar="N",
                        help="steps of the last student (default 1)")
    parser.add_argument("--train-steps", type=cli.at_least(1), default=700, metavar="N",
                        help="of training for each student (default 700: three minutes on two cores)")
    parser.add_argument("--lr", type=cli.at_least(0, float), default=1e-3, metavar="X", help="(default 0.001)")
    parser.add_argument("--dataset", metavar="NAME", help="whose images noise is added to (default: the model's)")
    cli.add_data_dir(parser)
    parser.add_argument("--out", default="runs/distilled", metavar="DIR", help="(default runs/distilled)")
    parser.add_argument("--resume", action="store_true", help="continue in --out")
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)
    cli.use_backend(args)
    teacher, preset = load_model(args.checkpoint)
    name = args.dataset or preset.dataset
    dataset = data.load(name, preset.model, "train", args.data_dir)
    if preset.labels is not None:
        dataset.require_classes(preset.classes, name)
    for steps in stages(args):
        folder = Path(args.out) / f"{args.method}-{steps}"
        resumes = args.resume and (folder / CHECKPOINT).exists()
        lock = run.claim(folder, new=not resumes)
        trainer = load_checkpoint(folder / CHECKPOINT) if resumes else student(args, teacher, preset, steps)
        trainer.lock = lock
        if trainer.progress < 1:
            print(f"a student of {steps} step{'s' * (steps > 1)}:")
            progress = Progress()
            trainer.lesson = METHODS[args.method](teacher, preset, trainer, steps,
                                                  lambda done, total: progress.count("pair", done, total))
            progress.close()
            if not fit(trainer, dataset, folder):
                return run.stopped(trainer, Path(args.out))
            run.draw(trainer, folder, 64)
            if args.method == "reflow":
                before, after = trainer.lesson.straightness()
                print(f"how far its paths are from straight: {after:.3f}; its teacher's: {before:.3f}")
        lock.close()
        teacher, preset = load_model(folder / CHECKPOINT)
    print(f"samples: {folder / 'samples.png'}\nmore: python examples/sample.py {folder / CHECKPOINT}")
    return 0


def stages(args):
    """The steps of each student: for progressive ones, halved from FIRST on."""
    if args.method != "progressive":
        return [args.to]
    found = [max(FIRST, args.to)]
    while found[-1] > args.to:
        if found[-1] % 2 or found[-1] // 2 < args.to:
            raise ValueError(f"--to {args.to}: expected {FIRST}, or a half, a quarter or an eighth of it")
        found.append(found[-1] // 2)
    return found


def student(args, teacher, preset, steps):
    """A Trainer that begins with the teacher's weights."""
    preset = student_preset(preset, steps, args.method)
    trainer = Trainer(replace(preset, training=replace(
        preset.training, steps=args.train_steps, minutes=None, lr=args.lr, lr_final=args.lr / 20, warmup=50,
        ema_decay=0.99)))
    trainer.model.flat_values[...] = trainer.optimizer.ema[...] = teacher.flat_values
    return trainer


if __name__ == "__main__":
    cli.program(main)
