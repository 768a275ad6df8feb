"""The tasks of homework 07."""

import numpy as np
from tasks import library, numeric, pair, question, refuses

from tinyddpm import ops

IMPORTS = """import numpy as np

from tinyddpm.backend import array_module
from tinyddpm.ops.norm import check_group_norm"""


def group_norm_silu(f, rng):
    G, width = (int(n) for n in rng.integers(2, 4, 2))
    C = G * width
    for shape, groups, eps in (((2, 3, 2, C), G, 1e-6), ((3, 5, C), 1, 1e-6), ((1, 4, C), C, 0.5)):
        yield from pair(f, "group_norm_silu", rng, {"x": shape, "gamma": (C,), "beta": (C,)}, groups, eps)
    yield "group_norm_silu errors: more groups than channels", refuses(
        f.group_norm_silu, np.ones((1, 2, C)), np.ones(C), np.ones(C), C + 1, 1e-6)


def rms_group_norm(f, rng):
    G, width = (int(n) for n in rng.integers(2, 4, 2))
    C = G * width
    for shape, groups, eps in (((2, 3, C), G, 1e-6), ((1, 2, 2, C), 1, 1e-6), ((2, 4, C), G, 0.5)):
        yield from pair(f, "rms_group_norm", rng, {"x": shape, "gamma": (C,), "beta": (C,)}, groups, eps)


def modulate(f, rng):
    N, C = (int(n) for n in rng.integers(1, 4, 2))
    yield from pair(f, "modulate", rng, {"x": (N, 2, 3, C), "scale": (N, C), "shift": (N, C)})


def rms_answer(x, gamma, beta, groups, eps):
    y = np.empty_like(x)
    width = x.shape[-1] // groups
    for n in range(len(x)):
        for g in range(groups):
            part = x[n, ..., g * width:(g + 1) * width]
            y[n, ..., g * width:(g + 1) * width] = part / np.sqrt((part**2).mean() + eps)
    return y * gamma + beta


_rms = numeric(rms_answer)
_modulate = numeric(lambda x, scale, shift: x * (1 + scale[:, None, None]) + shift[:, None, None])

OPEN = ("Put an image through a convolution without a bias and a group norm; then the same image times 5, and divided"
        " by 1000. By how much do the outputs differ, and what can the rest of the network no longer know?",
        "Times 5 the outputs agree to about 1e-5 (only epsilon tells them apart); divided by 1000 they differ, "
        "because then the variance is no longer large against epsilon. A norm removes the size of its input, so what "
        "follows cannot tell a bright image from a dark one. In a residual block the skip goes around the norm and "
        "keeps it.")

TASKS = [
    library("7.1", "Group normalization and SiLU, as one", 5, group_norm_silu,
            [ops.group_norm_silu, ops.group_norm_silu_backward],
            hints={"group_norm_silu": "the groups' axis: channels c and c + 1 belong together; and eps stands under "
                                      "the root",
                   "group_norm_silu_backward dx": "SiLU first, then gamma, then the two terms of the norm, with means "
                                                  "over each group",
                   "group_norm_silu_backward dgamma": "what arrives at gamma has been through SiLU's backward",
                   "group_norm_silu_backward dbeta": "what arrives at beta has been through SiLU's backward"},
            group_norm_silu=["check_group_norm(x, gamma, beta, groups) raises what is asked for",
                             "the lesson's rows are groups: reshape to (N, L, G, C / G), whose axes 1 and 3 are one "
                             "row",
                             "normalize, scale and shift each channel, then y = s sigmoid(s)"],
            group_norm_silu_backward=["the lines of the forward, from the last to the first; both parts are in "
                                      "lessons 4 and 7"]),
    question("7.2", "Without centring", 4, rms_group_norm, '''
def rms_group_norm(x, gamma, beta, groups, eps):
    """Divide each group by the root of its mean square plus eps; no mean is taken away. Then scale and shift.

    x (N, H, W, C) or (N, L, C), gamma (C,), beta (C,) -> y like x, and a cache
    """

def rms_group_norm_backward(dy, cache):
    """dy like x -> dx like x, dgamma (C,), dbeta (C,)"""
''', {"rms_group_norm": _rms[0], "rms_group_norm_backward": _rms[1]},
             hints={"rms_group_norm_backward dx": "adding a constant does change y now; stretching still does not"},
             rms_group_norm=["as in 7.1, with one statistic less"],
             rms_group_norm_backward=["which of the two subtractions of 7.1 stays?"]),
    question("7.3", "Scale and shift from outside", 2, modulate, '''
def modulate(x, scale, shift):
    """y = x (1 + scale) + shift, the same for all pixels of a sample: another way to tell a block the time.

    x (N, H, W, C), scale (N, C), shift (N, C) -> y like x, and a cache
    """

def modulate_backward(dy, cache):
    """dy like x -> dx like x, dscale (N, C), dshift (N, C)"""
''', {"modulate": _modulate[0], "modulate_backward": _modulate[1]}, modulate=["the factors need axes for H and W"],
             hints={"modulate_backward dx": "the factor is 1 + scale",
                    "modulate_backward dscale": "summed over H and W of each sample"},
             modulate_backward=["what is spread out forwards is summed up backwards"]),
]
