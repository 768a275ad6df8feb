"""What play.py shows: each play returns draw(figure, value), the value's name, its values and the one to begin with."""

import numpy as np

import clouds
import course
import diagrams
from clouds import MEANS, SIGMA, Differences, density, perfect_x0, reverse

from tinyddpm import plots
from tinyddpm.backend import to_numpy
from tinyddpm.diffusion import likelihood, process, schedule
from tinyddpm.diffusion.discrete import DiscreteConfig
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.sampling import editing
from tinyddpm.sampling.samplers import SAMPLERS, choose_times
from tinyddpm.sampling.steps import ddim, ddpm, last, spread
from tinyddpm.sampling.unmask import generate
from tinyddpm.training import load_model
from tinyddpm.training.discrete import images


def forward(args):
    """t: a cross and a digit with that much noise; how much a step adds, and how much of the image is left."""
    s, digit, cross = schedule.linear(), course.digits(1)[0][0, :, :, 0] / 127.5 - 1, -np.ones((8, 8))
    cross[3:5, 1:7] = cross[1:7, 3:5] = 1
    noise = np.random.default_rng(0).standard_normal(digit.shape)

    def draw(figure, t):
        axes = figure.subplots(1, 4, width_ratios=(1, 1, 1.2, 1.2))
        for ax, picture in zip(axes, (cross, digit)):
            added = noise[:len(picture), :len(picture)]
            course.show(ax, process.q_sample(s, picture, t, added) if t else picture, f"x_t at t = {t}", -1.5, 1.5)
        for ax, table, name in zip(axes[2:], (s.beta, s.snr), ("beta", "signal-to-noise ratio")):
            ax.semilogy(np.arange(1, s.T + 1), table[1:])
            if t:
                ax.plot(t, table[t], "o")
            ax.set(xlabel="t", title=name)
    return draw, "t", np.arange(s.T + 1), 200


def score(args):
    """t: where the arrows point, and where particles that came back from T are by then."""
    s, rng = schedule.linear(), np.random.default_rng(0)
    start, x0 = rng.standard_normal((400, 2)), perfect_x0(s)
    paths = [start, *(step.x for step in ddpm(reverse(s, x0), s, start, rng, range(s.T, 0, -1)))]
    side = np.linspace(-3, 3, 19)
    points = np.stack(np.meshgrid(side, side), axis=2).reshape(-1, 2)

    def draw(figure, t):
        axes, t = figure.subplots(), max(1, t)
        arrows = -process.eps_from_x0(s, x0(points, np.full(len(points), t)), points, t)
        axes.quiver(*points.T, *arrows.T, color="0.6", width=0.003, scale=60)
        axes.plot(*paths[s.T - t].T, ".", markersize=3)
        axes.set(title=f"-eps, which points to the data, and particles at t = {t}", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2),
                 aspect="equal", xlabel="first coordinate", ylabel="second coordinate")
    return draw, "t", np.arange(s.T, 0, -1), 300


def walk(args):
    """t: thirty walks back in one dimension so far, and the density that they should have now."""
    s, rng, means = schedule.linear(), np.random.default_rng(1), np.array([[-1.2], [0.3], [1.4]])
    start = rng.standard_normal((4000, 1))
    p = reverse(s, perfect_x0(s, means, 0.1))
    paths = np.stack([start, *(step.x for step in ddpm(p, s, start, rng, range(s.T, 0, -1)))])[:, :, 0]
    line = np.linspace(-3.5, 3.5, 400)

    def draw(figure, t):
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        left.plot(np.arange(s.T, t - 1, -1), paths[:s.T - t + 1, :30], linewidth=0.6, color="0.4")
        left.set(xlim=(s.T, 0), ylim=(-3.5, 3.5), xlabel="t", ylabel="x_t")
        right.hist(paths[s.T - t], 70, density=True, orientation="horizontal", color="0.8")
        right.plot(density(line, s.alpha_bar[t], means[:, 0], 0.1), line)
        right.set(title=f"t = {t}", xlabel="density")
    return draw, "t", np.arange(s.T, -1, -1), 200


