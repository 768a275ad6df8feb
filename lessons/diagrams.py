"""Drawings that the lessons show beside their plots."""

from matplotlib.patches import Rectangle

DOWN, UP, MIDDLE = "#4477aa", "#cc6677", "#228833"              # told apart by colour-blind readers too


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
