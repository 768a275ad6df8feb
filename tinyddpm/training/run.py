"""A run and its folder: new or resumed, on one process or several, and its final messages."""

import sys
from pathlib import Path

from tinyddpm import data, plots
from tinyddpm.presets import Preset
from tinyddpm.progress import Progress
from tinyddpm.sampling.generate import generate
from tinyddpm.training import parallel
from tinyddpm.training.checkpoint import CHECKPOINT, load_checkpoint, same_state
from tinyddpm.training.fit import METRICS, read_metrics
from tinyddpm.training.trainer import Trainer

MAY_CHANGE = ("steps", "minutes", "save_every", "sample_every")         # when a run is resumed


def prepare(preset, given, ranks, version, out=None, data_dir=None, resume=False):
    """The run that a preset and the given fields describe, new or resumed: its Trainer, data set and folder.

    given: the fields that override those of the preset, name -> value
    ranks: training.rendezvous.Ranks; on ranks other than 0, which write no files, the folder is None, and of the
        configuration only data_dir is used: rank 0 sends the rest
    Raises ValueError for a configuration, data or a folder that do not fit.
    """
    if ranks.rank:
        group = parallel.join(ranks, version)
        preset, folder = Preset.from_json(group.text), None
        trainer, dataset = Trainer(preset, group), data.load(preset.dataset, preset.model, "train", data_dir)
    else:
        preset = preset.override(**given)
        folder = run_folder(out, preset.dataset, resume)
        trainer = load_checkpoint(folder / CHECKPOINT) if resume else None
        if resume:
            trainer.preset = preset = resumed(trainer.preset, given)
        dataset = data.load(preset.dataset, preset.model, "train", data_dir)
        if preset.training.batch_size % ranks.size:
            raise ValueError(f"--batch-size is {preset.training.batch_size}; expected a multiple of the {ranks.size} "
                             "ranks that share a batch")
        trainer = trainer or Trainer(preset)
        trainer.group = parallel.join(ranks, version, preset.to_json())
        if (left := trainer.schedule.alpha_bar[-1]) > 0.01:
            print(f"note: x_T retains {left:.0%} of the data's variance, but sampling starts from pure noise: for "
                  f"T = {preset.diffusion.T} choose a larger --beta-T, or --schedule cosine", file=sys.stderr)
    same_state(trainer)
    return trainer, dataset, folder


def run_folder(out, dataset, resume):
    """The folder of a run, which fit will create: `out`, or runs/DATASET, then runs/DATASET-2, ...

    A new run never writes into the folder of an old one. Raises ValueError if the folder of a new run
    already holds a run, or if there is no run to resume.
    """
    if out is None:
        base, n = Path("runs") / Path(dataset).resolve().name, 1
        numbered = lambda n: base.with_name(f"{base.name}-{n}") if n > 1 else base
        while numbered(n).exists():
            n += 1
        folder = numbered(n - 1 if resume and n > 1 else n)
    else:
        folder = Path(out)
    checkpoint = folder / CHECKPOINT
    if resume and not checkpoint.exists():
        raise ValueError(f"nothing to resume: {checkpoint} does not exist")
    if not resume and checkpoint.exists():
        raise ValueError(f"{folder} already holds a run: continue it with --resume, or choose another --out")
    return folder


def resumed(preset, given):
    """The preset of a resumed run, with the given fields. Raises ValueError for one that would make it another run."""
    changed = preset.override(**given)
    if changed != preset.override(**{name: value for name, value in given.items() if name in MAY_CHANGE}):
        fixed = ", ".join(name for name in given if name not in MAY_CHANGE)
        raise ValueError(f"the run to resume has its own configuration; of the flags given, {fixed} would change it")
    return changed


def draw(trainer, folder, count):
    """On rank 0, draw the pictures at the end of a run: `count` samples by Algorithm 2, their film, and the loss."""
    if trainer.group.rank:
        return
    metrics, preset = read_metrics(folder / METRICS), trainer.preset
    if len(metrics["step"]):
        plots.loss_curve(folder / "loss.png", metrics["step"], metrics["loss"], preset.diffusion.loss)
    film, progress = plots.Film(), Progress()

    def watch(step, number, total):
        progress.count("sampling by Algorithm 2, step", number, total)
        film.add(step)

    with trainer.averaged() as model:
        images = generate(model, preset.diffusion, count, preset.training.seed + 1, watch=watch)
    progress.close()
    plots.save_png(folder / "samples.png", plots.grid(plots.to_uint8(images)))
    film.save(folder / "denoising.gif")


def stopped(trainer, folder):
    """On rank 0, print the final message of a run that Ctrl-C stopped. Returns the exit status of the program."""
    if trainer.group.rank == 0:
        print(f"stopped after step {trainer.steps_done:,} and saved; to continue, add: --resume --out {folder}")
    return 130


def finished(trainer, folder):
    """On rank 0, print the final message of a run that is complete. Returns the exit status of the program."""
    if trainer.group.rank == 0:
        print(f"samples: {folder / 'samples.png'}\nthe film of the reverse process: {folder / 'denoising.gif'}\n"
              f"the loss: {folder / 'loss.png'}, {folder / METRICS}\n"
              f"more samples: python examples/sample.py {folder / CHECKPOINT}")
    return 0