def guidance(args):
    """w: samples asked for the class at +2, of data at -2 and +2 whose ends overlap."""
    s, sigma, both = schedule.cosine(), 1.2, np.array([[-2.0], [2.0]])
    noise, times = np.random.default_rng(0).standard_normal((4000, 1)), spread(s.T, 100)
    given, free = perfect_x0(s, both[1:], sigma, (1,)), perfect_x0(s, both, sigma, (0.5, 0.5))
    weights = np.arange(-1, 8.5, 0.5)
    samples = {w: last(ddim(reverse(s, lambda x, t: free(x, t) + w * (given(x, t) - free(x, t))), s, noise, None,
                            times))[:, 0]
               for w in weights}
    surely = [float((1 / (1 + np.exp(-4 * x / sigma**2))).mean()) for x in samples.values()]
    width = [float(x.std()) for x in samples.values()]
    line = np.linspace(-9, 8, 400)

    def draw(figure, w):
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        left.hist(samples[w], np.linspace(-9, 8, 90), density=True, color="0.8", label="samples")
        left.plot(line, density(line, 1, both[:, 0], sigma, (0.5, 0.5)), label="all data")
        left.plot(line, density(line, 1, both[1:, 0], sigma, (1,)), label="the class asked for")
        left.set(xlabel="x_0", ylabel="density", ylim=(0, 0.85), title=f"w = {w:g}")
        left.legend(loc="upper left")
        right.plot(width, surely, ".-")
        right.plot(width[list(weights).index(w)], surely[list(weights).index(w)], "o")
        right.set(xlabel="diversity: spread of the samples", ylabel="fidelity: p(class | x_0)")
    return draw, "w", weights, 2.0


def steps(args):
    """How many steps: samples of DDPM and DDIM, both with that many, and how good they are."""
    if args.checkpoint:
        model, preset = load_model(args.checkpoint)
        s, labels = preset.diffusion.make_schedule(), preset.labels and np.resize(preset.labels, 16)
        network, rng = reverse_process(model, preset.diffusion, labels), np.random.default_rng(0)
        size = preset.model.image_size
        noise = rng.standard_normal((16, size, size, preset.model.image_channels), dtype=np.float32)
        x0 = lambda x, t: network(x, t)[2]
    else:
        s, noise = schedule.linear(), np.random.default_rng(0).standard_normal((1000, 2))
        x0 = perfect_x0(s)
    shortened = course.script("11_sampling").shortened

    def make(count):
        """The samples of DDPM, with the variance beta, and of DDIM."""
        times = np.array([0, *spread(s.T, count)[::-1]])
        short = shortened(s, times[1:])
        p = reverse(short, lambda x, t: x0(x, times[t]))
        return (last(ddpm(p, short, noise, np.random.default_rng(1), range(count, 0, -1))),
                last(ddim(p, short, noise, None, range(count, 0, -1))))

    counts = np.array([1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100])
    counts = counts[counts <= s.T]
    found = {count: make(count) for count in (counts if not args.checkpoint else ())}

    def quality(x):
        """The share of the points that lie on a cloud, within three of its standard deviations."""
        return float((np.linalg.norm(x[:, None] - MEANS, axis=2).min(axis=1) < 3 * SIGMA).mean())

    def draw(figure, count):
        axes = figure.subplots(1, 2 if args.checkpoint else 3)
        for ax, x, name in zip(axes, found[count] if found else make(count), ("DDPM", "DDIM")):
            if args.checkpoint:
                ax.imshow(plots.grid(plots.to_uint8(x), 4).squeeze(), cmap="gray")
                ax.set_axis_off()
            else:
                ax.plot(*x.T, ".", markersize=2)
                ax.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xlabel="first coordinate")
            ax.set(title=f"{name}, {count} steps")
        if not args.checkpoint:
            for i, name in enumerate(("DDPM", "DDIM")):
                axes[2].semilogx(counts, [quality(pair[i]) for pair in found.values()], ".-", label=name)
                axes[2].plot(count, quality(found[count][i]), "ko", markersize=5)
            axes[2].set(xlabel="steps", title="share of the points on a cloud", ylim=(0, 1.05))
            axes[2].legend()
    return draw, "steps", counts, min(10, counts[-1])


