"""The tasks of homework 07."""

import numpy as np
from tasks import library, numeric, pair, question

from tinyddpm import ops

IMPORTS = "import numpy as np\n\nfrom tinyddpm.backend import array_module\nfrom tinyddpm.ops.norm import check_group_norm"


def group_norm(f, rng):
    G, width = (int(n) for n in rng.integers(2, 4, 2))
    C = G * width
    yield from pair(f, "group_norm", f"x (2, 3, 2, {C}), {G} groups", rng, [(2, 3, 2, C), (C,), (C,)], G, 1e-6)
    yield from pair(f, "group_norm", f"x (3, 5, {C}), 1 group", rng, [(3, 5, C), (C,), (C,)], 1, 1e-6)
    yield from pair(f, "group_norm", f"x (1, 4, {C}), {C} groups, eps 0.5", rng, [(1, 4, C), (C,), (C,)], C, 0.5)


def rms_group_norm(f, rng):
    G, width = (int(n) for n in rng.integers(2, 4, 2))
    C = G * width
    yield from pair(f, "rms_group_norm", f"x (2, 3, {C}), {G} groups", rng, [(2, 3, C), (C,), (C,)], G, 1e-6)
    yield from pair(f, "rms_group_norm", f"x (1, 2, 2, {C}), 1 group", rng, [(1, 2, 2, C), (C,), (C,)], 1, 1e-6)
    yield from pair(f, "rms_group_norm", f"x (2, 4, {C}), {G} groups, eps 0.5", rng, [(2, 4, C), (C,), (C,)], G, 0.5)


def modulate(f, rng):
    N, C = (int(n) for n in rng.integers(1, 4, 2))
    yield from pair(f, "modulate", f"x ({N}, 2, 3, {C})", rng, [(N, 2, 3, C), (N, C), (N, C)])


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

TASKS = [
    library("7.1", "Group normalization", 5, group_norm, [ops.group_norm, ops.group_norm_backward],
            group_norm=["reshape so that the channels of a group have an axis of their own: (N, L, G, C / G)", "mean and variance over pixels and channels of a group",
                        "normalize, then scale and shift each channel"],
            group_norm_backward=["dgamma and dbeta are sums over samples and pixels", "dn = dy gamma is the gradient with respect to the normalized numbers",
                                 "dx = rstd (dn - mean(dn) - n mean(dn n)), the means over each group"]),
    question("7.2", "Without centring", 4, rms_group_norm, '''
def rms_group_norm(x, gamma, beta, groups, eps):
    """Divide each group by the root of its mean square plus eps; no mean is taken away. Then scale and shift.

    x (N, H, W, C) or (N, L, C), gamma (C,), beta (C,) -> y like x, and a cache
    """

def rms_group_norm_backward(dy, cache):
    """dy like x -> dx like x, dgamma (C,), dbeta (C,)"""
''', {"rms_group_norm": _rms[0], "rms_group_norm_backward": _rms[1]},
             rms_group_norm=["as 7.1, with one statistic less"], rms_group_norm_backward=["which of the two subtractions of 7.1 stays?"]),
    question("7.3", "Scale and shift from outside", 2, modulate, '''
def modulate(x, scale, shift):
    """y = x (1 + scale) + shift, the same for all pixels of a sample: another way to tell a block the time.

    x (N, H, W, C), scale (N, C), shift (N, C) -> y like x, and a cache
    """

def modulate_backward(dy, cache):
    """dy like x -> dx like x, dscale (N, C), dshift (N, C)"""
''', {"modulate": _modulate[0], "modulate_backward": _modulate[1]}, modulate=["the factors need axes for H and W"],
             modulate_backward=["what is spread out forwards is summed up backwards"]),
]
