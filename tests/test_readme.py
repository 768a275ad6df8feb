"""The README is correct: its equation index, its code, its links."""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyddpm import ops

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
INDEX = re.findall(r"^\| ((?:Eq\.|Algorithm) [\d-]+) \| .* \| `([\w.]+)` \|$", README, re.MULTILINE)


def resolve(name):
    """The function or class of a dotted name. Raises AttributeError for a name that does not exist."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for part in parts[i:]:
            found = inspect.getattr_static(found, part)
        return getattr(found, "func", getattr(found, "fget", found))            # of a cached or plain property
    raise AttributeError(name)


def test_the_index_is_found():
    assert {"Eq. 1", "Eq. 2", "Eq. 4", "Eq. 6", "Eq. 7", "Eq. 11", "Eq. 14", "Eq. 15", "Algorithm 1",
            "Algorithm 2"} <= {e for e, _ in INDEX}


@pytest.mark.parametrize("equation, name", INDEX)
def test_every_indexed_function_exists_and_cites_its_equation(equation, name):
    assert re.search(re.escape(equation) + r"(?!\d)",
                     inspect.getsource(resolve(name))), f"{name} does not cite {equation}"


COMMANDS = re.findall(r"`examples/(\w+\.py) ([^`]+)`", README[README.index("## Equations"):])


def test_the_index_is_complete():
    """Eq. 1-16, Algorithms 1-4, Tables 1-4, Figures 3-15."""
    text = README[README.index("## Equations"):]
    rows = re.findall(r"^\| (Eq\.|Algorithm|Tables?|Figures?) ([^|]+) \|", text, re.MULTILINE)
    for kind, first, last in (("Eq", 1, 16), ("Algorithm", 1, 4), ("Table", 1, 4), ("Figure", 3, 15)):
        found = set()
        for row, numbers in rows:
            if row.startswith(kind):
                if "-" in numbers:
                    found |= set(range(*(int(n) + i for i, n in enumerate(numbers.split("-")))))
                found |= {int(n) for n in re.findall(r"\d+", numbers)}
        assert found == set(range(first, last + 1)), kind


@pytest.mark.parametrize("program, flags", COMMANDS)
def test_every_indexed_command_has_its_flags(program, flags):
    """The program knows every word of it: a flag, a choice or a preset."""
    spec = importlib.util.spec_from_file_location("program", ROOT / "examples" / program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit) as stopped, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyddpm.cli.use_backend", lambda *args: sys.exit("the flags are right"))
        module.main(flags.split())
    assert stopped.value.code == "the flags are right"


def test_a_wrong_entry_would_be_found():
    with pytest.raises(AttributeError):
        resolve("tinyddpm.diffusion.process.q_simple")


def test_the_operation_shown_is_the_operation():
    """The code block is the source without docstrings and argument checks."""
    block = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "def group_norm(" in b)
    strip = lambda text: [line.strip() for line in text.splitlines() if line.strip()]
    source = strip(inspect.getsource(ops.group_norm)) + strip(inspect.getsource(ops.group_norm_backward))
    rest = iter(source)
    assert all(line in rest for line in strip(block)), "the README's group_norm is not that of ops/norm.py"


def test_the_layout_names_every_file():
    text = README[README.index("## Layout"):README.index("## Backends")]
    names = {path.stem for path in (ROOT / "tinyddpm").rglob("*.py")} - {"__init__"}
    assert {name for name in names if not re.search(rf"`{name}`|`{name}\.py`|/{name}\.py`", text)} == set()


def test_the_check_shown_runs(capsys):
    block = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "print(check(" in b)
    np.random.seed(0)
    exec(block, {})
    assert float(capsys.readouterr().out) < 1e-7


@pytest.mark.parametrize("page", ["README.md", "examples/RESULTS.md"])
def test_links_lead_somewhere(page):
    """Files, and the headings of other pages."""
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", (ROOT / page).read_text())
    folder = (ROOT / page).parent
    assert links and all((folder / link).exists() for link, _ in links)
    for link, heading in links:
        if heading:
            titles = re.findall(r"^#+ (.*)$", (folder / link).read_text(), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles]
