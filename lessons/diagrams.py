"""Drawings that the lessons show beside their plots."""

from matplotlib.patches import Rectangle

from tinyddpm import plots

DOWN, UP, MIDDLE = plots.COLOURS[:3]


def unet(axes):
    """The paper's network for CIFAR10: a row for each resolution, its channels, and the skips between both sides."""
    for level, (size, channels) in enumerate(zip((32, 16, 8, 4), (128, 256, 256, 256))):
        place, width, text = 4.6 - level, size / 20, f"{size} x {size}\n{channels} channels" + "\nattention" * (size == 16)
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


GRAPH = {"x": (0, 2, "x"), "w": (0, 0.7, "w"), "a": (1.2, 1.35, "a = x w"), "b": (1.2, 0, "b"), "h": (2.6, 1.35, "h = a + b"),
         "s": (3.5, 0, "s = 1 / (1 + e$^{-h}$)"), "y": (4.6, 1.35, "y = h s"), "target": (4.9, 0, "target"),
         "e": (6, 0.7, "e = y $-$ target"), "loss": (7.4, 0.7, "loss = e\u00b2")}
EDGES = "xa wa ah bh hs hy sy ye".split() + [("target", "e"), ("e", "loss")]


def graph(axes, values, gradients):
    """Lesson 4's staged computation: above each operation its value, below it the loss's gradient, where they are given."""
    number = {"ha": "center", "weight": "bold", "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
    for start, end in EDGES:
        axes.annotate("", GRAPH[end][:2], GRAPH[start][:2],
                      arrowprops={"arrowstyle": "->", "color": "0.6", "shrinkA": 22, "shrinkB": 36 if end == "s" else 26})
    for name, (x, y, formula) in GRAPH.items():
        axes.text(x, y, formula, ha="center", va="center", bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"})
        if name in values:
            axes.text(x, y + 0.25, f"{values[name]:.3f}", color=DOWN, **number)
        if name in gradients:
            axes.text(x, y - 0.4, f"{gradients[name]:.3f}", color=UP, **number)
    axes.set(xlim=(-0.5, 8), ylim=(-0.6, 2.5))
    axes.set_axis_off()
