"""Write a lesson as a notebook for Jupyter or Colab.

    python lessons/notebook.py 07               07.ipynb in the current folder
    python lessons/notebook.py 07 --out FILE.ipynb

The text's code becomes cells in its place; the rest of the script follows, a cell for each of its paragraphs, with the
figures below; and then the homework. The first cell finds a clone of this repository, or makes one, and installs it.
"""

import ast
import base64
import json
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tasks

from tinyddpm import cli

SETUP = '''\
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = {repository!r}
root = next((p for p in [Path.cwd(), *Path.cwd().parents] if (p / "lessons/course.py").exists()), Path("tinyddpm"))
if not root.exists():
    assert REPOSITORY, "put this notebook into a clone of tinyddpm's repository, or the repository's address above"
    subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, str(root)], check=True)
if importlib.util.find_spec("numba") is None or importlib.util.find_spec("matplotlib") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", str(root)], check=True)
sys.path[:0] = [str(root.resolve()), str((root / "lessons").resolve())]'''
GRADE = '''\
print(subprocess.run([sys.executable, str(root / "lessons/grade.py"), "{lesson}", "--file", "homework.py"],
                     capture_output=True, text=True).stdout)'''


def notebook(lesson, repository):
    """A lesson as a notebook, a dict in the format nbformat 4.5. repository: where a notebook without a clone gets
    one"""
    folder = tasks.folder(lesson)
    source = (folder / "lesson.py").read_text()
    parts = {node: ast.get_source_segment(source, node) for node in ast.parse(source).body}
    main = next(node for node in parts if isinstance(node, ast.FunctionDef) and node.name == "main")
    imports = [parts[node] for node in parts if isinstance(node, (ast.Import, ast.ImportFrom))]
    left = [node for node in parts if not isinstance(node,
                                                     (ast.Import, ast.ImportFrom, ast.If,
                                                      ast.Expr)) and node is not main]
    text, cells = [], []
    for block in re.split(r"(```python\n.*?\n```\n)", (folder / "README.md").read_text(), flags=re.DOTALL):
        if not block.startswith("```python"):
            text.append(("markdown", as_markdown(block, folder, repository)))
            continue
        start = source.count("\n", 0, source.index(block[10:-5])) + 1
        stop = start + block.count("\n") - 3
        shown = [node for node in left if node.lineno <= stop and start <= node.end_lineno]
        left = [node for node in left if node not in shown]
        if shown:                               # a function in two parts comes whole, with the first of them
            text.append(("code", "\n\n\n".join(parts[node] for node in shown)))
        else:
            text.append(("markdown", block))
    before = next(i for i, (kind, _) in enumerate(text) if kind == "code")
    cells = [("code", SETUP.format(repository=repository)), *text[:before],
             ("code", "\n".join(imports) + "\n\n" + "\n\n\n".join(parts[node] for node in left)), *text[before:],
             ("markdown", "## The script\n\nIt computes what the text shows. With `quick=True` it does less of "
                          "everything.")]
    cells += [("code", paragraph) for paragraph in paragraphs(source, main)]
    cells += [("markdown", "## Homework\n\nWrite the functions, run the cell, and have it graded by the next one."),
              ("code", "%%writefile homework.py\n" + (folder / "homework.py").read_text().rstrip()),
              ("code", GRADE.format(lesson=lesson))]
    return {"nbformat": 4, "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "cells": [cell(i, *found) for i, found in enumerate(cells) if found[1].strip()]}


def cell(number, kind, text):
    found = {"cell_type": kind, "id": f"cell-{number}", "metadata": {},
             "source": text.strip("\n").splitlines(keepends=True)}
    return found if kind == "markdown" else {**found, "execution_count": None, "outputs": []}


def paragraphs(source, main):
    """The body of main() in pieces, split at the blank lines between its statements."""
    lines, pieces = source.splitlines(), []
    for node in main.body:
        first = node.lineno
        while lines[first - 2].lstrip().startswith("#"):        # a comment belongs to what follows
            first -= 1
        text = "\n".join(line[4:] for line in lines[first - 1:node.end_lineno])
        if pieces and lines[first - 2].strip():
            pieces[-1] += "\n" + text
        else:
            pieces.append(text)
    return [piece.replace("course.Lesson(__file__, __doc__)", "course.InNotebook(quick=False)") for piece in pieces]


def as_markdown(text, folder, repository):
    """A lesson's text with its pictures inside, its formulas between dollars, and links to the repository."""
    text = re.sub(r"\$`(.*?)`\$", r"$\1$", text)
    text = re.sub(r"```math\n(.*?)\n```", r"$$\n\1\n$$", text, flags=re.DOTALL)
    picture = lambda found: (f"![{found[1]}](data:image/{found[3]};base64,"
                             f"{base64.b64encode((folder / found[2]).read_bytes()).decode()})")
    text = re.sub(r"!\[([^]]*)\]\((figure\w*\.(png|gif))\)", picture, text)
    def link(found):
        place = (folder / found[2]).resolve().relative_to(tasks.HERE.parent)
        return f"[{found[1]}]({repository}/blob/main/{place})" if repository else found[1]
    return re.sub(r"(?<!!)\[([^]]*)\]\((?!http|data:)([^)#]+)\)", link, text)


def origin():
    """The address of the repository that this clone comes from, or None."""
    done = subprocess.run(["git", "-C", str(tasks.HERE), "remote", "get-url", "origin"], capture_output=True, text=True)
    address = done.stdout.strip().removesuffix(".git")
    return address if address.startswith("https://") else None


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    parser.add_argument("lesson", help="its number, such as 07")
    parser.add_argument("--out", metavar="FILE", help="default: NUMBER.ipynb in the current folder")
    parser.add_argument("--repository", metavar="URL", default=origin(),
                        help="where a notebook without a clone gets one (default: where this clone comes from)")
    args = parser.parse_args(argv)
    lesson = args.lesson.zfill(2)
    if lesson not in tasks.LESSONS:
        parser.error(f"no lesson {args.lesson}; there are {', '.join(tasks.LESSONS)}")
    out = cli.require_writable(parser, args, args.out or f"{lesson}.ipynb", ".ipynb")
    out.write_text(json.dumps(notebook(lesson, args.repository), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(out)
    return 0


if __name__ == "__main__":
    cli.program(main)
