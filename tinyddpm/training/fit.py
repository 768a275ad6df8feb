"""A whole run: steps, a progress line, metrics, sample grids, checkpoints. It can be stopped and resumed anywhere."""

import csv
import io
import math
import signal
import time
from collections import deque
from contextlib import contextmanager, nullcontext

import numpy as np

from tinyddpm import files
from tinyddpm.backend import on_gpu
from tinyddpm.progress import Progress, duration
from tinyddpm.training.checkpoint import CHECKPOINT, save_checkpoint

COLUMNS = ("step", "loss", "grad_norm", "lr", "seconds")
METRICS = "metrics.csv"
AHEAD = 20              # steps that are started on a GPU before the host waits for their losses


def fit(trainer, dataset, folder):
    """Train to the end of the configured run. Returns False if a signal (see Interrupt) stopped it, after saving.

    folder receives checkpoint.safetensors, metrics.csv (one row per step) and samples_STEP.png, all written by rank 0.
    Raises ValueError if the loss is no longer finite or another rank has failed, and OSError if a file cannot be
    written; the last checkpoint remains in all cases.
    """
    c, leads, stop = trainer.preset.training, trainer.group.rank == 0, False
    ahead = AHEAD if on_gpu() else 1
    batches, before = own_batches(trainer, dataset), time.perf_counter()
    with Interrupt() as interrupt, Log(trainer, folder) if leads else nullcontext() as log:
        while trainer.progress < 1 and not stop:
            try:
                images, labels = next(batches)
            except ValueError:                      # an unreadable image must not lose the steps so far
                if leads:
                    log.save()
                raise
            with last_checkpoint_named(folder) if leads else nullcontext():
                trainer.begin(images, labels)
                step = trainer.steps_done
                draws, saves = c.sample_every and step % c.sample_every == 0, step % c.save_every == 0
                due = draws or saves or step % ahead == 0 or step == c.steps
                if due:
                    results, now = trainer.results(), time.perf_counter()
                    stop, before = trainer.agree(interrupt.requested, now - before), now
            if due and leads:
                log.add(results)
                if draws:
                    log.draw()
                if saves:
                    log.save()
        batches.close()
        if leads:
            log.save()
            log.close()
    trainer.group.close()
    return not stop


def own_batches(trainer, dataset):
    """This rank's part of every batch of the run, from the next step on."""
    c, rank = trainer.preset.training, trainer.group.rank
    if on_gpu():
        dataset.to_device()
    each = c.batch_size // trainer.group.size
    return dataset.batches(trainer.steps_done, c.batch_size, c.seed, slice(rank * each, (rank + 1) * each))


@contextmanager
def last_checkpoint_named(folder):
    """A ValueError within the block also says where the last checkpoint is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}; the last checkpoint stays in {folder / CHECKPOINT}") from None


class Log:
    """What rank 0 shows and writes during a run: the progress line, metrics.csv, sample grids and checkpoints."""

    def __init__(self, trainer, folder):
        self.trainer, self.folder, self.progress = trainer, folder, Progress()
        self.started, self.mean, self.seconds = trainer.steps_done, math.nan, trainer.seconds
        self.clock = deque([(self.started, time.perf_counter())], maxlen=50)

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.started == 0:
            save_checkpoint(self.folder / CHECKPOINT, self.trainer)
        self.file = open_metrics(self.folder / METRICS, self.started)
        return self

    def __exit__(self, *_):
        self.file.close()

    def add(self, results):
        """Write a row for each Result, and show the progress line."""
        seconds = np.linspace(self.seconds, self.trainer.seconds, len(results) + 1)[1:]
        self.seconds = self.trainer.seconds
        csv.writer(self.file).writerows((r.step, f"{r.loss:.7g}", f"{r.grad_norm:.5g}", f"{r.lr:.5g}", f"{after:.3f}")
                                        for r, after in zip(results, seconds))
        for r in results:
            if math.isfinite(r.loss):
                first = math.isnan(self.mean)
                self.mean = r.loss if first else self.mean + (r.loss - self.mean) / min(100, r.step - self.started)
        self.clock.append((results[-1].step, time.perf_counter()))
        if len(self.clock) == 2 and self.clock[0][0] == self.started:       # leave out the compilation
            self.clock.popleft()
        else:
            self.progress.show(self.line(results[-1]))

    def line(self, result):
        """The progress line: step, loss, speed and time left."""
        c, ((first, since), *_, (step, now)) = self.trainer.preset.training, self.clock
        speed = (step - first) / (now - since)
        left = 60 * c.minutes - self.trainer.seconds if c.minutes else (c.steps - step) / speed
        skipped = f"  {self.trainer.skipped} skipped" if self.trainer.skipped else ""
        return (f"step {step:,}  loss {result.loss:.4f}  mean {self.mean:.4f}  {speed * c.batch_size:,.0f} images/s  "
                f"{duration(max(0, left))} left{skipped}")

    def draw(self):
        self.trainer.save_samples(self.folder / f"samples_{self.trainer.steps_done:06}")

    def save(self):
        self.file.flush()
        save_checkpoint(self.folder / CHECKPOINT, self.trainer)

    def close(self):
        """Show the last line."""
        self.progress.show(f"step {self.trainer.steps_done:,}  mean loss {self.mean:.4f}  "
                           f"after {duration(self.trainer.seconds)}", True)
        self.progress.close()


def open_metrics(path, steps_done):
    """Open metrics.csv to append after the row of step steps_done. Later rows are dropped: their steps are repeated."""
    kept = list(_rows(path, steps_done)) if steps_done and path.exists() else []
    with files.replacing(path, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *kept])
    return open(path, "a", newline="")


def read_metrics(path, last=math.inf):
    """The columns of metrics.csv, up to the row of step `last`: name -> array. Raises ValueError for a damaged file."""
    columns = np.array([[float(text) for text in row] for row in _rows(path, last)]).reshape(-1, len(COLUMNS)).T
    return dict(zip(COLUMNS, columns))


def _rows(path, last):
    """Yield the rows of metrics.csv up to that of step `last`, as texts. What follows may be incomplete."""
    step = 0
    with files.opened(path, "the metrics of this run (move it away, and the run goes on with a new one)") as file:
        for row in csv.reader(io.TextIOWrapper(file, "utf-8", newline="")):
            if step >= last:
                break
            if row != list(COLUMNS):
                previous, step, values = step, int(row[0]), [float(text) for text in row]
                if len(values) != len(COLUMNS) or step <= previous:
                    raise ValueError(f"a row is {', '.join(row)}")
                if step <= last:
                    yield row


class Interrupt:
    """Within the block, the first Ctrl-C, SIGTERM or SIGHUP only sets `requested`; the second takes effect at once."""

    requested = False
    SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

    def __enter__(self):
        self.before = {number: signal.signal(number, self._request) for number in self.SIGNALS
                       if signal.getsignal(number) != signal.SIG_IGN}           # as nohup does with SIGHUP
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        self.requested = True
        self.__exit__()
