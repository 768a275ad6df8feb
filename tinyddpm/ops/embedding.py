"""Numbers to vectors: the sinusoidal embedding of time, and a look-up table for class labels."""

import math

import numpy as np

from tinyddpm.backend import array_module


def time_embedding(t, width, dtype=np.float32):
    """[sin((t - 1) f_i), cos((t - 1) f_i)] with frequencies f_i = exp(-i ln(10000) / (width / 2 - 1)).

    t (N,), the paper's 1..T -> (N, width). The authors' code counts time from 0; hence the t - 1, used only here.
    There is no backward: times are given, not learned.
    Raises ValueError unless width is even and at least 4.
    """
    if width % 2 or width < 4:
        raise ValueError(f"time_embedding: width is {width}; expected an even number, at least 4")
    xp = array_module(t)
    frequencies = xp.exp(xp.arange(width // 2) * (-math.log(10000) / (width // 2 - 1)))
    angles = (t - 1)[:, None] * frequencies
    return xp.concatenate([xp.sin(angles), xp.cos(angles)], axis=1).astype(dtype)


def embedding(table, index):
    """y = table[index]. table (classes, D), index (N,) integers -> y (N, D)"""
    return table[index], (table, index)


def embedding_backward(dy, cache):
    """dy (N, D) -> dtable (classes, D): a row that was used twice collects both gradients."""
    table, index = cache
    one_hot = array_module(table).arange(len(table))[:, None] == index               # (classes, N)
    return one_hot.astype(dy.dtype) @ dy
