"""A whole run: steps, a live line, metrics, sample grids, checkpoints; it can be stopped anywhere and goes on later."""

import csv
import signal
import time
from collections import deque
from pathlib import Path

import numpy as np

from tinyddpm import plots
from tinyddpm.diffusion import sample
from tinyddpm.progress import Progress, duration
from tinyddpm.training.checkpoint import save_checkpoint

COLUMNS = ("step", "loss", "grad_norm", "lr", "seconds")
GRID = 36               # images in a sample grid
GRID_STEPS = 50         # of DDIM, for the grids on the way


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

    folder receives checkpoint.safetensors, metrics.csv (a row a step) and samples_STEP.png.
    Raises ValueError if the loss is no longer finite, OSError if a file cannot be written; the last
    checkpoint stays in both cases.
    """
    c, path = trainer.preset.training, folder / "checkpoint.safetensors"
    mean, started, progress = None, trainer.steps_done, Progress()
    clock, batches = deque([time.perf_counter()], maxlen=50), dataset.batches(started, c.batch_size, c.seed)
    folder.mkdir(parents=True, exist_ok=True)
    if started == 0:
        save_checkpoint(path, trainer)
    with Interrupt() as interrupt, open_metrics(folder / "metrics.csv", started) as file:
        metrics = csv.writer(file)
        while trainer.progress < 1 and not interrupt.requested:
            try:
                images, labels = next(batches)
            except ValueError:                      # an image that cannot be read costs no step
                save_checkpoint(path, trainer)
                raise
            rate = trainer.optimizer.learning_rate(trainer.steps_done + 1, trainer.progress)
            try:
                loss = trainer.step(images, labels)
            except ValueError as error:
                raise ValueError(f"{error}; the last checkpoint stays in {path}") from None
            clock.append(time.perf_counter())
            trainer.seconds += clock[-1] - clock[-2]
            step = trainer.steps_done
            metrics.writerow((step, f"{loss:.7g}", f"{trainer.grad_norm:.5g}", f"{rate:.5g}", f"{trainer.seconds:.3f}"))

            mean = loss if mean is None else mean + (loss - mean) / min(100, step - started)
            if step == started + 1:                         # the compilation says nothing about the speed
                clock.popleft()
            else:
                speed = (len(clock) - 1) / (clock[-1] - clock[0])
                left = 60 * c.minutes - trainer.seconds if c.minutes else (c.steps - step) / speed
                progress.show(f"step {step:,}  loss {loss:.4f}  mean {mean:.4f}  {speed * c.batch_size:,.0f} images/s  "
                              f"{duration(max(0, left))} left")
            if c.sample_every and step % c.sample_every == 0:
                with trainer.averaged() as model:
                    images = sample.generate(model, trainer.preset.diffusion, GRID, seed=c.seed, sampler="ddim",
                                             steps=min(GRID_STEPS, trainer.schedule.T))
                plots.save_png(folder / f"samples_{step:06}.png", plots.grid(plots.to_uint8(images)))
            if step % c.save_every == 0:
                file.flush()
                save_checkpoint(path, trainer)
        batches.close()
        file.flush()
        save_checkpoint(path, trainer)
    progress.show(f"step {trainer.steps_done:,}  mean loss {mean or float('nan'):.4f}  after {duration(trainer.seconds)}", True)
    progress.close()
    return not interrupt.requested


def draw(trainer, folder, count):
    """The pictures at the end of a run: samples.png, denoising.gif, loss.png. `count` samples by Algorithm 2."""
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
