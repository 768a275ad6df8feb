"""The fallback to a readable operation, where its twin does not apply."""

from collections import namedtuple

Fallback = namedtuple("Fallback", "backward cache")


def fallback(file, name, *args):
    """Run the operation of that name in a file of ops/. Returns y, and a Fallback with its backward and its cache."""
    y, cache = getattr(file, name)(*args)
    return y, Fallback(getattr(file, name + "_backward"), cache)
