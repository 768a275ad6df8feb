"""What the scripts of all lessons share: the flag --quick, where figures go, and the last line."""

import argparse
import importlib.util
import os
import platform
import tempfile
import time
import timeit
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # draws without a window

from tinyddpm import cli, data, gradcheck, plots, presets
from tinyddpm.progress import Progress
from tinyddpm.training import Trainer

SIZE = 300_000          # bytes that a committed figure may have


def program(main):
    """Run main() of a lesson's script; an error or Ctrl-C ends it with one line."""
    cli.program(lambda argv: main())


class Lesson:
    """One run of a lesson's script. quick: less of everything, and figures in a temporary folder."""

    def __init__(self, file, doc):
        parser = argparse.ArgumentParser(description=doc.split("\n")[0])
        parser.add_argument("--quick", action="store_true", help="less of everything; figures go to a temporary folder")
        self.quick = parser.parse_args().quick
        self.folder = Path(tempfile.mkdtemp()) if self.quick else Path(file).resolve().parent
        self.started = time.perf_counter()
        matplotlib.rcParams.update(plots.STYLE)

    def figure(self, rows=1, columns=1, size=None, **options):
        """A matplotlib figure and its axes."""
        figure = Figure(figsize=size or (3.2 * columns, 2.8 * rows))
        return figure, figure.subplots(rows, columns, **options)

    def save(self, figure, name):
        path = self.folder / name
        figure.savefig(path)
        assert path.stat().st_size < SIZE, f"{name} has {path.stat().st_size} bytes"

    def rows(self, name, rows, size, titles=(), low=-1, high=1):
        """Save a grid of pictures: rows holds title -> images (N, H, W, 1), and titles are of the columns."""
        figure, axes = self.figure(len(rows), len(next(iter(rows.values()))), size=size, squeeze=False)
        for row, (title, images) in zip(axes, rows.items()):
            row[0].text(-0.1, 0.5, title, ha="right", va="center", transform=row[0].transAxes)
            for ax, image in zip(row, images):
                show(ax, image, low=low, high=high)
        for ax, title in zip(axes[0], titles):
            ax.set_title(title, loc="center", fontsize="small")
        self.save(figure, name)

    def row(self, name, pictures, size, **shades):
        """Save pictures beside each other: title -> image (H, W) or (H, W, 1)."""
        self.rows(name, {"": list(pictures.values())}, size, pictures, **shades)

    def curves(self, name, curves, style="-", size=(6, 3.4), **settings):
        """Save a figure of curves: label -> (x, y), or y for x = 1, 2, ... settings: of its axes, such as
        xlabel="step", yscale="log"."""
        figure, axes = self.figure(size=size)
        for label, curve in curves.items():
            x, y = curve if isinstance(curve, tuple) else (range(1, len(curve) + 1), curve)
            axes.plot(x, y, style, label=label)
        axes.set(**settings)
        axes.legend()
        self.save(figure, name)

    def draw(self, name, drawing, *arguments, size):
        """Save a figure that drawing(axes, *arguments) makes."""
        figure, axes = self.figure(size=size)
        drawing(axes, *arguments)
        self.save(figure, name)

    def end(self):
        print(f"{time.perf_counter() - self.started:.1f} s on {os.cpu_count()} cores ({platform.machine()}), "
              f"NumPy {np.__version__}; figures in {self.folder.name if not self.quick else self.folder}")


class InNotebook(Lesson):
    """The same for a script whose paragraphs are the cells of a notebook: each figure is shown where it is made."""

    def __init__(self, quick):
        self.quick, self.folder = quick, Path(tempfile.mkdtemp())
        self.started = time.perf_counter()
        matplotlib.rcParams.update(plots.STYLE)

    def save(self, figure, name):
        from IPython.display import Image, display

        super().save(figure, name)
        display(Image(self.folder / name))


def script(lesson):
    """The script of a lesson's folder, such as 04_backpropagation, as a module."""
    spec = importlib.util.spec_from_file_location(lesson, Path(__file__).resolve().parent / lesson / "lesson.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def median_ms(f, *arguments, repeats=9):
    """How long a call takes, in milliseconds."""
    return 1e3 * float(np.median(timeit.repeat(lambda: f(*arguments), number=1, repeat=repeats)))


def caught(check, *arguments, **options):
    """The text of the AssertionError that a check raises, which it must: a negative control."""
    try:
        check(*arguments, **options)
    except AssertionError as error:
        return str(error)
    raise SystemExit("a mistake was not found")


def controls(mistakes):
    """Check each of the mistakes, name -> arguments of gradcheck.check: all of them must be found."""
    for name, arguments in mistakes.items():
        error = caught(gradcheck.check, *arguments).split("relative error ")[-1].split(",")[0]
        print(f"negative control, {name}: caught, relative error {error}")


def digits(count=None):
    """Some of the 5,000 digits that come with the package, or all: uint8 (N, 28, 28, 1), and their labels."""
    found = data.load("digits", presets.get("mnist").model)
    order = np.random.default_rng(0).permutation(len(found))[:count]            # they lie sorted by digit
    return found.images[order], found.labels[order]


def train(preset, images, steps, watch=None):
    """A Trainer after so many steps on uint8 images, and the losses. watch(trainer) after each step."""
    trainer, dataset, losses, progress = Trainer(preset.override(steps=steps)), data.Dataset(images), [], Progress()
    for step in range(steps):
        losses.append(trainer.step(*dataset.batch(step, preset.training.batch_size, seed=0)))
        progress.count(f"training, loss {np.mean(losses[-50:]):.3f}, step", step + 1, steps)
        if watch:
            watch(trainer)
    progress.close()
    return trainer, np.array(losses)


def paper(quick, **options):
    """The network of the preset mnist with the paper's objective and no labels; for --quick, a smaller one of its
    kind."""
    preset = presets.get("mnist").override(num_classes=None, prediction="eps", schedule="linear", loss="simple",
                                           lr=2e-3)
    if quick:
        preset = preset.override(base_channels=8, groups=4, batch_size=8, T=50, beta_1=2e-3, beta_T=0.3, warmup=2)
    return preset.override(**options)


def show(axes, image, title=None, low=-1, high=1):
    """A picture (H, W) or (H, W, 1) in grey, without ticks."""
    axes.imshow(np.asarray(image).reshape(image.shape[:2]), cmap="gray", vmin=low, vmax=high)
    axes.set_axis_off()
    if title is not None:
        axes.set_title(title, loc="center", fontsize="small")
