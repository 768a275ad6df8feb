"""Look and play: windows with sliders, or a picture or film where there is no display.

    python lessons/play.py forward          a digit dissolves
    python lessons/play.py score            the score of three clouds in the plane, and particles that follow it
    python lessons/play.py walk             the walk back, in one dimension
    python lessons/play.py steps            DDPM against DDIM, by the number of steps
    python lessons/play.py rate-distortion  what the bits of a bound are spent on
    python lessons/play.py forward --out film.gif

Every curve is computed by the library. steps and rate-distortion take the checkpoint of a run with --checkpoint; without
one, the data are a mixture of Gaussians whose perfect network is known.
"""

import os
import sys
from pathlib import Path

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import course

from tinyddpm import cli, plots
from tinyddpm.diffusion import likelihood, process, schedule
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.sampling.generate import generate
from tinyddpm.sampling.steps import ddim, ddpm, last, spread
from tinyddpm.training import load_model

MEANS = np.array([[-1.5, 0.0], [1.0, 1.2], [1.0, -1.2]])
SIGMA = 0.15
FRAMES = 24


def perfect(s, means=MEANS, sigma=SIGMA):
    """The reverse process p(xt, t) whose x_0 is the exact mean for clouds of equal weight."""
    def p(xt, t):
        a = s.alpha_bar[t[0]]
        away, variance = xt[:, None] - np.sqrt(a) * means, a * sigma**2 + 1 - a
        weights = np.exp(-(away**2).sum(axis=2) / (2 * variance) + (away**2).sum(axis=2).min(axis=1, keepdims=True) / (2 * variance))
        weights /= weights.sum(axis=1, keepdims=True)
        eps = np.sqrt(1 - a) / variance * (weights[:, :, None] * away).sum(axis=1)
        return process.p_mean_variance(s, process.x0_from_eps(s, xt, t, eps), xt, t, clip=False)
    return p


def forward(args):
    """t: a digit, or an 8 x 8 cross, with that much noise; and how much of it is left."""
    s, digit = schedule.linear(), course.digits(1)[0][0, :, :, 0] / 127.5 - 1
    noise = np.random.default_rng(0).standard_normal(digit.shape)

    def draw(figure, t):
        left, right = figure.subplots(1, 2)
        course.show(left, process.q_sample(s, digit, t, noise) if t else digit, f"x_t at t = {t}", -1.5, 1.5)
        right.plot(np.sqrt(s.alpha_bar), label="of the image")
        right.plot(np.sqrt(1 - s.alpha_bar), label="of noise")
        right.axvline(t, color="0.5")
        right.legend()
        right.set(xlabel="t")
    return draw, ("t", 0, s.T, 200)


