"""The lessons: every script runs, and the text beside it shows what it does."""

import ast
import importlib.util
import os
import re
import runpy
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from tinyddpm import presets
from tinyddpm.training import Trainer, save_checkpoint

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "lessons"))

import notebook  # noqa: E402, it lies in lessons
import plays  # noqa: E402
import tasks  # noqa: E402

LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*"))
MAP = (ROOT / "lessons" / "README.md").read_text()


def figures():
    return {path: path.stat().st_mtime_ns for folder in LESSONS for path in folder.glob("*.[pg][ni][gf]")}


FIGURES = figures()                                             # as they are before any script runs


@pytest.fixture(scope="module")
def runs(pytestconfig):
    """The CompletedProcess of each script with --quick; conftest.py starts them."""
    found = {folder.name: pytestconfig.beside.result(folder.name) for folder in LESSONS}
    assert figures() == FIGURES                                 # --quick leaves the committed figures alone
    return found


def text(folder):
    return (folder / "README.md").read_text()


def skeleton(line):
    """A line without its numbers, which --quick changes."""
    return re.sub(r"-?\d[\d.,]*(e[+-]?\d+)?", "#", line).strip()


@pytest.mark.parametrize("folder", LESSONS, ids=lambda folder: folder.name)
def test_a_script_runs(runs, folder):
    done = runs[folder.name]
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", LESSONS, ids=lambda folder: folder.name)
def test_the_code_in_the_text_is_the_scripts(folder):
    blocks = re.findall(r"```python\n(.*?)\n```", text(folder), re.DOTALL)
    script = (folder / "lesson.py").read_text()
    assert blocks and all(block in script for block in blocks), [block for block in blocks if block not in script]
    everything = re.findall(r"```(?:python|text|bash)\n(.*?)\n```", text(folder), re.DOTALL)
    assert max(len(line) for block in everything for line in block.splitlines()) <= 88          # nothing scrolls


@pytest.mark.parametrize("folder", LESSONS, ids=lambda folder: folder.name)
def test_the_output_in_the_text_is_printed(runs, folder):
    """Every line of it, except for its numbers: this run is a quick one."""
    printed = {skeleton(line) for line in runs[folder.name].stdout.splitlines()}
    shown = [line for block in re.findall(r"```text\n(.*?)\n```", text(folder), re.DOTALL)
             for line in block.splitlines()]
    assert shown and {skeleton(line) for line in shown} <= printed, {skeleton(line) for line in shown} - printed


@pytest.mark.parametrize("folder", LESSONS, ids=lambda folder: folder.name)
def test_every_figure_is_made_shown_and_small(folder):
    script = (folder / "lesson.py").read_text()
    committed = {path.name for path in folder.iterdir() if path.suffix in (".png", ".gif")}
    shown = set(re.findall(r"!\[[^]]+\]\((figure\w*\.(?:png|gif))\)", text(folder)))
    assert committed and committed == shown and all(f'"{name}"' in script for name in committed)
    assert all((folder / name).stat().st_size < 300_000 for name in committed)
    assert "figure_wrong.png" in shown or "## What can go wrong" in text(folder)


@pytest.mark.parametrize("folder", [*LESSONS, ROOT / "lessons"], ids=lambda folder: folder.name)
def test_links_lead_somewhere(folder):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text(folder)):
        assert (folder / link).exists(), link


@pytest.mark.parametrize("folder", LESSONS, ids=lambda folder: folder.name)
def test_a_lesson_has_its_parts(folder):
    for part in ("**The question.**", "## What can go wrong", "## Exercises", "## Where this lives in tinyddpm",
                 f"python lessons/grade.py {folder.name[:2]}"):
        assert part in text(folder), part
    assert (folder / "lesson.py").read_text().count("\n") <= 150


def test_the_points_are_those_of_the_homeworks():

    for folder in LESSONS:
        points = sum(task.points for task in tasks.LESSONS[folder.name[:2]])
        assert f"{points} points" in text(folder)
        row = next(line for line in MAP.splitlines() if f"({folder.name}/README.md)" in line)
        assert row.split("|")[-2].strip() == str(points), row


PLAYS = ["forward", "score", "walk", "guidance", "steps", "rate-distortion", "backprop", "solvers", "inpaint",
         "straighten", "unmask"]


