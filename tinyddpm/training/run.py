"""A run and its folder: new or resumed, on one process or several, and its final messages."""

import json
import sys
from pathlib import Path

import numpy as np

from tinyddpm import data, files, plots
from tinyddpm.backend import from_numpy, to_numpy
from tinyddpm.presets import Preset
from tinyddpm.progress import Progress
from tinyddpm.sampling.generate import by_class, generate
from tinyddpm.training import parallel
from tinyddpm.training.checkpoint import CHECKPOINT, load_checkpoint, same_state
from tinyddpm.training.fit import METRICS, read_metrics
from tinyddpm.training.trainer import Trainer

MAY_CHANGE = ("steps", "minutes", "save_every", "sample_every", "sampler", "sampling_steps", "guidance", "clip",
              "dataset")                                                        # when a run is resumed
LOCK = ".lock"                      # a file in the folder of a run, which the process that trains there has locked


def prepare(preset, given, ranks, version, out=None, data_dir=None, resume=False, start=None):
    """The run that a preset and the given fields describe, new or resumed: its Trainer, data set and folder.

    given: the fields that override those of the preset, name -> value
    start: for a new run, the trained model (and its preset, see load_model) whose weights it begins with
    ranks: training.rendezvous.Ranks; on ranks other than 0, which write no files, the folder is None, and of the
        configuration only data_dir is used: rank 0 sends the rest
    Raises ValueError for a configuration, data or a folder that do not fit.
    """
    if ranks.rank:
        group, folder = parallel.join(ranks, version), None
        text, fingerprint = files.parse_json(group.text)
        preset = Preset.from_json(text)
        trainer, dataset = Trainer(preset, group), data.load(preset.dataset, preset.model, "train", data_dir)
        trainer.fingerprint = fingerprint
        require_same_data(trainer, dataset)
    else:
        preset = preset.override(**given)
        folder = run_folder(out, preset.dataset, resume)
        lock = claim(folder, new=False) if resume else None
        trainer = load_checkpoint(folder / CHECKPOINT) if resume else None
        preset = resumed(trainer, given) if resume else with_classes(preset, given)
        if resume:
            trainer.preset = preset
        dataset = data.load(preset.dataset, preset.model, "train", data_dir)
        if preset.training.batch_size % ranks.size:
            raise ValueError(f"--batch-size is {preset.training.batch_size}; expected a multiple of the {ranks.size} "
                             "ranks that share a batch")
        if not resume and preset.dataset not in data.DATASETS and Path(preset.dataset).resolve() in (
                folder.resolve().parents):
            raise ValueError(f"{folder} is within {preset.dataset}, and its pictures would join that data set: choose "
                             "another --out")
        trainer = trainer or Trainer(preset)
        if start:
            start_from(trainer, *start)
        require_same_data(trainer, dataset)
        trainer.lock = lock or claim(folder, new=True)          # held as long as the trainer lives
        trainer.group = parallel.join(ranks, version, json.dumps([preset.to_json(), trainer.fingerprint]))
        if (left := trainer.schedule.alpha_bar[-1]) > 0.01:
            print(f"note: x_T retains {left:.0%} of the data's variance, but sampling starts from pure noise: for "
                  f"T = {preset.diffusion.T} choose a larger --beta-T, or --schedule cosine", file=sys.stderr)
    same_state(trainer)
    return trainer, dataset, folder


def run_folder(out, dataset, resume):
    """The folder of a run, which fit will create: `out`, or runs/DATASET, then runs/DATASET-2, ...

    Raises ValueError if there is no run to resume.
    """
    if out is None:
        base, n = Path("runs") / Path(dataset).resolve().name, 1
        numbered = lambda n: base.with_name(f"{base.name}-{n}") if n > 1 else base
        while (numbered(n) / CHECKPOINT).exists():
            n += 1
        folder = numbered(n - 1 if resume and n > 1 else n)
    else:
        folder = Path(out)
    if resume and not (folder / CHECKPOINT).exists():
        raise ValueError(f"nothing to resume: {folder / CHECKPOINT} does not exist")
    return folder


