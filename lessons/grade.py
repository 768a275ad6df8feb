"""Grade a homework.

    python lessons/grade.py 06                              lessons/06_convolution/homework.py
    python lessons/grade.py 06 --file mine.py --json results.json

Each task runs in a process of its own, with a time limit: an endless loop or a crash costs that task alone. The process
only computes; what it returns is compared here, with two seeds, one of them hidden. results.json is what Gradescope reads.
"""

import argparse
import ast
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import tasks                                            # noqa: E402, it lies beside this file

VISIBLE_SEED, HIDDEN_SEED = 1, 9241
SECONDS = 10                    # for a task
TOLERANCE = 1e-6                # of the largest value
MODULES = {"numpy", "math", "functools", "itertools", "collections", "dataclasses", "typing", "__future__", "tinyddpm"}
FORBIDDEN = {"exec", "eval", "compile", "open", "globals", "breakpoint", "input", "importlib", "sys", "os", "inspect", "ctypes",
             "ctypeslib", "f2py", "subprocess", "builtins", "kernels", "load", "fromfile", "memmap"}


def main(argv):
    if argv[:1] == ["--child"]:
        return child(*argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("lesson", help="its number, such as 06")
    parser.add_argument("--file", metavar="PATH", help="the homework (default: homework.py of the lesson)")
    parser.add_argument("--json", metavar="FILE", help="where to write the results for Gradescope")
    parser.add_argument("--hidden-seed", type=int, default=HIDDEN_SEED, metavar="N", help="a teacher may choose another")
    args = parser.parse_args(argv)
    lesson = args.lesson.zfill(2)
    if lesson not in tasks.LESSONS:
        parser.error(f"no lesson {args.lesson}; there are {', '.join(tasks.LESSONS)}")
    path = Path(args.file) if args.file else tasks.folder(lesson) / "homework.py"
    if not path.is_file() and not args.json:                # Gradescope wants a result, and learns it from look()
        parser.error(f"{path} does not exist")
    if args.hidden_seed < 0 or args.hidden_seed == VISIBLE_SEED:
        parser.error(f"--hidden-seed {args.hidden_seed}: expected 0 or more, and not {VISIBLE_SEED}, the visible one")
    if args.json and not Path(args.json).resolve().parent.is_dir():
        parser.error(f"--json {args.json}: its folder does not exist")
    results = grade(lesson, path, args.hidden_seed, progress=show)
    print(f"{results['score']:g} of {results['max_score']:g} points")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0


def grade(lesson, path, hidden_seed=HIDDEN_SEED, progress=lambda *_: None):
    """The results for a homework, in the fields of Gradescope's results.json."""
    refused, entries = look(path), []
    for task in tasks.LESSONS[lesson]:
        seeds = VISIBLE_SEED, hidden_seed
        found = [refused] * 2 if refused else run(task, path, seeds)
        for problem, visibility in zip(found, ("visible", "hidden")):
            entries.append({"name": f"{task.title} ({visibility} seed)", "number": f"{task.number}.{len(entries) % 2 + 1}",
                            "score": 0 if problem else task.points / 2, "max_score": task.points / 2,
                            "status": "failed" if problem else "passed", "visibility": visibility, "output": problem or "right"})
        progress(task, entries[-2:])
    return {"score": sum(e["score"] for e in entries), "max_score": sum(e["max_score"] for e in entries), "tests": entries}


def show(task, entries):
    """A task's points, and what to do about those that are missing; a hidden seed's numbers stay hidden."""
    visible, hidden = entries
    print(f"{task.number}  {task.title:48} {visible['score'] + hidden['score']:4g} of {task.points}")
    if visible["score"] == 0:
        print(f"     {visible['output']}")
    elif hidden["score"] == 0:
        print("     right for the visible seed, wrong for the hidden one: does it depend on these shapes or values?")


def look(path):
    """What in the file's text forbids to run it, or None."""
    if not path.is_file():
        return f"{path.name} was not handed in"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else error
        return f"{path.name} is no Python: {where}"
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        for module in [node.module or "."] if isinstance(node, ast.ImportFrom) else names:
            if module.split(".")[0] not in MODULES:
                return f"{path.name} imports {module} in line {node.lineno}; a homework may import {', '.join(sorted(MODULES - {'__future__'}))}"
        names += [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
        for name in (part for name in names for part in name.split(".")):
            if name in FORBIDDEN or name.startswith("__") and name not in ("__name__", "__future__"):
                return f"{path.name} uses {name} in line {node.lineno}, which a homework may not"
    return None


def run(task, path, seeds):
    """What is wrong with a task of a homework for each of the seeds; None where it is right."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", str(HERE / "grade.py"), "--child", task.number, str(path.resolve()),
                   out, *map(str, seeds)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL, cwd=out)
        except subprocess.TimeoutExpired:
            return [f"not ready after {SECONDS} seconds: an endless loop?"] * len(seeds)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            return [f"the process ended with status {done.returncode}: {last}"] * len(seeds)
        return [compare(task, seed, *read(Path(out), seed)) for seed in seeds]


def child(number, path, out, *seeds):
    """In a process of its own: compute a task's results with the functions of the homework, the library's answers taken away."""
    task = tasks.find(number)
    tasks.take_away(number)
    module, trouble = None, None
    try:
        spec = importlib.util.spec_from_file_location("homework", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except BaseException as error:                      # SystemExit too
        trouble = f"it cannot be imported: {describe(error)}"
    for seed in seeds:
        problem, arrays = (trouble, {}) if trouble else collect(task, module, int(seed))
        np.savez(Path(out) / f"{seed}.npz", **{str(i): a for i, a in enumerate(arrays.values())})
        (Path(out) / f"{seed}.json").write_text(json.dumps({"problem": problem, "labels": list(arrays)}))
    return 0


def collect(task, functions, seed):
    """(what went wrong or None, label -> array) of the task's check with these functions."""
    missing = [name for name in task.names if not hasattr(functions, name)]
    if missing:
        return f"there is no function {missing[0]}", {}
    arrays = {}
    try:
        for label, value in task.check(functions, np.random.default_rng(seed)):
            a = np.asarray(value)
            if a.dtype.kind not in "fiub":
                return f"{label}: got {type(value).__name__}; expected numbers", arrays
            arrays[label] = a
    except NotImplementedError as error:
        return f"not written yet: {error}", arrays
    except BaseException as error:
        return describe(error), arrays
    return None, arrays


def describe(error):
    """The error, and the line of the homework where it happened."""
    line, trace = "", error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename.endswith(".py") and trace.tb_frame.f_globals.get("__name__") == "homework":
            line = f" (line {trace.tb_lineno} of the homework)"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{line}"


def read(out, seed):
    """What a child left, without believing its form."""
    try:
        found = json.loads((out / f"{seed}.json").read_text())
        with np.load(out / f"{seed}.npz", allow_pickle=False) as arrays:
            return found["problem"], {label: arrays[str(i)] for i, label in enumerate(found["labels"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"the process left no results ({type(error).__name__})", {}


def compare(task, seed, problem, got):
    """None if all results are right, else the first that is not, in words that help."""
    for label, expected in task.check(SimpleNamespace(**task.answers), np.random.default_rng(seed)):
        if label not in got:
            return problem or f"{label} is missing"
        expected, mine = np.asarray(expected, np.float64), got[label]
        if mine.shape != expected.shape:
            return f"{label}: got shape {mine.shape}; expected {expected.shape}"
        if expected.size == 0:
            continue
        with np.errstate(all="ignore"):
            difference = np.nan_to_num(np.abs(mine.astype(np.float64) - expected), nan=np.inf, posinf=np.inf)
        if not difference.max() <= TOLERANCE * max(np.abs(expected).max(), 1e-3):
            worst = tuple(int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
            return (f"{label}, shape {expected.shape}: worst at index {worst}: expected {expected[worst]:.6g}, got {mine[worst]:.6g}"
                    if expected.ndim else f"{label}: expected {expected:.6g}, got {mine:.6g}")
    return problem


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
