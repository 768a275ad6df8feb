"""What the homeworks ask and how they are checked: the parts that the checks.py of every lesson is made of.

A check is a generator: it calls the functions it is given and yields (label, result) for each result. The grader runs it with
the homework's functions in one process and with the right ones in another, and compares: a homework passes by returning the
right numbers.
"""

import ast
import importlib.util
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np

from tinyddpm import gradcheck

Task = namedtuple("Task", "number title points names answers stubs steps check")
Task.__doc__ = """A task: its functions' names; the right functions, name -> function; for what the library has no answer to, the
signatures and docstrings, name -> text; steps, name -> lines; and the check."""

HERE = Path(__file__).resolve().parent


def library(number, title, points, check, functions, **steps):
    """A task whose answer is in the library."""
    answers = {f.__name__: f for f in functions}
    return Task(number, title, points, list(answers), answers, {}, steps, check)


def question(number, title, points, check, text, answers, **steps):
    """A task of its own: the text has the signatures and docstrings; answers are right, but slow or roundabout."""
    stubs = {node.name: ast.get_source_segment(text, node) for node in ast.parse(text).body}
    return Task(number, title, points, list(stubs), answers, stubs, steps, check)


# ---- for checks ----

def pair(f, name, label, rng, shapes, *settings):
    """A forward and its backward on random arrays: the result, every gradient, and the arguments, which must stay."""
    arrays = [rng.standard_normal(shape) for shape in shapes]
    given = [a.copy() for a in arrays]
    y, cache = expect(getattr(f, name)(*given, *settings), 2, name, "y and a cache")
    yield f"y of {name}({label})", y
    dy = rng.standard_normal(np.shape(y))
    gradients = getattr(f, name + "_backward")(upstream := dy.copy(), cache)
    gradients = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
    for i, gradient in enumerate(gradients, 1):
        yield f"gradient {i} of {name}_backward for {label}", gradient
    yield f"the arguments of {name}({label}) after the call", np.concatenate([a.ravel() for a in given])
    yield f"dy of {name}_backward for {label} after the call", upstream


def expect(result, count, name, what):
    """The values of a result; TypeError where they are too few or too many."""
    if not isinstance(result, (tuple, list)) or len(result) != count:
        raise TypeError(f"{name} returned {len(result) if isinstance(result, (tuple, list)) else 1} value(s); expected {count}: {what}")
    return result


def numeric(forward, gradients=None):
    """The pair of a forward(*arrays, *settings) -> y, whose backward is by central differences: slow, and hard to get wrong.

    gradients: of how many of the arrays (default: all)
    """
    def with_cache(*args):
        return forward(*args), args

    def backward(dy, args):
        arrays = [a.copy() for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        settings = [a for a in args if not isinstance(a, np.ndarray) or a.dtype.kind != "f"]
        found = []
        for a in arrays[:gradients]:
            gradient = np.empty_like(a)
            for index in np.ndindex(a.shape):
                gradient[index] = gradcheck.central_difference(lambda: forward(*arrays, *settings), a, index, dy)
            found.append(gradient)
        return tuple(found)

    return with_cache, backward


# ---- the lessons ----

def folder(lesson):
    return next(HERE.glob(f"{lesson}_*"))


def _load(path):
    """The checks of a lesson, as a module."""
    spec = importlib.util.spec_from_file_location(f"checks_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_CHECKS = {path.parent.name[:2]: _load(path) for path in sorted(HERE.glob("[0-9][0-9]_*/checks.py"))}
LESSONS = {number: module.TASKS for number, module in _CHECKS.items()}         # number of the lesson -> its tasks
IMPORTS = {number: module.IMPORTS for number, module in _CHECKS.items()}       # what its homework starts with


def find(number):
    """The task of that number, such as 6.1."""
    return next(task for tasks in LESSONS.values() for task in tasks if task.number == number)


def take_away(number):
    """Replace the library's answers to a task's lesson, everywhere, by functions that refuse."""
    lesson = next(tasks for tasks in LESSONS.values() if any(task.number == number for task in tasks))
    for name, answer in ((name, f) for task in lesson if not task.stubs for name, f in task.answers.items()):
        def refuse(*args, name=name, **kwargs):
            raise RuntimeError(f"this calls the library's own {name}, which is the answer")
        for module in [m for n, m in sys.modules.items() if n.startswith("tinyddpm")]:
            for attribute in [a for a, value in vars(module).items() if value is answer]:
                setattr(module, attribute, refuse)
            if isinstance(table := getattr(module, "READABLE", None), dict) and name in table:
                table[name] = refuse
    for module, found in zip(_CHECKS.values(), LESSONS.values()):
        for name in [n for n, value in vars(module).items() if n.endswith(("_answer", "_answer_backward")) or any(value is a for t in found for a in t.answers.values())]:
            delattr(module, name)
        for task in found:
            task.answers.clear()
    sys.modules["tinyddpm.kernels"] = None              # nor the faster twins
