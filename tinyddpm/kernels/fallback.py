"""A readable operation in the place of a twin that cannot serve."""

from collections import namedtuple

Fallback = namedtuple("Fallback", "backward cache")


def fallback(file, name, *args):
    """What the operation of that name in a file of ops/ returns: y, and a Fallback with its backward and its cache."""
    y, cache = getattr(file, name)(*args)
    return y, Fallback(getattr(file, name + "_backward"), cache)