def score(args):
    """t: where the arrows point, and where particles that came back from T are by then."""
    s, rng = schedule.linear(), np.random.default_rng(0)
    start = rng.standard_normal((400, 2))
    paths = [start, *(step.x for step in ddpm(perfect(s), s, start, rng, range(s.T, 0, -1)))]
    side = np.linspace(-3, 3, 19)
    points = np.stack(np.meshgrid(side, side), axis=2).reshape(-1, 2)

    def draw(figure, t):
        axes, t = figure.subplots(), max(1, t)
        _, _, x0 = perfect(s)(points, np.full(len(points), t))
        axes.quiver(*points.T, *-process.eps_from_x0(s, x0, points, t).T, color="0.6", width=0.003)
        axes.plot(*paths[s.T - t].T, ".", markersize=3)
        axes.set(title=f"-eps and particles at t = {t}", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
    return draw, ("t", s.T, 1, 300)


def walk(args):
    """t: thirty walks back in one dimension so far, and the density that they should have now."""
    s, rng = schedule.linear(), np.random.default_rng(1)
    means = np.array([[-1.2], [0.3], [1.4]])
    start = rng.standard_normal((4000, 1))
    paths = np.stack([start, *(step.x for step in ddpm(perfect(s, means, 0.1), s, start, rng, range(s.T, 0, -1)))])[:, :, 0]
    line = np.linspace(-3.5, 3.5, 400)

    def draw(figure, t):
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        left.plot(np.arange(s.T, t - 1, -1), paths[:s.T - t + 1, :30], linewidth=0.6, color="0.4")
        left.set(xlim=(s.T, 0), ylim=(-3.5, 3.5), xlabel="t")
        variance = s.alpha_bar[t] * 0.1**2 + 1 - s.alpha_bar[t]
        density = np.exp(-(line[:, None] - np.sqrt(s.alpha_bar[t]) * means[:, 0])**2 / (2 * variance)).mean(axis=1) / np.sqrt(2 * np.pi * variance)
        right.hist(paths[s.T - t], 70, density=True, orientation="horizontal", color="0.8")
        right.plot(density, line)
        right.set(title=f"t = {t}", xticks=[])
    return draw, ("t", s.T, 0, 200)


def steps(args):
    """The number of DDIM's steps: its samples beside those of all T steps of Algorithm 2."""
    if args.checkpoint:
        model, preset = load_model(args.checkpoint)
        labels = preset.labels and np.resize(preset.labels, 16)
        make = lambda **options: plots.grid(plots.to_uint8(generate(model, preset.diffusion, 16, labels=labels, **options)))
        whole, T = make(), preset.diffusion.T
    else:
        s, noise = schedule.linear(), np.random.default_rng(0).standard_normal((400, 2))
        whole, T = last(ddpm(perfect(s), s, noise, np.random.default_rng(1), range(s.T, 0, -1))), s.T
        make = lambda steps, **_: last(ddim(perfect(s), s, noise, None, spread(s.T, steps)))

    def draw(figure, count):
        axes = figure.subplots(1, 2)
        for ax, found, name in zip(axes, (whole, make(sampler="ddim", steps=count)), (f"Algorithm 2, {T} steps", f"DDIM, {count} steps")):
            if args.checkpoint:
                ax.imshow(found.squeeze(), cmap="gray")
                ax.set_axis_off()
            else:
                ax.plot(*found.T, ".", markersize=3)
                ax.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
            ax.set(title=name)
    return draw, ("steps", 1, min(100, T), min(10, T))


def rate_distortion(args):
    """Reverse time: how many bits have come by then, and how far the image is off that they decode to."""
    if args.checkpoint:
        model, preset = load_model(args.checkpoint)
        s = preset.diffusion.make_schedule()
        p, images = reverse_process(model, preset.diffusion), course.digits(32)[0]
    else:                       # pixels that are dark or bright, each by itself, and their perfect network
        s, means = schedule.linear(), np.array([[-0.8], [0.7]])
        images = np.clip(np.rint((np.where(np.random.default_rng(0).random((64, 8, 8, 1)) < 0.5, -0.8, 0.7) + 1) * 127.5), 0, 255).astype(np.uint8)

        def p(xt, t):
            flat = [perfect(s, means, 0.02)(x.reshape(-1, 1), np.full(x.size, time)) for x, time in zip(xt.astype(np.float64), t)]
            return tuple(np.stack([np.broadcast_to(part[i], part[0].shape).reshape(xt.shape[1:]) for part in flat]).astype(np.float32) for i in range(3))
    time, rate, rmse = likelihood.evaluate(p, s, images, min(40, s.T - 1)).rate_distortion()

    def draw(figure, now):
        for ax, y, title in zip(figure.subplots(1, 2), (rate, rmse), ("bits that have come, a dimension", "RMSE of 255")):
            ax.plot(time, y)
            ax.plot(now, np.interp(now, time[::-1], y[::-1]), "o")
            ax.set(xlabel="reverse time", title=f"{title}: {np.interp(now, time[::-1], y[::-1]):.3g}")
    return draw, ("reverse time", 0, s.T, s.T * 9 // 10)


PLAYS = {f.__name__.replace("_", "-"): f for f in (forward, score, walk, steps, rate_distortion)}


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=PLAYS, metavar="NAME", help=", ".join(PLAYS))
    parser.add_argument("--checkpoint", metavar="FILE", help="of a run, for steps and rate-distortion")
    parser.add_argument("--out", metavar="FILE", help=".png or .gif instead of a window (default where there is no display: NAME.gif)")
    args = parser.parse_args(argv)
    if args.checkpoint and args.name not in ("steps", "rate-distortion"):
        parser.error(f"--checkpoint does not belong to {args.name}")
    if args.out:
        cli.require_writable(parser, args, args.out, ".png", ".gif")
    draw, (name, first, last, start) = PLAYS[args.name](args)
    no_display = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    headless = no_display or matplotlib.get_backend().lower() == "agg"
    if args.out or headless:
        out = Path(args.out or f"{args.name}.gif")
        values = [start] if out.suffix == ".png" else [round(v) for v in np.linspace(first, last, FRAMES)]
        film = plots.Film()
        for value in values:
            figure = matplotlib.figure.Figure(figsize=(7, 3.6), layout="constrained")
            draw(figure, value)
            canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
            canvas.draw()
            film.pictures.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        plots.save_png(out, film.pictures[0]) if out.suffix == ".png" else film.save(out)
        print(out)
        return 0
    from matplotlib import pyplot
    from matplotlib.widgets import Slider

    window = pyplot.figure(figsize=(8, 4.8))
    above, below = window.subfigures(2, 1, height_ratios=(9, 1))
    slider = Slider(below.add_axes((0.15, 0.3, 0.7, 0.4)), name, min(first, last), max(first, last), valinit=start, valstep=1)

    def redraw(value):
        above.clear()
        draw(above, int(value))
        window.canvas.draw_idle()
    slider.on_changed(redraw)
    redraw(start)
    pyplot.show()
    return 0


if __name__ == "__main__":
    import matplotlib.backends.backend_agg
    import matplotlib.figure

    cli.program(main)