def rate_distortion(args):
    """Reverse time: how many bits have come by then, and how far the image is off that they decode to."""
    if args.checkpoint:
        model, preset = load_model(args.checkpoint)
        s = preset.diffusion.make_schedule()
        p, images = reverse_process(model, preset.diffusion), course.digits(32)[0]
    else:                       # pixels that are dark or bright, each by itself, and their perfect network
        s, rng = schedule.linear(), np.random.default_rng(0)
        network = reverse(s, perfect_x0(s, np.array([[-0.8], [0.7]]), 0.02, (0.5, 0.5)))
        images = plots.to_uint8(np.where(rng.random((64, 8, 8, 1)) < 0.5, -0.8, 0.7))

        def p(xt, t):
            flat = [network(x.reshape(-1, 1), np.full(x.size, time)) for x, time in zip(xt.astype(np.float64), t)]
            return tuple(np.stack([np.broadcast_to(part[i], part[0].shape).reshape(xt.shape[1:]) for part in flat])
                         .astype(np.float32) for i in range(3))
    time, rate, rmse = likelihood.evaluate(p, s, images, min(40, s.T - 1)).rate_distortion()

    def draw(figure, now):
        for ax, y, title in zip(figure.subplots(1, 2), (rate, rmse),
                                ("rate: bits/dim so far", "distortion: RMSE of 255")):
            value = np.interp(now, time[::-1], y[::-1])
            ax.plot(time, y)
            ax.plot(now, value, "o")
            ax.set(xlabel="reverse time", title=f"{title}, {value:.3g}")
    return draw, "reverse time", np.arange(s.T + 1), s.T * 9 // 10


def backprop(args):
    """The stages of lesson 4's graph: each value on the way forward, then each gradient on the way back."""
    lesson = course.script("04_backpropagation")
    values = lesson.staged(x=2.0, w=1.0, b=-1.0, target=2.0)
    gradients = lesson.staged_backward(**values)

    def draw(figure, stage):
        first = lambda table, count: dict(list(table.items())[:max(0, count)])
        diagrams.graph(axes := figure.subplots(), first(values, stage), first(gradients, stage - len(values)))
        axes.set(title="forward: values" if stage <= len(values) else "backward: the loss's gradients")
    return draw, "stage", np.arange(1, len(values) + len(gradients) + 1), len(values) + len(gradients)


def solvers(args):
    """How many evaluations: paths of three solvers in one dimension, and how far from the ODE's they end."""
    s, names = schedule.linear(), {"DDIM": "ddim", "Heun": "heun", "DPM-Solver++(2M)": "dpmpp_2m"}
    start = np.random.default_rng(4).standard_normal((200, 1))
    p = reverse(s, perfect_x0(s, np.array([[-1.2], [0.3], [1.4]]), 0.1))

    def paths(name, evaluations):
        count = (evaluations + 1) // 2 if name == "heun" else evaluations
        times = choose_times(s, count, "sigma")
        steps = SAMPLERS[name].run(p, s, start, None, times)
        return [*times, 0], np.stack([start, *(step.x for step in steps)])[:, :, 0]

    counts = np.array([3, 5, 7, 9, 13, 19, 29, 49, 79])
    found = {title: {count: paths(name, count) for count in counts} for title, name in names.items()}
    truth = paths("heun", 399)[1][-1]
    errors = {title: [np.sqrt(((path[-1] - truth)**2).mean()) for _, path in each.values()]
              for title, each in found.items()}

    def draw(figure, count):
        *panels, right = figure.subplots(1, 4)
        for ax, (title, each) in zip(panels, found.items()):
            times, path = each[count]
            ax.plot(times, path[:, :24], ".-", linewidth=0.6, markersize=3, color="0.4")
            ax.set(xlim=(s.T, 0), ylim=(-2.6, 2.6), xlabel="t", title=title)
            right.loglog(counts, errors[title], ".-", label=title)
            right.plot(count, errors[title][list(counts).index(count)], "ko", markersize=4)
        right.set(xlabel="evaluations", title="error")
        right.set_xticks([3, 10, 30], ["3", "10", "30"])
        right.minorticks_off()
        right.legend(fontsize="x-small", loc="lower left")
    return draw, "evaluations", counts, 9


