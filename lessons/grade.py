"""Grade a homework.

    python lessons/grade.py 06                              lessons/06_convolution/homework.py
    python lessons/grade.py 06 --file mine.py --json results.json
    python lessons/grade.py 06 --open                       the open question, and what a good answer contains

Each task runs in a process of its own, with a time limit: an endless loop or a crash costs that task alone. The process
only computes; what it returns is compared here, with two seeds, one of them hidden. results.json is what Gradescope
reads.
"""

import argparse
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import screen  # noqa: E402, they lie beside this file
import tasks  # noqa: E402

from tinyddpm import files  # noqa: E402

VISIBLE_SEED, HIDDEN_SEED = 1, 9241
SECONDS = 10                    # for a task
TOLERANCE = 1e-7                # of the largest value
LARGEST = 1_000_000             # numbers in a result
PRINTED = 2000                  # characters of what a task prints
MEMORY, FILE_SIZE = 8 * 2**30, 10**8        # bytes that a task may take


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("lesson", help="its number, such as 06")
    parser.add_argument("--file", metavar="PATH", help="the homework (default: homework.py of the lesson)")
    parser.add_argument("--json", metavar="FILE", help="where to write the results for Gradescope")
    parser.add_argument("--open", action="store_true", help="show the open question, and what a good answer contains")
    parser.add_argument("--hidden-seed", type=int, default=HIDDEN_SEED, metavar="N",
                        help="a teacher may choose another")
    args = parser.parse_args(argv)
    lesson = args.lesson.zfill(2)
    if lesson not in tasks.LESSONS:
        parser.error(f"no lesson {args.lesson}; there are {', '.join(tasks.LESSONS)}")
    if args.open:
        print("\n\n".join(textwrap.fill(text, 100, break_on_hyphens=False) for text in tasks.OPEN[lesson]))
        return 0
    path = Path(args.file) if args.file else tasks.folder(lesson) / "homework.py"
    if not path.is_file() and not args.json:                # Gradescope wants a result all the same
        parser.error(f"{path} does not exist")
    if args.hidden_seed < 0 or args.hidden_seed == VISIBLE_SEED:
        parser.error(f"--hidden-seed {args.hidden_seed}: expected 0 or more, and not {VISIBLE_SEED}, the visible one")
    if args.json is not None and (Path(args.json).is_dir() or not Path(args.json).resolve().parent.is_dir()):
        parser.error(f"--json {args.json}: its folder does not exist, or it is one")
    if args.json and path.exists() and Path(args.json).resolve() == path.resolve():
        parser.error(f"--json {args.json}: this is the homework")
    results = grade(lesson, path, args.hidden_seed, progress=show)
    print(f"{results['score']:g} of {results['max_score']:g} points")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0


def grade(lesson, path, hidden_seed=HIDDEN_SEED, progress=lambda *_: None):
    """The results for a homework, in the fields of Gradescope's results.json."""
    source, refused = read_source(path)
    refused, entries = refused or screen.problem(source, path.name, tasks.IMPORTS[lesson]), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:        # a process for each core, the results in the tasks' order
        running = []
        outcomes = pool.map(lambda task: [({"": refused}, "")] * 2 if refused
                            else run(task, source, (VISIBLE_SEED, hidden_seed), running), tasks.LESSONS[lesson])
        for task, outcome in zip(tasks.LESSONS[lesson], unless_stopped(outcomes, running)):
            for (found, printed), visibility in zip(outcome, ("visible", "hidden")):
                share = credit(found)
                entries.append({"name": f"{task.title} ({visibility} seed)",
                                "number": f"{task.number}.{len(entries) % 2 + 1}",
                                "score": round(share * task.points / 2, 2), "max_score": task.points / 2,
                                "status": "passed" if share == 1 else "failed", "visibility": visibility,
                                "output": report(task, found, printed)})
            progress(task, entries[-2:])
    return {"score": sum(e["score"] for e in entries), "max_score": sum(e["max_score"] for e in entries),
            "tests": entries}


def credit(found):
    """The share of a task's points, from part -> what is wrong with it or None.

    The functions, the first words of the parts, share the points equally, and a function's parts share its points;
    but a part called "errors" has a fifth of them, and only if the rest is right.
    """
    functions = {}
    for part, problem in found.items():
        function, _, what = part.partition(" ")
        functions.setdefault(function, {})[what] = problem is None
    shares = []
    for parts in functions.values():
        errors = parts.pop("errors", None)
        share = np.mean(list(parts.values()))
        shares.append(share if errors is None else 0.8 * share + 0.2 * (errors and share == 1))
    return float(np.mean(shares))


