"""Group normalization (Wu and He 2018), alone and followed by SiLU."""

from tinyddpm import ops
from tinyddpm.backend import array_module


def group_norm(x, gamma, beta, groups, eps):
    """Normalize each group of C / G channels of each sample to mean 0 and variance 1, then scale and shift.

    x (N, H, W, C) or (N, L, C), gamma (C,), beta (C,) -> y like x
    eps: added to the variance, so that a constant group causes no division by 0
    Raises ValueError if groups does not divide C.
    """
    check_group_norm(x, gamma, beta, groups)
    xp = array_module(x)
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)       # (N, L, G, C / G)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    rstd = 1 / xp.sqrt(grouped.var(axis=(1, 3), keepdims=True) + eps)
    normal = ((grouped - mean) * rstd).reshape(x.shape)
    return normal * gamma + beta, (x, gamma, mean, rstd)


def group_norm_backward(dy, cache):
    """dy like x -> dx like x, dgamma (C,), dbeta (C,)

    With n the normalized input and dn = dy gamma: dx = rstd (dn - mean(dn) - n mean(dn n)),
    with means over each group. The two subtracted terms come from the mean and the variance.
    """
    x, gamma, mean, rstd = cache
    shape = (len(x), -1, mean.shape[2], x.shape[-1] // mean.shape[2])    # (N, L, G, C / G)
    normal = (x.reshape(shape) - mean) * rstd
    dnormal = (dy * gamma).reshape(shape)
    dx = rstd * (dnormal - dnormal.mean(axis=(1, 3), keepdims=True)
                 - normal * (dnormal * normal).mean(axis=(1, 3), keepdims=True))
    over_pixels = tuple(range(x.ndim - 1))
    return dx.reshape(x.shape), (dy * normal.reshape(x.shape)).sum(axis=over_pixels), dy.sum(axis=over_pixels)


def check_group_norm(x, gamma, beta, groups):
    """Raise ValueError for shapes that do not fit."""
    if x.shape[-1] % groups or gamma.shape != x.shape[-1:] or beta.shape != x.shape[-1:]:
        raise ValueError(f"group_norm: x is {x.shape}, gamma {gamma.shape}, beta {beta.shape}, groups {groups}; "
                         "expected gamma and beta (C,) and a number of groups that divides C")


def group_norm_silu(x, gamma, beta, groups, eps):
    """silu(group_norm(x)), which opens every residual block. It is one operation so that the twins can fuse it."""
    normal, norm_cache = ops.group_norm(x, gamma, beta, groups, eps)
    y, silu_cache = ops.silu(normal)
    return y, (norm_cache, silu_cache)


def group_norm_silu_backward(dy, cache):
    """dy like x -> dx like x, dgamma (C,), dbeta (C,)"""
    norm_cache, silu_cache = cache
    return ops.group_norm_backward(ops.silu_backward(dy, silu_cache), norm_cache)