def test_a_play_is_a_picture_where_there_is_no_display(tmp_path):
    """Each of them, and one as a page; two at a time."""
    def run(arguments):
        done = subprocess.run([sys.executable, ROOT / "lessons" / "play.py", *arguments],
                              capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"MPLBACKEND": "agg"})
        assert done.returncode == 0 and (tmp_path / done.stdout.strip()).stat().st_size > 5000, done.stderr
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, [*([name, "--out", f"{name}.png"] for name in PLAYS), ["backprop", "--html"]]))
    page = (tmp_path / "backprop.html").read_text()
    assert "http" not in page and "fa-" not in page and page.count("data:image/png") == 20       # one for each stage


def test_guidance_trades_diversity_for_fidelity():
    """The play's curve: from w = -1 on, samples are surer to be of the class, and spread less."""
    draw, _, weights, _ = plays.guidance(None)
    figure = Figure()
    draw(figure, 1.0)
    width, surely = figure.axes[1].lines[0].get_xydata().T
    assert np.all(np.diff(surely) > -1e-3) and np.all(np.diff(width) < 1e-2)
    at_one = list(weights).index(1.0)
    assert abs(width[at_one] - 1.2) < 0.05                          # w = 1 draws the class as it is


@pytest.mark.parametrize("folder", LESSONS, ids=lambda folder: folder.name)
def test_a_lesson_becomes_a_notebook(folder):
    """In nbformat's schema, where that is installed; with every line of the script, no formula in GitHub's way, no
    link."""
    made = notebook.notebook(folder.name[:2], None)
    code = ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]
    words = "\n".join("".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "markdown")
    assert "$`" not in words and "```math" not in words and not re.search(r"\]\((?!http|data:)", words)
    script = ast.parse((folder / "lesson.py").read_text())
    for node in script.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign)) and getattr(node, "name", "") != "main":
            assert sum(ast.unparse(node) in ast.unparse(ast.parse(text)) for text in code if "%%" not in text) == 1
    main = next(node for node in script.body if getattr(node, "name", "") == "main")
    assert not assigned(main.body) & assigned(script.body)          # as cells they share one namespace
    if importlib.util.find_spec("nbformat"):
        importlib.import_module("nbformat").validate(made)


def assigned(statements):
    """The names that statements give a value, outside of the functions in them."""
    found, left = set(), list(statements)
    while left:
        node = left.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif not isinstance(node, (ast.Lambda, ast.comprehension)):
            found |= {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
            left += [n for n in ast.iter_child_nodes(node)
                     if not isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp))]
    return found


def test_a_notebook_runs(tmp_path, monkeypatch, capsys):
    """Cell by cell in this process, as Jupyter would: figures are shown, numbers printed, the homework graded."""
    shown = []
    display = SimpleNamespace(Image=lambda path: path, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display, version_info=(9, 0),
                                                                get_ipython=lambda: None))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(notebook, "GRADE", notebook.GRADE.replace("homework.py", str(tmp_path / "homework.py")))
    monkeypatch.chdir(ROOT)                                         # in the clone, so that nothing is fetched
    names = {"__name__": "__main__"}
    with matplotlib.rc_context():
        for cell in notebook.notebook("04", None)["cells"]:
            code = "".join(cell["source"])
            if code.startswith("%%writefile"):
                (tmp_path / "homework.py").write_text(code.split("\n", 1)[1])
            elif cell["cell_type"] == "code":
                exec(code.replace("quick=False", "quick=True"), names)
    printed = {skeleton(line) for line in capsys.readouterr().out.splitlines()}
    expected = re.findall(r"```text\n(.*?)\n```", text(ROOT / "lessons" / "04_backpropagation"), re.DOTALL)
    assert {skeleton(line) for block in expected for line in block.splitlines()} <= printed
    assert [path.name for path in shown] == ["figure_graph.png", "figure_steps.png", "figure_wrong.png"]
    assert "# of # points" in printed


