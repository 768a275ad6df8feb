"""What the homeworks ask and how they are checked: the parts that the checks.py of every lesson is made of.

A check is a generator: it calls the functions it is given and yields (label, result) for each result. The grader runs
it with the homework's functions in one process and with the right ones in another, and compares: a homework passes by
returning the right numbers. "PART: what" as a label makes PART a part of the task with points of its own: the
functions of a task, the first word of a part, share its points equally, and the parts of a function share that
function's.
"""

import ast
import importlib.util
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np

from tinyddpm import gradcheck

Task = namedtuple("Task", "number title points names answers stubs steps hints check")
Task.__doc__ = """A task: its functions' names; the right functions, name -> function; for what the library has no
answer to, the signatures and docstrings, name -> text; steps, name -> lines; hints, part -> what to look at if it is
wrong; and the check."""

HERE = Path(__file__).resolve().parent


def library(number, title, points, check, functions, hints={}, **steps):
    """A task whose answer is in the library."""
    answers = {f.__name__: f for f in functions}
    return Task(number, title, points, list(answers), answers, {}, steps, hints, check)


def question(number, title, points, check, text, answers, hints={}, **steps):
    """A task of its own: the text has the signatures and docstrings; answers are right, but slow or roundabout."""
    stubs = {node.name: ast.get_source_segment(text, node) for node in ast.parse(text).body}
    return Task(number, title, points, list(stubs), answers, stubs, steps, hints, check)


# ---- for checks ----

def pair(f, name, rng, shapes, *settings):
    """A forward and its backward on random arrays, name -> shape: the result, every gradient, and that no array is
    changed.

    A mistake in the backward costs no points of the forward.
    """
    what = ", ".join([*(f"{argument} {shape}" for argument, shape in shapes.items()), *map(str, settings)])
    arrays = [rng.standard_normal(shape) for shape in shapes.values()]
    given = [a.copy() for a in arrays]
    y, cache = expect(getattr(f, name)(*given, *settings), 2, name, "y and a cache")
    yield f"{name}: y for {what}", y
    yield f"{name}: the arguments afterwards, {what}", np.concatenate([a.ravel() for a in given])
    dy = rng.standard_normal(np.shape(y))
    given = dy.copy()
    try:
        gradients = getattr(f, name + "_backward")(given, cache)
        gradients = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
        expect(gradients, len(shapes), name + "_backward", ", ".join(f"d{argument}" for argument in shapes))
    except Exception as error:
        gradients = [error] * len(shapes)
    for argument, gradient in zip(shapes, gradients):
        yield f"{name}_backward d{argument}: {what}", gradient
    for argument in shapes:
        yield f"{name}_backward d{argument}: dy afterwards, {what}", given


def attempt(f, *arguments):
    """A result, or the exception that was raised instead, so that a check can go on."""
    try:
        return f(*arguments)
    except Exception as error:
        return error


def refuses(f, *arguments):
    """Whether a call raises ValueError."""
    return isinstance(attempt(f, *arguments), ValueError)


def expect(result, count, name, what):
    """The values of a result; TypeError where they are too few or too many."""
    if not isinstance(result, (tuple, list)) or len(result) != count:
        raise TypeError(f"{name} returned {len(result) if isinstance(result, (tuple, list)) else 1} value(s); "
                        f"expected {count}: {what}")
    return result


def numeric(forward, gradients=None):
    """The pair of a forward(*arrays, *settings) -> y, whose backward is by central differences: slow, and hard to get
    wrong.

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
OPEN = {number: module.OPEN for number, module in _CHECKS.items()}             # an open question, and its answer


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
        answers = [a for t in found for a in t.answers.values()]
        for name, value in list(vars(module).items()):
            if name.endswith(("_answer", "_answer_backward")) or any(value is a for a in answers):
                delattr(module, name)
        for task in found:
            task.answers.clear()
    sys.modules["tinyddpm.kernels"] = None              # nor the faster twins
