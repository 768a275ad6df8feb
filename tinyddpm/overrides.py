"""A learner's operations in place of the library's: finds them, and reports what is wrong with them."""

import inspect
from collections import namedtuple


def find(module, table):
    """The operations that a module defines itself (not those that it only imports): name -> function.

    Stubs that only raise NotImplementedError do not count. Each function is wrapped: a result of the wrong shape, or
    an error inside it, raises a ValueError with the operation's name.
    Raises ValueError for a module with none, with half a pair, or with parameters that differ from the operation's.
    """
    own = {name: f for name, f in vars(module).items()
           if name in table and getattr(f, "__module__", None) == module.__name__ and not _is_stub(f)}
    if not own:
        raise ValueError(f"{module.__name__} defines none of the operations, or none that is written yet: "
                         f"{', '.join(table)}")
    for name, f in own.items():
        forward = name.removesuffix("_backward")
        for half in (forward, forward + "_backward"):
            if half in table and half not in own:
                raise ValueError(f"{module.__name__} overrides {name} but not {half}: an operation "
                                 "is overridden as a pair, forward and backward")
        expected, got = inspect.signature(table[name]), inspect.signature(f)
        required = [p for p in expected.parameters.values() if p.default is p.empty]
        try:                                            # called with all arguments, or without those with a default
            got.bind(*expected.parameters)
            got.bind(*required)
        except TypeError:
            raise ValueError(f"{name} of {module.__name__} takes {got}; the operation takes {expected}") from None
    wrapped = {}
    for name, f in own.items():
        if name + "_backward" in own:
            wrapped |= _pair(name, f, own[name + "_backward"], table[name], table[name + "_backward"], module.__name__)
        elif not name.endswith("_backward"):
            wrapped[name] = _single(name, f, module.__name__)
    return wrapped


def _is_stub(f):
    return getattr(getattr(f, "__code__", None), "co_names", None) == ("NotImplementedError",)


def _pair(name, forward, backward, readable, readable_backward, where):
    """Wrap the two to check their results' shapes against the readable operation's, which runs once for each shape."""
    known, Kept = {}, namedtuple("Kept", "cache shapes")

    def checked(*args, **kwargs):
        y, cache = _unpack(_run(name, where, forward, *args, **kwargs), 2, f"{name} of {where}", "y and a cache")
        key = tuple(getattr(a, "shape", str(a)) for a in args), str(kwargs)
        if key not in known:
            expected, its_cache = readable(*args, **kwargs)
            gradients = readable_backward(expected, its_cache)
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
            known[key] = expected.shape, [g.shape for g in gradients]
        _require(f"{name} of {where}", "y", y, known[key][0])
        return y, Kept(cache, known[key][1])

    def checked_backward(dy, cache):
        cache, shapes = cache
        gradients, who = _run(name + "_backward", where, backward, dy, cache), f"{name}_backward of {where}"
        for i, (gradient, shape) in enumerate(zip(_unpack(gradients, len(shapes), who, "gradients"), shapes), 1):
            _require(who, f"gradient {i}", gradient, shape)
        return gradients

    return {name: checked, name + "_backward": checked_backward}


def _single(name, f, where):
    return lambda *args, **kwargs: _run(name, where, f, *args, **kwargs)


def _run(name, where, f, *args, **kwargs):
    try:
        return f(*args, **kwargs)
    except Exception as error:                          # any error in it is for its author to fix
        raise ValueError(f"{name} of {where} fails: {type(error).__name__}: {error}") from error


def _unpack(results, count, who, what):
    results = results if isinstance(results, (tuple, list)) else (results,)
    if len(results) != count:
        raise ValueError(f"{who} returned {len(results)} values; expected {count}: {what}")
    return results


def _require(who, what, a, shape):
    if getattr(a, "shape", ()) != shape:
        raise ValueError(f"{who} returned {what} of shape {getattr(a, 'shape', type(a).__name__)}; expected {shape}")