def report(task, found, printed):
    """For the learner: what is wrong with each part, a hint where to look, and what the task has printed."""
    lines = [f"{part}: right" if problem is None else problem for part, problem in found.items()]
    lines = ["right"] if credit(found) == 1 else list(dict.fromkeys(lines))            # a crash is said once
    lines += [f"hint, {part}: {task.hints[part]}" for part, problem in found.items() if problem and part in task.hints
              and not problem.startswith("not written")]
    return "\n".join(lines + ([f"printed:\n{printed}"] if printed else []))


def unless_stopped(found, processes):
    """The items of found; Ctrl-C meanwhile ends the processes too, which do not notice it themselves."""
    try:
        yield from found
    except KeyboardInterrupt:
        for process in processes:
            stop(process)
        raise


def show(task, entries):
    """A task's points, and what to do about those that are missing; a hidden seed's numbers stay hidden."""
    visible, hidden = entries
    print(f"{task.number}  {task.title:48} {visible['score'] + hidden['score']:4g} of {task.points}")
    if visible["status"] == "failed" or "printed:" in visible["output"]:
        print(textwrap.indent(visible["output"], "     "))
    if visible["score"] > hidden["score"]:
        print("     right for the visible seed, wrong for the hidden one: does it depend on these shapes or values?")


def read_source(path):
    """The bytes of the homework, or None and what is wrong."""
    try:
        with files.opened(path, "a Python file", FILE_SIZE) as file:
            return file.read(), None
    except FileNotFoundError:
        return None, f"{path.name} was not handed in"
    except (OSError, ValueError) as error:
        return None, f"{path.name} cannot be read: {error}"


def run(task, source, seeds, running):
    """For each of the seeds, what is wrong with the parts of a task (None where one is right), and what it printed.

    Adds the process to running. What it printed with a hidden seed stays hidden.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as out:
        (Path(out) / "homework.py").write_bytes(source)
        command = [sys.executable, str(HERE / "grade.py"), "--child", task.number, out, *map(str, seeds)]
        with open(Path(out) / "errors", "wb") as errors:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                                       cwd=out, start_new_session=True)
            running.append(process)
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            stop(process)
            return [({"": f"not ready after {SECONDS} seconds: an endless loop?"}, printed(Path(out)))] * len(seeds)
        if status:
            said = (Path(out) / "errors").read_bytes()[-2000:].decode(errors="replace")
            last = said.strip().splitlines() or ["no word"]
            return [({"": f"the process ended with status {status}: {last[-1]}"}, printed(Path(out)))] * len(seeds)
        return [(compare(task, seed, *read(Path(out), seed)),
                 printed(Path(out)) if seed == seeds[0] else "") for seed in seeds]


def printed(out):
    """What a child printed."""
    path = out / "printed"
    return path.read_text(errors="replace").rstrip() if path.exists() else ""


def stop(process):
    """End a process, with all that it has started where the system has groups of processes."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    process.wait()


