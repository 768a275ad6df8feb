"""Pictures: sample grids, the film of a reverse process, and curves."""

import contextlib
import math

import numpy as np

from tinyddpm.backend import to_numpy


def to_uint8(x):
    """Data in [-1, 1] as bytes 0..255, rounded; values outside are clipped."""
    return np.clip(np.rint((to_numpy(x) + 1) * 127.5), 0, 255).astype(np.uint8)


def grid(images, columns=None, margin=1):
    """uint8 images (N, H, W, C) arranged as a grid in one picture (rows H', columns W', C)."""
    N, H, W, C = images.shape
    columns = columns or math.ceil(math.sqrt(N))
    rows = math.ceil(N / columns)
    sheet = np.full((rows * (H + margin) + margin, columns * (W + margin) + margin, C), 64, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (H + margin) + margin, i % columns * (W + margin) + margin
        sheet[top:top + H, left:left + W] = image
    return sheet


class Film:
    """Evenly spaced pictures of one reverse process. Add every Step; those of batches after the first are ignored.

    columns: of its grid, which holds about sixteen images
    """

    def __init__(self, columns=4, count=24):
        self.pictures, self.count, self.columns, self.images = [], count, columns, columns * max(1, round(16 / columns))
        self.first = self.previous = None

    def add(self, step):
        if self.first is None:
            self.first = step.t
        elif step.t >= self.previous:           # another batch begins
            self.previous = 0
            return
        if step.t == 1 or step.t <= self.first * (1 - len(self.pictures) / self.count):
            self.pictures.append(grid(to_uint8(step.x[:self.images]), self.columns))
        self.previous = step.t

    def save(self, path, seconds=4.0, hold=2.0):
        """Write a looping GIF that lasts `seconds`, and then holds its last picture for `hold` seconds."""
        first, *others = [_image(p, 500).quantize(16 if p.shape[2] == 1 else 128) for p in self.pictures]
        each = max(20, round(1000 * seconds / len(self.pictures)))
        first.save(path, format="GIF", save_all=True, append_images=others, loop=0, optimize=True,
                   duration=[each] * len(others) + [round(1000 * hold)])


def save_png(path, picture):
    """Write a uint8 picture (H, W, 1 or 3), small ones enlarged to about 500 pixels."""
    _image(picture, 500).save(path, format="PNG", optimize=True)


def _image(picture, size):
    """A picture for Pillow, its pixels repeated to fill `size` if it is smaller."""
    from PIL import Image                       # installed with matplotlib

    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    factor = max(1, round(size / max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


LOSSES = {"simple": "L_simple (Eq. 14)", "tilted": "L_simple, with t drawn in proportion to t",
          "logit-normal": "L_simple, with log(noise / signal) normal",
          "capped": "error of x_0, times min(1 + SNR, 5)", "L": "L, a term of Eq. 5 in bits/dim",
          "hybrid": "L_simple + 0.001 L"}


# One look for all curves, here and in the lessons; the colours (Paul Tol's "bright") stay apart for colour-blind
# readers
COLOURS = "#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee"
STYLE = {"axes.prop_cycle": f"cycler(color={COLOURS})", "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "grid.color": "0.9", "axes.axisbelow": True,
         "axes.titlesize": "medium", "axes.titlelocation": "left", "legend.frameon": False, "lines.linewidth": 1.8,
         "font.size": 10, "savefig.dpi": 100, "savefig.facecolor": "white", "figure.constrained_layout.use": True}


@contextlib.contextmanager
def _drawing(path, size, columns=1):
    """The axes of a figure in STYLE, which is saved afterwards."""
    import matplotlib
    from matplotlib.figure import Figure        # opens no window

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        yield figure.subplots(1, columns)
        figure.savefig(path)


def loss_curve(path, steps, losses, kind):
    """The loss of every step and its running mean over a fiftieth of the run, on logarithmic axes; kind: see LOSSES."""
    window = max(1, len(losses) // 50)
    mean = np.convolve(losses, np.full(window, 1 / window), "valid")
    with _drawing(path, (8, 4.5)) as axes:
        axes.loglog(steps, losses, ".", markersize=1, color="0.75", label="each step")
        axes.loglog(steps[window - 1:], mean, label=f"mean of {window}")
        axes.set(xlabel="step", ylabel=LOSSES.get(kind, kind))
        axes.legend()


def rate_distortion(path, reverse_time, rate, rmse):
    """Figure 5: distortion and rate over the reverse process, and one against the other."""
    time, bits, distortion = ((reverse_time, "reverse time T - t + 1"), (rate, "rate (bits/dim)"),
                              (rmse, "distortion (RMSE of 255)"))
    with _drawing(path, (11, 3.4), 3) as row:
        for axes, (x, across), (y, up) in zip(row, (time, time, bits), (distortion, bits, distortion)):
            axes.plot(x, y)
            axes.set(xlabel=across, ylabel=up)


def schedule(path, s):
    """The tables of a Schedule over t: beta, alpha_bar and the signal-to-noise ratio."""
    tables = ("beta", s.beta, "linear"), ("alpha_bar", s.alpha_bar, "linear"), ("signal-to-noise ratio", s.snr, "log")
    with _drawing(path, (11, 3.4), 3) as row:
        for axes, (name, values, scale) in zip(row, tables):
            axes.plot(np.arange(1, s.T + 1), values[1:])
            axes.set(xlabel="t", ylabel=name, yscale=scale)


def samplers(path, found, measure):
    """How good samples are over the evaluations of the network that they took: title -> [(evaluations, FID)]."""
    with _drawing(path, (8, 4.5)) as axes:
        for (title, points), marker in zip(found.items(), "osD^v*P"):           # there are fewer colours than samplers
            axes.loglog(*zip(*points), marker=marker, markersize=5, label=title)
        axes.set(xlabel="evaluations of the network", ylabel=measure)
        axes.legend()
