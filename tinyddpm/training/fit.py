"""A whole run: steps, a live line, metrics, sample grids, checkpoints; it can be stopped anywhere and goes on later."""

import csv
import math
import signal
import time
from collections import deque
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from tinyddpm import plots
from tinyddpm.backend import state
from tinyddpm.diffusion import sample
from tinyddpm.progress import Progress, duration
from tinyddpm.training.checkpoint import save_checkpoint

COLUMNS = ("step", "loss", "grad_norm", "lr", "seconds")
GRID = 36               # images in a sample grid
GRID_STEPS = 50         # of DDIM, for the grids on the way
AHEAD = 20              # steps that a GPU is given before the host waits for their losses


def run_folder(out, dataset, resume):
    """The folder of a run, which fit will make: `out`, or runs/DATASET, then runs/DATASET-2, ...

    A new run never writes into the folder of an old one; to go on with that, resume. Raises
    ValueError where there is already, or not yet, something to go on with.
    """
    if out is None:
        base, n = Path("runs") / Path(dataset).resolve().name, 1
        numbered = lambda n: base.with_name(f"{base.name}-{n}") if n > 1 else base
        while numbered(n).exists():
            n += 1
        folder = numbered(n - 1 if resume and n > 1 else n)
    else:
        folder = Path(out)
    checkpoint = folder / "checkpoint.safetensors"
    if resume and not checkpoint.exists():
        raise ValueError(f"nothing to resume: {checkpoint} does not exist")
    if not resume and checkpoint.exists():
        raise ValueError(f"{folder} already holds a run: go on with it by --resume, or choose another --out")
    return folder


def fit(trainer, dataset, folder):
    """Train to the end of the configured run. Returns False if it was stopped by Ctrl-C or SIGTERM, after saving.

    folder receives checkpoint.safetensors, metrics.csv (a row a step) and samples_STEP.png, all from rank 0 of a group.
    Raises ValueError if the loss is no longer finite, or another rank is gone, OSError if a file cannot be written; the
    last checkpoint stays in all cases.
    """
    c, path, group = trainer.preset.training, folder / "checkpoint.safetensors", trainer.group
    ahead, leads = 1 if state.xp is np else AHEAD, group.rank == 0
    if state.xp is not np:
        dataset.to_device()
    each = c.batch_size // group.size
    batches = dataset.batches(trainer.steps_done, c.batch_size, c.seed, slice(group.rank * each, (group.rank + 1) * each))
    mean, started, stop, progress = None, trainer.steps_done, False, Progress()
    clock, rates = deque([(started, time.perf_counter())], maxlen=50), []
    if leads:
        folder.mkdir(parents=True, exist_ok=True)
        if started == 0:
            save_checkpoint(path, trainer)
    with Interrupt() as interrupt, open_metrics(folder / "metrics.csv", started) if leads else nullcontext() as file:
        while trainer.progress < 1 and not stop:
            try:
                images, labels = next(batches)
            except ValueError:                      # an image that cannot be read costs no step
                if leads:
                    save_checkpoint(path, trainer)
                raise
            rates.append(trainer.optimizer.learning_rate(trainer.steps_done + 1, trainer.progress))
            try:
                trainer.begin(images, labels)
                step = trainer.steps_done
                draws, saves = c.sample_every and step % c.sample_every == 0, step % c.save_every == 0
                if not (draws or saves or step % ahead == 0 or step == c.steps):
                    continue
                before = trainer.seconds
                results, stop = trainer.results(interrupt.requested, clock[-1][1])
            except ValueError as error:
                raise ValueError(f"{error}; the last checkpoint stays in {path}") from None
            clock.append((step, time.perf_counter()))
            if leads:
                seconds = np.linspace(before, trainer.seconds, len(results) + 1)[1:]
                csv.writer(file).writerows((r.step, f"{r.loss:.7g}", f"{r.grad_norm:.5g}", f"{rate:.5g}", f"{after:.3f}")
                                           for r, rate, after in zip(results, rates, seconds))
            rates.clear()

            for r in results:
                if math.isfinite(r.loss):
                    mean = r.loss if mean is None else mean + (r.loss - mean) / min(100, r.step - started)
            if len(clock) == 2 and clock[0][0] == started:      # the compilation says nothing about the speed
                clock.popleft()
            elif leads:
                speed = (clock[-1][0] - clock[0][0]) / (clock[-1][1] - clock[0][1])
                left = 60 * c.minutes - trainer.seconds if c.minutes else (c.steps - step) / speed
                skipped = f"  {trainer.skipped} skipped" if trainer.skipped else ""
                progress.show(f"step {step:,}  loss {r.loss:.4f}  mean {mean or math.nan:.4f}  {speed * c.batch_size:,.0f} images/s  "
                              f"{duration(max(0, left))} left{skipped}")
            if leads and draws:
                with trainer.averaged() as model:
                    images = sample.generate(model, trainer.preset.diffusion, GRID, seed=c.seed, sampler="ddim",
                                             steps=min(GRID_STEPS, trainer.schedule.T))
                plots.save_png(folder / f"samples_{step:06}.png", plots.grid(plots.to_uint8(images)))
            if leads and saves:
                file.flush()
                save_checkpoint(path, trainer)
        batches.close()
        if leads:
            file.flush()
            save_checkpoint(path, trainer)
    if leads:
        progress.show(f"step {trainer.steps_done:,}  mean loss {mean or math.nan:.4f}  after {duration(trainer.seconds)}", True)
        progress.close()
    group.close()
    return not stop


def draw(trainer, folder, count):
    """The pictures at the end of a run, by rank 0: samples.png, denoising.gif, loss.png. `count` samples by Algorithm 2."""
    if trainer.group.rank:
        return
    metrics, preset = read_metrics(folder / "metrics.csv"), trainer.preset
    if len(metrics["step"]):
        plots.loss_curve(folder / "loss.png", metrics["step"], metrics["loss"], preset.diffusion.loss)
    film, progress = plots.Film(), Progress()

    def watch(step, number, total):
        progress.count("sampling by Algorithm 2, step", number, total)
        film.add(step)

    with trainer.averaged() as model:
        images = sample.generate(model, preset.diffusion, count, preset.training.seed + 1, watch=watch)
    progress.close()
    plots.save_png(folder / "samples.png", plots.grid(plots.to_uint8(images)))
    film.save(folder / "denoising.gif")


def open_metrics(path, steps_done):
    """metrics.csv, open for appending after the row of step steps_done: later rows belong to steps that are done again."""
    kept = []
    if steps_done and path.exists():
        with open(path) as file:
            kept = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and row[0].isdigit() and int(row[0]) <= steps_done]
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *kept])
    part.replace(path)
    return open(path, "a", newline="")


def read_metrics(path):
    """The columns of metrics.csv: name -> array."""
    with open(path) as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in COLUMNS}


class Interrupt:
    """While it is in force, the first Ctrl-C or SIGTERM only sets `requested`; a second one acts at once."""

    requested = False

    def __enter__(self):
        self.before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        self.requested = True
        self.__exit__()
