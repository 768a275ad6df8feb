"""Write every homework.py from the library's own source: signature and docstring stay, the body becomes steps to fill
in.

    python lessons/make_homework.py            all of them, and the table of points is theirs
"""

import ast
import inspect
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tasks  # noqa: E402, it lies beside this file


HEAD = '''"""Homework {lesson}: {points} points. To have it graded: python lessons/grade.py {lesson}

Each function raises NotImplementedError until you write it. A forward returns (y, cache), and its backward is given
that cache: keep in it what the backward needs. Arrays are float64 when graded, unless a task says otherwise. The
library's own versions are taken away while the grader runs; what you print is shown. To check a gradient yourself, as
lesson 4 does: from tinyddpm import gradcheck
"""'''


def homework(lesson):
    """The text of a lesson's homework.py."""
    points = sum(task.points for task in tasks.LESSONS[lesson])
    parts = [f"{HEAD.format(lesson=lesson, points=points)}\n\n{tasks.IMPORTS[lesson]}\n"]
    for task in tasks.LESSONS[lesson]:
        parts.append(f"\n# ---- {task.number} {task.title}: {task.points} point{'s' * (task.points > 1)} ----\n")
        for name in task.names:
            head = task.stubs.get(name) or opening(task.answers[name])
            steps = task.steps.get(name, ())
            body = "".join(textwrap.fill(f"{i}. {step}", 114, initial_indent="    # ", subsequent_indent="    #    ",
                                         break_on_hyphens=False) + "\n" for i, step in enumerate(steps, 1))
            parts.append(f'\n{head}\n{body}    raise NotImplementedError("{task.number} {name}")\n')
    question = textwrap.fill(tasks.OPEN[lesson][0], 110, break_on_hyphens=False, initial_indent="# ",
                             subsequent_indent="# ")
    parts.append("\n# ---- An open question, not graded. What a good answer contains: "
                 f"python lessons/grade.py {lesson} --open ----\n\n{question}\n")
    return "\n".join(parts).replace("\n\n\n\n", "\n\n\n")


def opening(function):
    """The source of a function up to the end of its docstring."""
    source = textwrap.dedent(inspect.getsource(function))
    first = ast.parse(source).body[0].body[0]
    return "\n".join(source.splitlines()[:first.end_lineno])


if __name__ == "__main__":
    for lesson in tasks.LESSONS:
        (tasks.folder(lesson) / "homework.py").write_text(homework(lesson))
