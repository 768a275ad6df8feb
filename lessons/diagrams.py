"""Drawings that the lessons show beside their plots.

    python lessons/diagrams.py          draws the map of the lessons anew
"""

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tinyddpm import plots

DOWN, UP, MIDDLE = plots.COLOURS[:3]


def unet(axes):
    """The paper's network for CIFAR10: a row for each resolution, its channels, and the skips between both sides."""
    for level, (size, channels) in enumerate(zip((32, 16, 8, 4), (128, 256, 256, 256))):
        place, width = 4.6 - level, size / 20
        text = f"{size} x {size}\n{channels} channels" + "\nattention" * (size == 16)
        for side, colour, align in ((-1, DOWN, "right"), (1, UP, "left")):
            axes.add_patch(Rectangle((side * place - width / 2, -level - 0.3), width, 0.6, color=colour))
            axes.text(side * (place + width / 2 + 0.12), -level, text, ha=align, va="center", fontsize=8)
            if level < 3:
                axes.annotate("", (side * (place - 1), -level - 0.68), (side * place, -level - 0.32),
                              arrowprops={"arrowstyle": "->" if side < 0 else "<-"})
        axes.annotate("", (place - width / 2, -level), (width / 2 - place, -level),
                      arrowprops={"arrowstyle": "->", "color": "0.5"})
        axes.text(0, -level + 0.08, "3 skips", ha="center", fontsize=8, color="0.4")
    for start, end in (((-1.55, -3.32), (-0.15, -3.6)), ((0.15, -3.6), (1.55, -3.32))):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->"})
    axes.add_patch(Rectangle((-0.1, -3.9), 0.2, 0.6, color=MIDDLE))
    axes.text(0, -4.02, "middle: block, attention, block", ha="center", va="top", fontsize=8)
    axes.set(xlim=(-7, 7), ylim=(-4.3, 0.5))
    axes.set_axis_off()


GRAPH = {"x": (0, 2, "x"), "w": (0, 0.7, "w"), "a": (1.2, 1.35, "a = x w"), "b": (1.2, 0, "b"),
         "h": (2.6, 1.35, "h = a + b"),
         "s": (3.5, 0, "s = 1 / (1 + e$^{-h}$)"), "y": (4.6, 1.35, "y = h s"), "target": (4.9, 0, "target"),
         "e": (6, 0.7, "e = y $-$ target"), "loss": (7.4, 0.7, "loss = e\u00b2")}
EDGES = "xa wa ah bh hs hy sy ye".split() + [("target", "e"), ("e", "loss")]


def graph(axes, values, gradients):
    """Lesson 4's staged computation: above each operation its value, below it the loss's gradient, where they are
    given."""
    number = {"ha": "center", "weight": "bold", "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
    for start, end in EDGES:
        axes.annotate("", GRAPH[end][:2], GRAPH[start][:2],
                      arrowprops={"arrowstyle": "->", "color": "0.6", "shrinkA": 22,
                                  "shrinkB": 36 if end == "s" else 26})
    for name, (x, y, formula) in GRAPH.items():
        axes.text(x, y, formula, ha="center", va="center",
                  bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"})
        if name in values:
            axes.text(x, y + 0.25, f"{values[name]:.3f}", color=DOWN, **number)
        if name in gradients:
            axes.text(x, y - 0.4, f"{gradients[name]:.3f}", color=UP, **number)
    axes.set(xlim=(-0.5, 8), ylim=(-0.6, 2.5))
    axes.set_axis_off()


def valley(axes, paths):
    """Paths, name -> points (N, 2), on the contours of lesson 5's valley."""
    x, y = np.meshgrid(np.linspace(-4.5, 2, 80), np.linspace(-1.4, 1.4, 80))
    axes.contour(x, y, x**2 / 2 + 25 * y**2, 10, colors="0.85", linewidths=1)
    for name, points in paths.items():
        axes.plot(*points.T, ".-", linewidth=0.9, markersize=4, label=name)
    axes.plot(0, 0, "*", color="black", markersize=10, label="lowest point")
    axes.grid(False)
    axes.set(xlabel="first parameter", ylabel="second parameter")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))


def heat(axes, values, xlabel, ylabel):
    """A table of numbers as colours, with their scale."""
    axes.figure.colorbar(axes.imshow(values, aspect="auto", cmap="RdBu"))
    axes.grid(False)
    axes.set(xlabel=xlabel, ylabel=ylabel)


def bars(axes, values, label):
    """Horizontal bars on a logarithmic scale, each with its value: name -> value."""
    axes.bar_label(axes.barh(list(values), list(values.values())), [f"{value:.3g}" for value in values.values()],
                   padding=4)
    axes.set(xscale="log", xlabel=label, xlim=(None, 3 * max(values.values())))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


PLACES = ((0, 0), (1, 0.9), (2, 0.9), (1, -1), (3, 0.15), (2, -0.65), (2, -1.3), (2, -1.95), (3, -1.3), (4, 0.15),
          (5, 0.75), (5, -0.65), (6.1, -1.15), (6.1, -0.35), (6.1, 1.25), (6.1, 0.45), (7.1, 1.25),
          (7.1, 0.45), (7.1, -0.65), (6.1, -1.95))
NAMES = ("noise", "forward\nprocess", "reverse\nprocess", "back-\npropagation", "learning", "convolution",
         "group\nnorm",
         "attention", "U-Net", "training", "sampling", "the bound\nin bits", "what to\npredict", "CIFAR10",
         "guidance", "ODE", "editing", "one step", "masks", "bits back")
ABOUT = {"the process": (DOWN, (1, 2, 3)), "the network": (MIDDLE, (4, 6, 7, 8, 9)), "training it": (UP, (5, 10)),
         "using it": (plots.COLOURS[3], (11, 12, 13, 14)), "beyond the paper": ("0.35", (15, 16, 17, 18, 19, 20))}


def course_map(axes, needs):
    """The lessons as boxes, an arrow from each to those that need it. needs: for each lesson the numbers before it"""
    for lesson, before in enumerate(needs, 1):
        for other in before:
            axes.annotate("", PLACES[lesson - 1], PLACES[other - 1],
                          arrowprops={"arrowstyle": "->", "color": "0.6", "shrinkA": 25, "shrinkB": 36})
    for part, (colour, lessons) in ABOUT.items():
        axes.plot([], [], "s", color=colour, markersize=10, label=part)
        for lesson in lessons:
            axes.text(*PLACES[lesson - 1], f"{lesson}. {NAMES[lesson - 1]}", ha="center", va="center", color="white",
                      fontsize="small", bbox={"boxstyle": "round,pad=0.5", "facecolor": colour, "edgecolor": "none"})
    axes.legend(ncols=5, loc="upper center", frameon=False)
    axes.set(xlim=(-0.3, 7.5), ylim=(-2.2, 1.9))
    axes.set_axis_off()


if __name__ == "__main__":              # the map in README.md, by the column "needs" of its table
    text = Path(__file__).with_name("README.md").read_text()
    table = re.findall(r"^\| \[\d+\..*?\|.*?\|(.*?)\|", text, re.MULTILINE)
    figure = Figure(figsize=(11.5, 4), layout="constrained")
    course_map(figure.subplots(), [[int(n) for n in re.findall(r"\d+", before)] for before in table])
    figure.savefig(Path(__file__).with_name("map.png"), dpi=100)
