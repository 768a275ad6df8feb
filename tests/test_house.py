"""Imports run downwards only, no two files import each other, and only dispatch.py knows the kernels."""

import ast
import re
from pathlib import Path

import tinyddpm

ROOT = Path(tinyddpm.__file__).parent
LAYERS = [{"backend", "files", "gradcheck", "overrides", "progress"}, {"ops", "data", "plots", "safetensors"},
          {"kernels"},
          {"dispatch"}, {"nn"}, {"diffusion"}, {"sampling", "interop"}, {"presets"}, {"training", "evaluation"},
          {"figures", "cli", "codec"}, {"sampler_flags"}]


def imports(name, source, names):
    """The modules of `names` that a module imports, anywhere in its source."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & names
            found |= inner | ({node.module} if len(inner) < len(node.names) else set())
    return {module for module in found & names if module != name}


def wrong(sources):
    """The problems with the imports among these modules, name -> source."""
    graph = {name: imports(name, source, sources.keys()) for name, source in sources.items()}
    layer = {part: i for i, parts in enumerate(LAYERS) for part in parts}
    layer[""] = layer["dispatch"]                           # tinyddpm itself, which exports use
    part = lambda name: (name.split(".") + [""])[1]
    problems = []
    for name, targets in graph.items():
        for target in targets:
            if part(name) and part(name) != part(target) and not layer[part(target)] < layer[part(name)]:
                problems.append(f"{name} imports {target}, which does not lie below it")
        if part(name) not in ("kernels", "dispatch") and "tinyddpm.kernels" in sources[name]:
            problems.append(f"{name} knows the kernels")
    done, path = set(), []

    def visit(name):
        if name in path and not name.startswith("tinyddpm.ops"):
            problems.append(" -> ".join([*path[path.index(name):], name]))
        elif name not in done and name not in path:
            path.append(name)
            for target in sorted(graph[name]):
                visit(target)
            done.add(path.pop())
    for name in sorted(graph):
        visit(name)
    return problems


def library():
    def dotted(path):
        parts = ("tinyddpm", *path.relative_to(ROOT).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return {dotted(path): path.read_text() for path in ROOT.rglob("*.py")}


def test_imports_run_downwards_and_in_no_circle():
    assert wrong(library()) == []


def test_every_part_has_its_place():
    assert {name.split(".")[1] for name in library() if "." in name} == set().union(*LAYERS)


def test_what_is_wrong_would_be_found():
    house = library()
    upwards = house | {"tinyddpm.ops.linear": "def f():\n    from tinyddpm import nn"}
    assert wrong(upwards) == ["tinyddpm.ops.linear imports tinyddpm.nn, which does not lie below it"]
    circle = house | {"tinyddpm.data.mnist": "import tinyddpm.data.folder",
                      "tinyddpm.data.folder": "from tinyddpm.data import mnist"}
    assert wrong(circle) == ["tinyddpm.data.folder -> tinyddpm.data.mnist -> tinyddpm.data.folder"]
    secret = house | {"tinyddpm.nn.mlp": "from tinyddpm.kernels.cpu import conv"}
    assert wrong(secret) == ["tinyddpm.nn.mlp knows the kernels"]


def test_every_file_of_the_package_is_installed():
    """Those that are not Python match a pattern of pyproject.toml, and each pattern matches some."""
    text = (ROOT.parent / "pyproject.toml").read_text()
    patterns = re.findall(r'"([^"]+)"', re.search(r"^tinyddpm = \[(.*)\]$", text, re.MULTILINE)[1])
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    files = {path for path in ROOT.rglob("*")
             if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts}
    assert files == found and all(list(ROOT.glob(pattern)) for pattern in patterns)