def inpaint(args):
    """t: points whose first coordinate is known, on their way; and where their second one ends, beside the truth."""
    s, known, diagonal = schedule.linear(), editing.masked(np.array([[1.0, 0.0]])), np.linspace(-1.2, 1.2, 5)
    means, weights = np.stack([diagonal, diagonal], axis=1), np.full(5, 0.2)
    start, y = np.random.default_rng(0).standard_normal((1000, 2)), np.array([[0.6, 0.0]])
    p = Differences(reverse(s, perfect_x0(s, means, SIGMA, weights)))
    ways = {"replacement": editing.replaced(p, s, known, y),
            "reconstruction": editing.replaced(editing.reconstructed(p, s, known, y, clip=False), s, known, y)}
    times = spread(s.T, 100)
    paths = {name: dict(zip([*times, 0], [start, *(step.x for step in ddim(q, s, start, None, times))]))
             for name, q in ways.items()}
    line = np.linspace(-2.2, 2.2, 300)

    def draw(figure, t):
        *panels, right = figure.subplots(1, 3)
        for ax, (name, path) in zip(panels, paths.items()):
            ax.plot(*path[t].T, ".", markersize=2)
            ax.plot(*means.T, "kx")
            ax.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", title=f"{name}, t = {t}", xlabel="known coordinate")
            right.hist(path[0][:, 1], np.linspace(-2.2, 2.2, 45), density=True, histtype="step", label=name)
        right.plot(line, density(line, 1, diagonal[3:4], SIGMA, (1,)), color="0.6", label="the truth")
        right.set(xlabel="second coordinate at t = 0", title="density")
        right.legend(fontsize="small")
    return draw, "t", np.array([*times, 0]), times[60]


def straighten(args):
    """How many steps: the paths of a flow to three clouds, and of one that was learned from the ends of these."""
    s, rng = schedule.straight(), np.random.default_rng(2)
    x0, pool, start = perfect_x0(s), rng.standard_normal((8000, 2)), rng.standard_normal((60, 2))
    ends = last(SAMPLERS["heun"].run(reverse(s, x0), s, pool, None, choose_times(s, 30, "sigma")))

    def pairs(_):
        chosen, t = rng.integers(len(pool), size=256), rng.integers(1, s.T + 1, 256)
        return process.q_sample(s, ends[chosen], t, pool[chosen]), t, ends[chosen]

    _, reflowed = clouds.learn(2, pairs, 1000)

    def draw(figure, count):
        times = choose_times(s, count, "strides")
        scale = [np.sqrt(s.alpha_bar[t]) + np.sqrt(1 - s.alpha_bar[t]) for t in times] + [1]      # to straight lines
        for ax, (title, x) in zip(figure.subplots(1, 2), {"before": x0, "after reflow": reflowed}.items()):
            path = [start, *(step.x for step in ddim(reverse(s, x), s, start, None, times))]
            path = np.array(path) / np.array(scale)[:, None, None]
            ax.plot(*path.transpose(2, 0, 1), "-", linewidth=0.6, color="0.6")
            ax.plot(*path[-1].T, ".", markersize=4)
            ax.plot(*MEANS.T, "kx")
            ax.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal", title=f"{title}, steps: {count}")
    return draw, "steps", np.array([1, 2, 3, 4, 6, 8, 12, 20, 50]), 1


def unmask(args):
    """t: digits behind masks, on their way in 4, 16 and 64 steps."""
    model, preset = load_model("masks", DiscreteConfig)
    d, paths = preset.diffusion.make_schedule(), {}
    for count in (4, 16, 64):
        paths[count] = path = [(d.T, np.full((16, 28, 28), d.K))]
        generate(model, d, 16, (28, 28), 5, count,
                 lambda step, *_: path.append((step.t - d.T / count, to_numpy(step.x))))

    def draw(figure, t):
        for ax, (count, path) in zip(figure.subplots(1, 3), paths.items()):
            x = next(x for at, x in reversed(path) if at >= t - 1e-6)
            course.show(ax, plots.grid(plots.to_uint8(images(x)), 4), f"{count} steps, t = {t}", 0, 255)
    return draw, "t", np.linspace(1000, 0, 65).astype(int), 500


PLAYS = {f.__name__.replace("_", "-"): f for f in (forward, score, walk, guidance, steps, rate_distortion, backprop,
                                                   solvers, inpaint, straighten, unmask)}