def child(number, out, *seeds):
    """In a process of its own: compute a task's results with the functions of the homework, the library's answers
    taken away."""
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    except (ImportError, ValueError, OSError):          # Windows; a limit that is lower already
        pass
    sys.stdout = Printed(Path(out) / "printed")
    task, path = tasks.find(number), Path(out) / "homework.py"
    tasks.take_away(number)
    module, trouble = None, None
    try:
        spec = importlib.util.spec_from_file_location("homework", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except BaseException as error:                      # SystemExit too
        trouble = f"it cannot be imported: {describe(error)}"
    for seed in seeds:
        problem, results = (trouble, {}) if trouble else collect(task, module, int(seed))
        sys.stdout.closed_to_hidden_seeds()
        arrays = {label: a for label, a in results.items() if isinstance(a, np.ndarray)}
        np.savez(Path(out) / f"{seed}.npz", **{str(i): a for i, a in enumerate(arrays.values())})
        (Path(out) / f"{seed}.json").write_text(json.dumps(
            {"problem": problem, "labels": list(arrays),
             "errors": {k: v for k, v in results.items() if k not in arrays}}))
    return 0


class Printed(io.TextIOBase):
    """Where print() of a homework goes: the first characters into a file, at once, in case that the process is
    ended."""

    def __init__(self, path):
        self.file, self.left = open(path, "w"), PRINTED

    def write(self, text):
        self.file.write(text[:self.left])
        self.file.flush()
        self.left = max(0, self.left - len(text))
        return len(text)

    def closed_to_hidden_seeds(self):
        self.left = 0


def collect(task, functions, seed):
    """(what went wrong or None, label -> array, or a text for a result that could not be had) of the task's check."""
    missing = [name for name in task.names if not hasattr(functions, name)]
    if missing:
        return f"there is no function {missing[0]}", {}
    arrays = {}
    try:
        for label, value in results_of(task, functions, seed):
            if isinstance(value, Exception):
                arrays[label] = told(value)
                continue
            a = np.asarray(value)
            if a.dtype.kind not in "fiub" or a.size > LARGEST:
                return f"{label}: got {type(value).__name__}, {a.dtype} {a.shape}; expected numbers", arrays
            arrays[label] = a.copy()
    except BaseException as error:
        return told(error), arrays
    return None, arrays


def results_of(task, functions, seed):
    """The (label, result) of a task's check, with a number behind a label that was there before."""
    seen = Counter()
    for label, value in task.check(functions, np.random.default_rng(seed)):
        seen[label] += 1
        yield label if seen[label] == 1 else f"{label} ({seen[label]})", value


def told(error):
    return f"not written yet: {error}" if isinstance(error, NotImplementedError) else describe(error)


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
            results = {label: arrays[str(i)] for i, label in enumerate(found["labels"])}
            return found["problem"] and str(found["problem"]), results | {k: str(v) for k, v in found["errors"].items()}
    except Exception as error:                          # a damaged file has many of them
        return f"the process left no results ({type(error).__name__})", {}


def compare(task, seed, problem, got):
    """part -> the first thing that is wrong with it, in words that help, or None. problem: why results are missing"""
    found, count = {}, 0
    for label, expected in results_of(task, SimpleNamespace(**task.answers), seed):
        part, count = label.split(": ")[0] if ": " in label else "result", count + 1
        found[part] = found.get(part) or wrong(label, np.asarray(expected, np.float64), got.get(label), problem)
    if not problem and len(got) > count:
        found[part] = found[part] or f"{len(got)} results; expected {count}"
    return found


def wrong(label, expected, mine, problem):
    """What is wrong with a result, or None."""
    if mine is None:
        return problem or f"{label} is missing"
    if isinstance(mine, str):
        return mine
    if mine.shape != expected.shape:
        return f"{label}: got shape {mine.shape}; expected {expected.shape}"
    if expected.size == 0:
        return None
    mine = mine.astype(np.float64)
    with np.errstate(all="ignore"):
        difference = np.nan_to_num(np.abs(mine - expected), nan=np.inf, posinf=np.inf)
    limit = TOLERANCE * max(np.abs(expected).max(), 1e-3)
    if difference.max() <= limit:
        return None
    if not expected.ndim:
        return f"{label}: expected {expected:.6g}, got {mine:.6g}"
    worst = tuple(int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    return (f"{label}, shape {expected.shape}: worst at index {worst}: expected {expected[worst]:.6g}, "
            f"got {mine[worst]:.6g}{likeness(mine, expected, limit)}")


def likeness(mine, expected, limit):
    """How a wrong array resembles the right one, or nothing."""
    if not np.isfinite(mine).all():
        return "; not all of it is finite"
    if not mine.any():
        return "; all of it is 0"
    factor = (mine * expected).sum() / (expected**2).sum() if expected.any() else 1
    difference, near = mine - expected, lambda a: np.abs(a).max() <= 10 * limit
    if near(mine - factor * expected):
        wrong_sign = abs(factor + 1) < 1e-6
        return "; its sign is wrong" if wrong_sign else f"; all of it is {factor:.4g} times what it should be"
    if near(difference - difference.mean()):
        return f"; all of it is off by {difference.mean():.4g}"
    if expected.shape[-1] > 1 and near(difference - difference.mean(axis=-1, keepdims=True)):
        return "; each row (last axis) is off by one number: is a sum or a mean over it missing?"
    if expected.ndim > 1 and expected.shape[-1] == expected.shape[-2] and near(mine.swapaxes(-1, -2) - expected):
        return "; it is transposed"
    return ""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(*sys.argv[2:]))
    from tinyddpm import cli

    cli.program(main)
