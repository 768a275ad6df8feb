"""Look and play: windows with sliders, or a page for a browser, or a film.

    python lessons/play.py forward          a cross and a digit dissolve
    python lessons/play.py score            the score of three clouds in the plane, and particles that follow it
    python lessons/play.py walk             the walk back, in one dimension
    python lessons/play.py guidance         classifier-free guidance: fidelity against diversity
    python lessons/play.py steps            DDPM against DDIM, by the number of steps
    python lessons/play.py rate-distortion  what the bits of a bound are spent on
    python lessons/play.py backprop         a staged computation, forward and backward
    python lessons/play.py solvers          three solvers of the ODE, by the evaluations that they may use
    python lessons/play.py inpaint          half of each point is known: two ways to find the other
    python lessons/play.py straighten       a flow before and after reflow, by the number of steps
    python lessons/play.py unmask           digits behind masks, in 4, 16 and 64 steps
    python lessons/play.py walk --html      a page with a slider, for a browser or a notebook
    python lessons/play.py walk --out film.gif

Every curve is computed by the library. steps and rate-distortion take the checkpoint of a run with --checkpoint;
without one, the data are a mixture of Gaussians whose perfect network is known.
"""

import os
import re
import sys
from pathlib import Path

import matplotlib
import matplotlib.animation
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent))
from plays import PLAYS

from tinyddpm import cli, plots

FRAMES = 24


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=PLAYS, metavar="NAME", help=", ".join(PLAYS))
    parser.add_argument("--checkpoint", metavar="FILE", help="of a run, for steps and rate-distortion")
    parser.add_argument("--html", action="store_true", help="write NAME.html, a page with a slider and a play button")
    parser.add_argument("--out", metavar="FILE",
                        help=".png, .gif or .html instead of a window (default where there is no display: NAME.gif)")
    args = parser.parse_args(argv)
    if args.checkpoint and args.name not in ("steps", "rate-distortion"):
        parser.error(f"--checkpoint does not belong to {args.name}")
    no_display = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    headless = no_display or matplotlib.get_backend().lower() == "agg"
    out = args.out
    if out is None and (args.html or headless):
        out = f"{args.name}.html" if args.html else f"{args.name}.gif"
    if out is not None:
        out = cli.require_writable(parser, args, out, *((".html",) if args.html else (".png", ".gif", ".html")))
    matplotlib.rcParams.update(plots.STYLE)
    draw, label, values, start = PLAYS[args.name](args)
    if out is None:
        show(draw, label, values, start)
        return 0
    few = [values[i] for i in np.unique(np.linspace(0, len(values) - 1, FRAMES).round().astype(int))]
    if out.suffix == ".html":
        write_page(out, draw, few)
    else:
        film = plots.Film()
        film.pictures = [picture(draw, value) for value in ([start] if out.suffix == ".png" else few)]
        plots.save_png(out, film.pictures[0]) if out.suffix == ".png" else film.save(out)
    print(out)
    return 0


def picture(draw, value):
    """The play at a value, as uint8 (rows, columns, 3)."""
    figure = Figure(figsize=(8, 4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    draw(figure, value)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_page(out, draw, values):
    """One HTML file with all pictures in it. Its buttons need no font from the network."""
    figure = Figure(figsize=(8, 4), dpi=100)
    FigureCanvasAgg(figure)
    writer = matplotlib.animation.HTMLWriter(fps=4, embed_frames=True, default_mode="once")
    with writer.saving(figure, out, dpi=100):
        for value in values:
            figure.clear()
            draw(figure, value)
            writer.grab_frame()
    text = re.sub(r"<link[^>]*font-awesome[^>]*>", "", out.read_text())
    icons = {"minus": "\u2212", "fast-backward": "|\u25c0", "step-backward": "\u25c1",
             "play fa-flip-horizontal": "\u25c0",
             "pause": "II", "play": "\u25b6", "step-forward": "\u25b7", "fast-forward": "\u25b6|", "plus": "+"}
    for name, icon in icons.items():
        text = text.replace(f'<i class="fa fa-{name}"></i>', icon)
    out.write_text(f'<meta charset="utf-8">\n{text}', encoding="utf-8")


def show(draw, label, values, start):
    """A window with a slider."""
    from matplotlib import pyplot
    from matplotlib.widgets import Slider

    window = pyplot.figure(figsize=(8, 4.8))
    above, below = window.subfigures(2, 1, height_ratios=(9, 1))
    slider = Slider(below.add_axes((0.15, 0.3, 0.7, 0.4)), label, min(values), max(values), valinit=start,
                    valstep=values)

    def redraw(value):
        above.clear()
        draw(above, value)
        window.canvas.draw_idle()
    slider.on_changed(redraw)
    redraw(start)
    pyplot.show()


if __name__ == "__main__":
    cli.program(main)
