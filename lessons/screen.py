"""What a homework may contain: it is read before it is run.

The grader compares numbers in a process that the homework cannot reach; this keeps a homework from reaching the
library's answers, and from doing anything but computing. It is no jail: a list of what is forbidden is never complete.
"""

import ast

MODULES = {"numpy", "math", "itertools"}
FROM = {"functools": {"reduce", "partial"}, "collections": {"namedtuple", "defaultdict", "deque", "Counter"},
        "dataclasses": {"dataclass", "field"}, "typing": {"NamedTuple", "Any", "Callable"},
        "__future__": {"annotations"},
        "numpy": None, "math": None, "itertools": None,                                  # None: all
        "tinyddpm.backend": {"array_module", "to_numpy"}, "tinyddpm": {"gradcheck"}, "tinyddpm.gradcheck": {"check"}}
NAMES = {"exec", "eval", "compile", "open", "globals", "locals", "vars", "dir", "getattr", "setattr", "delattr",
         "breakpoint"}
OF_NUMPY = {"lib", "testing", "load", "loads", "save", "savez", "savez_compressed", "savetxt", "loadtxt", "genfromtxt",
            "fromregex", "fromfile",
            "tofile", "dump", "dumps", "memmap", "DataSource", "f2py", "ctypeslib", "core", "get_type_hints",
            "attrgetter", "methodcaller"}
DOORS = {"sys", "os", "posix", "nt", "io", "pathlib", "importlib", "inspect", "builtins", "ctypes", "subprocess",
         "multiprocessing", "threading",
         "pickle", "marshal", "runpy", "code", "codeop", "gc", "types", "operator", "weakref", "traceback", "pkgutil",
         "linecache", "ast", "shutil"}
OF_FRAMES = ("_", "f_", "gi_", "cr_", "ag_", "tb_", "co_")


def problem(source, name, imports):
    """Why the source, bytes, of the file `name` must not be run; None where it may. imports: the first lines of its
    stub."""
    try:
        tree = ast.parse(source)                        # bytes, so that a coding line counts as it does when it is run
    except (RecursionError, MemoryError):
        return f"{name} is no Python: nested too deeply"
    except SyntaxError as error:
        return f"{name} is no Python: line {error.lineno}: {error.msg}"
    except ValueError as error:
        return f"{name} is no Python: {error}"
    allowed = {module: set(names) if names else None for module, names in FROM.items()}
    for node in ast.walk(ast.parse(imports)):
        if isinstance(node, ast.ImportFrom):
            allowed.setdefault(node.module, set()).update(a.name for a in node.names)
    for node in ast.walk(tree):
        what = wrong_import(node, allowed) or wrong_word(node)
        if what:
            return f"{name} {what} in line {node.lineno}, which a homework may not"
    return None


def wrong_import(node, allowed):
    if isinstance(node, ast.Import):
        return next((f"imports {a.name}" for a in node.names if a.name not in MODULES), None)
    if not isinstance(node, ast.ImportFrom):
        return None
    if node.module not in allowed:
        return f"imports {node.module}"
    names = allowed[node.module]
    return next((f"imports {a.name} from {node.module}" for a in node.names
                 if a.name == "*" or names is not None and a.name not in names or a.name in OF_NUMPY), None)


def wrong_word(node):
    if isinstance(node, ast.Name) and (node.id in NAMES or node.id.startswith("__")
                                       and node.id not in ("__name__", "__all__")):
        return f"uses {node.id}"
    words = ([node.attr] if isinstance(node, ast.Attribute)
             else node.kwd_attrs if isinstance(node, ast.MatchClass) else [])
    for word in words:
        if word in OF_NUMPY | DOORS | NAMES or word.startswith(OF_FRAMES):
            return f"uses .{word}"
    if (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
            and node.value.id in ("np", "numpy", "math")):
        return f"assigns to {ast.unparse(node)}"
    return None
