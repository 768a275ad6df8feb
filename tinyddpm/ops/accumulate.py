"""Gradients that accumulate in place: those of the paper's model take 143 MB, and each copy as much again."""

from tinyddpm.backend import array_module


class Accumulating:
    """Decorator for a twin's backward, add(dy, cache, dw, db), which adds the gradients of w and b to dw and db.

    add returns dx, or dx and dother; the second entry of its cache is w. It can also be called like any other
    backward: (dy, cache) -> dx, dw, db, or dx, dw, db, dother.
    """

    def __init__(self, add):
        self.add, self.__name__ = add, add.__name__

    def __call__(self, dy, cache):
        w = cache[1]
        xp = array_module(w)
        dw, db = xp.zeros(w.shape, w.dtype), xp.zeros(w.shape[-1], w.dtype)
        rest = self.add(dy, cache, dw, db)
        return (rest[0], dw, db, *rest[1:]) if isinstance(rest, tuple) else (rest, dw, db)