def claim(folder, new):
    """Lock the folder of a run for this process, creating it if needed, and return the lock.

    Raises ValueError if another process trains there, and for a new run if the folder already holds one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = files.lock(folder / LOCK, f"another process is training in {folder}: wait for it, or choose another --out")
    if new and (folder / CHECKPOINT).exists():
        raise ValueError(f"{folder} already holds a run: continue it with --resume, or choose another --out")
    return lock


def resumed(trainer, given):
    """The preset of a resumed run, with the given fields. Raises ValueError for one that would make it another run."""
    preset, allowed = trainer.preset, MAY_CHANGE if trainer.fingerprint else MAY_CHANGE[:-1]
    changed = preset.override(**given)
    if changed != preset.override(**{name: value for name, value in given.items() if name in allowed}):
        fixed = ", ".join(name for name in given if name not in allowed)
        raise ValueError(f"the run to resume has its own configuration; of the flags given, {fixed} would change it")
    return changed


def with_classes(preset, given):
    """The preset of a new run, with the classes of its data set if it learns labels; without, if the data have none.

    Raises ValueError if the fields that were given do not fit the data.
    """
    if preset.model.num_classes is None:
        return preset
    names = data.classes(preset.dataset)
    fixed = {name: given[name] for name in ("num_classes", "guidance") if name in given}
    return preset.override(**{"num_classes": len(names) or None, "classes": names} | fixed)


def start_from(trainer, model, preset):
    """Give a new run the parameters of a trained model. Classes of the same name keep their embedding.

    Other classes begin with that of "no label", so that the model draws as before until it knows them better.
    Raises ValueError if the models differ in anything but their classes.
    """
    flat = trainer.model.flat_values
    given, views = model.parameters(), trainer.model.views(flat)
    for name, view in views.items():
        if name == "labels.table":
            known = to_numpy(given[name].value) if name in given else np.zeros((1, view.shape[1]), np.float32)
            rows = [preset.classes.index(c) if c in preset.classes else -1 for c in trainer.preset.classes]
            view[...] = from_numpy(known[[*rows, -1]])
        elif name not in given or given[name].value.shape != view.shape:
            raise ValueError(f"--from: {name} does not fit the model that begins with it; only its classes may differ")
        else:
            view[...] = given[name].value
    trainer.optimizer.ema[...] = flat


def require_same_data(trainer, dataset):
    """Raise ValueError unless the data set is the one that the run began with; in a new run, remember it."""
    dataset.require_classes(trainer.preset.classes, trainer.preset.dataset)
    found = dataset.fingerprint()
    if trainer.fingerprint not in (None, found):
        raise ValueError(f"the run has begun with other images than {trainer.preset.dataset} holds now: "
                         f"{trainer.fingerprint}; found {found}")
    trainer.fingerprint = found


def draw(trainer, folder, count):
    """On rank 0, draw the pictures at the end of a run: a grid of about `count` samples, their film, and the loss."""
    if trainer.group.rank:
        return
    preset, progress = trainer.preset, Progress()
    count, labels, columns = by_class(preset.labels, count)
    film = plots.Film(columns)

    def watch(step, number, total):
        progress.count("sampling, evaluation", number, total)
        film.add(step)

    with trainer.averaged() as model:
        images = generate(model, preset.diffusion, count, preset.training.seed + 1, watch=watch,
                          **preset.sampling.arguments(preset.diffusion.T, labels))
    progress.close()
    plots.save_png(folder / "samples.png", plots.grid(plots.to_uint8(images), columns))
    film.save(folder / "denoising.gif")
    metrics = read_metrics(folder / METRICS, trainer.steps_done)
    if len(metrics["step"]):
        plots.loss_curve(folder / "loss.png", metrics["step"], metrics["loss"], preset.diffusion.loss)


def stopped(trainer, folder):
    """On rank 0, print the final message of a run that Ctrl-C stopped. Returns the exit status of the program."""
    if trainer.group.rank == 0:
        trainer.lock.close()
        print(f"stopped after step {trainer.steps_done:,} and saved; to continue, add: --resume --out {folder}")
    return 130


def finished(trainer, folder):
    """On rank 0, print the final message of a run that is complete. Returns the exit status of the program."""
    if trainer.group.rank == 0:
        trainer.lock.close()
        print(f"samples: {folder / 'samples.png'}\nthe film of the reverse process: {folder / 'denoising.gif'}\n"
              f"the loss: {folder / 'loss.png'}, {folder / METRICS}\n"
              f"more samples: python examples/sample.py {folder / CHECKPOINT}")
    return 0