COMMANDS = [                # the arguments, the status, and what is said on stderr
    ("play.py", ["nothing"], 2, "invalid choice: 'nothing'"),
    ("play.py", ["forward", "--out", "x.jpg"], 2, ".png or .gif or .html"),
    ("play.py", ["forward", "--html", "--out", "x.png"], 2, ".html"),
    ("play.py", ["forward", "--out", "none/x.png"], 2, "existing folder"),
    ("play.py", ["walk", "--out", ""], 2, "is empty"),
    ("play.py", ["walk", "--checkpoint", "x"], 2, "does not belong"),
    ("play.py", ["steps", "--checkpoint", "none"], 2, "none does not exist"),
    ("play.py", ["steps", "--checkpoint", "few.png", "--out", "few.png"], 2, "an input (checkpoint)"),
    ("play.py", ["steps", "--checkpoint", "few.png", "--out", "a.png"], 0, ""),
    ("play.py", ["rate-distortion", "--checkpoint", "few.png", "--out", "b.png"], 0, ""),
    ("grade.py", ["01", "--json", "none/r.json"], 2, "does not exist"),
    ("grade.py", ["01", "--file", "mine.py", "--json", "mine.py"], 2, "this is the homework")]


@pytest.mark.parametrize("program, arguments, status, text", COMMANDS, ids=[" ".join(a) for _, a, *_ in COMMANDS])
def test_a_command_ends_as_it_should(tmp_path, monkeypatch, capsys, program, arguments, status, text):
    """In this process. few.png is a checkpoint of so few times that some defaults are too many."""
    save_checkpoint(tmp_path / "few.png", Trainer(presets.get("mnist").override(base_channels=8, groups=4, T=5)))
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "lessons" / program), run_name="__main__")
    error = capsys.readouterr().err
    assert ended.value.code == status and text in error and "Traceback" not in error, error


def test_readers_that_leave_and_ctrl_c():
    shell = subprocess.Popen(["bash", "-c",
                              f"set -o pipefail; {sys.executable} {ROOT}/lessons/grade.py 01 2>&- | head -1"],
                             stdout=subprocess.PIPE)
    lesson = subprocess.Popen([sys.executable, ROOT / "lessons" / "05_learning" / "lesson.py", "--quick"], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    lesson.stdout.readline()
    lesson.send_signal(signal.SIGINT)
    assert lesson.communicate()[1].splitlines()[-1] == "stopped" and lesson.returncode == 130
    assert b"1.1" in shell.communicate()[0] and shell.returncode == 0


def test_a_learners_convolution_trains_mnist(tmp_path):
    """Written in the lesson's homework file, whose other stubs stay, or in a separate file."""
    homework = (ROOT / "lessons" / "06_convolution" / "homework.py").read_text()
    mine = '''
def conv2d(x, w, b, stride=1, padding=None):
    kh, kw = w.shape[:2]
    pads = ((kh // 2, kh // 2), (kw // 2, kw // 2)) if padding is None else (padding, padding)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    H, W = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
    y = sum(padded[:, p:p + H:stride, q:q + W:stride] @ w[p, q] for p in range(kh) for q in range(kw)) + b
    return y, (x, w, stride, pads)


def conv2d_backward(dy, cache):
    x, w, stride, pads = cache
    kh, kw, C, K = w.shape
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    H, W = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
    for p in range(kh):
        for q in range(kw):
            place = np.s_[:, p:p + H:stride, q:q + W:stride]
            dw[p, q] = padded[place].reshape(-1, C).T @ dy.reshape(-1, K)
            dpadded[place] += dy @ w[p, q].T
    top, left = pads[0][0], pads[1][0]
    return dpadded[:, top:top + x.shape[1], left:left + x.shape[2]], dw, dy.sum(axis=(0, 1, 2))
'''
    stubs = homework[homework.index("# ---- 6.1"):homework.index("# ---- 6.2")]
    flags = ["--steps", "3", "--batch-size", "8", "--T", "3", "--backend", "numpy", "--base-channels", "8",
             "--groups", "4"]
    def train(name, content):
        (tmp_path / f"{name}.py").write_text(content)
        return name, subprocess.run([sys.executable, ROOT / "examples" / "train_mnist.py", "--ops", f"{name}.py",
                                     "--out", name, *flags], cwd=tmp_path, capture_output=True, text=True)
    with ThreadPoolExecutor(2) as pool:
        results = dict(pool.map(train, ("stubs", "mine", "only"),
                                (homework, homework.replace(stubs, mine), "import numpy as np\n" + mine)))
    assert results["mine"].returncode == results["only"].returncode == 0, results["mine"].stderr
    assert "conv2d, conv2d_backward of mine.py" in results["mine"].stdout and "upsample" not in results["mine"].stdout
    assert results["stubs"].returncode == 2 and "none that is written yet" in results["stubs"].stderr.splitlines()[-1]
