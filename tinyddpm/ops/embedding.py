"""Numbers to vectors: the sinusoidal embedding of time, and a look-up table for class labels."""

import math

import numpy as np

from tinyddpm.backend import array_module


def time_embedding(position, width, dtype=np.float32):
    """[sin(position f_i), cos(position f_i)] with frequencies f_i = exp(-i ln(10000) / (width / 2 - 1)).

    position (N,), counted from 0 -> (N, width). It has no backward: positions are given, not learned.
    Raises ValueError unless width is even and at least 4.
    """
    if width % 2 or width < 4:
        raise ValueError(f"time_embedding: width is {width}; expected an even number, at least 4")
    xp = array_module(position)
    frequencies = xp.exp(xp.arange(width // 2) * (-math.log(10000) / (width // 2 - 1)))
    angles = position[:, None] * frequencies
    return xp.concatenate([xp.sin(angles), xp.cos(angles)], axis=1).astype(dtype)


def embedding(table, index):
    """y = table[index]. table (classes, D), index (N,) integers -> y (N, D)"""
    return table[index], (table, index)


def embedding_backward(dy, cache):
    """dy (N, D) -> dtable (classes, D): a row that was used twice collects both gradients."""
    table, index = cache
    xp = array_module(table)
    dtable = xp.zeros_like(table)
    xp.add.at(dtable, index, dy)
    return dtable
