"""Imports go down only, and each of the system's touchy corners is touched by one module."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diffkeeper

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(diffkeeper.__file__).parent
BASE = ("fsio", "hashing", "clock", "errors", "limits", "failpoint", "counters", "memory")
# A module may import from its own layer and from those that its row names.
ALLOWED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(BASE, BASE),
    "format": BASE,
    "messages": BASE,
    "store": ("format", *BASE),
    "sources": BASE,
    "freeze": BASE,
    "snapshot": ("store", "sources", "freeze", "format", *BASE),
    "replay": ("snapshot", "store", "format", *BASE),
    "integrity": ("messages", "snapshot", "store", "format", *BASE),
    "space": ("messages", "replay", "snapshot", "store", "format", *BASE),
    "transfer": ("space", "replay", "store", "format", *BASE),
    # One volume, then all histories, then the daemon's volumes together.
    "volumes": (
        *("space", "integrity", "replay", "snapshot", "store", "sources", "freeze", "format"),
        *("messages", *BASE),
    ),
    "history": ("messages", "volumes", "snapshot", "store", "format", *BASE),
    "service": (
        *("history", "volumes", "transfer", "space", "integrity", "snapshot", "store", "sources"),
        *("freeze", "format", "messages", *BASE),
    ),
    "api": ("messages", "service", "history", "volumes", *BASE),
    "daemon": ("api", "service", "volumes", *BASE),
    "cli": (
        "messages",
        "daemon",
        "api",
        "service",
        "volumes",
        "transfer",
        "replay",
        "format",
        *BASE,
    ),
    "__init__": (),
    "__main__": ("cli",),
}
# Attribute or function -> the one place that may use it.
OWNED = {
    "os.fsync": "fsio",
    "os.fdatasync": "fsio",
    "os.sync": "fsio",
    "os.rename": "fsio",
    "os.renames": "fsio",
    "os.replace": "fsio",
    "shutil.move": "fsio",
}
# What reads it; `os.putenv` only tells a C library something.
ENVIRONMENT = ("os.environ", "os.environb", "os.getenv")
# In `limits.py`.
UNITS = ("KIB", "MIB", "GIB")
OF_THE_FORMAT = ("CHUNK_", "DIRECTORY_", "LINK_", "XATTR_", "FRAME_", "PACK_")
# `freeze/guard_main.py` runs alone, on the standard library only.
ALONE = ("freeze/guard_main.py",)


def modules() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def layer(module: str) -> str:
    return Path(module).parts[0].removesuffix(".py")


def imports(tree: ast.Module, module: str) -> Iterator[tuple[str, int]]:
    """Every imported name, absolute, and its line; those in functions and TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def problems(source: str, module: str) -> list[str]:
    """What the rules say against one module's source."""
    tree = ast.parse(source)
    own = layer(module)
    found: list[str] = []
    for name, line in imports(tree, module):
        parts = name.split(".")
        target = parts[1] if parts[0] == "diffkeeper" and len(parts) > 1 else own
        is_module = target in ALLOWED and target not in ("__init__", "__main__")
        if is_module and target != own and target not in ALLOWED[own]:
            found.append(f"{module}:{line} {own} imports {name}")
        if parts[0] in ("time", "datetime") and own != "clock":
            found.append(f"{module}:{line} reads clocks itself")
        if name in OWNED and own != OWNED[name]:
            found.append(f"{module}:{line} imports {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if name in OWNED and own != OWNED[name]:
                found.append(f"{module}:{node.lineno} calls {name}")
            if name in ENVIRONMENT and own != "cli" and module != "daemon/config.py":
                found.append(f"{module}:{node.lineno} reads the environment")
    return found


def references(source: str, module: str, known: set[str], *, typing: bool) -> set[str]:
    """The modules of `known` that one imports, by dotted names; `typing`: for annotations, too."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & known or {str(node.module)}
        unread = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if typing or not unread:
            pending.extend(ast.iter_child_nodes(node))
    return (found & known) - {module}


def circle(imported: dict[str, set[str]]) -> list[str]:
    """Modules that import each other round and round; none where there is no circle."""
    left = dict(imported)
    while done := [name for name, below in left.items() if not below & left.keys()]:
        for name in done:
            del left[name]
    # What is left leads to a circle, whichever way is gone.
    way: list[str] = []
    at = min(left, default="")
    while at and at not in way:
        way.append(at)
        at = min(left[at] & left.keys())
    return way[way.index(at) :] if at else []


def dotted(module: str) -> str:
    return ".".join(("diffkeeper", *Path(module).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("typing", [False, True])
def test_no_modules_import_each_other_in_a_circle(typing: bool) -> None:
    sources = {dotted(module): (PACKAGE / module).read_text() for module in modules()}
    known = set(sources)
    imported = {n: references(s, n, known, typing=typing) for n, s in sources.items()}
    assert len(imported["diffkeeper.store.store"]) > 5
    assert circle(imported) == []


def test_a_circle_is_found() -> None:
    sources = {
        "p.a": "from p import b",
        "p.b": "def f() -> None:\n    import p.c",
        "p.c": "if TYPE_CHECKING:\n    from p.a import A",
        "p.d": "from p.a import A",
    }
    assert (
        circle({n: references(s, n, set(sources), typing=False) for n, s in sources.items()}) == []
    )
    found = circle({n: references(s, n, set(sources), typing=True) for n, s in sources.items()})
    assert sorted(found) == ["p.a", "p.b", "p.c"]


def classes(sources: dict[str, str]) -> dict[str, list[str]]:
    """Each class's name, wherever it is defined, with the modules that define it."""
    found: dict[str, list[str]] = {}
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    return found


def test_a_class_name_means_one_thing() -> None:
    found = classes({module: (PACKAGE / module).read_text() for module in modules()})
    assert len(found) > 100
    assert {name: where for name, where in found.items() if len(where) > 1} == {}


def test_a_class_name_that_means_two_things_is_found() -> None:
    assert classes({"a.py": "class A: ...", "b.py": "def f():\n    class A: ..."}) == {
        "A": ["a.py", "b.py"]
    }


def test_no_package_is_above_itself() -> None:
    """What a package may import never leads back to it."""
    above = {name: set(below) - {name} - set(BASE) for name, below in ALLOWED.items()}
    assert circle({name: below & set(ALLOWED) for name, below in above.items()}) == []


@pytest.mark.parametrize("module", [m for m in modules() if m not in ALONE])
def test_imports_go_down(module: str) -> None:
    assert layer(module) in ALLOWED, f"{module} is in no known layer"
    assert problems((PACKAGE / module).read_text(), module) == []


@pytest.mark.parametrize("module", ALONE)
def test_the_guard_needs_nothing_of_the_package(module: str) -> None:
    names = [name for name, _ in imports(ast.parse((PACKAGE / module).read_text()), module)]
    assert not [name for name in names if name.split(".")[0] == "diffkeeper"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("store/store.py", "from diffkeeper.sources import scan"),
        ("volumes/volume.py", "from diffkeeper.history.trash import Trash"),
        ("snapshot/scanner.py", "from diffkeeper.replay import replay"),
        ("format/chunk.py", "import diffkeeper.store.store"),
        ("api/driver.py", "from diffkeeper import snapshot"),
        ("daemon/serve.py", "from diffkeeper.cli.main import main"),
        ("replay/replay.py", "def f():\n    from diffkeeper.volumes import status"),
        ("replay/replay.py", "import time"),
        ("replay/replay.py", "from time import sleep"),
        ("store/store.py", "import os\nos.fsync(1)"),
        ("store/store.py", "from os import rename"),
        ("api/server.py", "import os\nos.environ['X']"),
        ("daemon/serve.py", "import os\nos.getenv('X')"),
    ],
)
def test_the_rules_can_fail(module: str, source: str) -> None:
    assert problems(source, module) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "replay/replay.py",
            "from diffkeeper.store import store\nfrom diffkeeper import clock",
        ),
        ("clock.py", "import time"),
        ("fsio/durable.py", "import os\nos.rename('a', 'b')"),
        ("cli/connection.py", "import os\nos.environ['X']"),
        ("daemon/config.py", "import os\nos.environ['X']"),
    ],
)
def test_the_rules_can_pass(module: str, source: str) -> None:
    assert problems(source, module) == []


def test_limits_are_shared_and_have_a_reason() -> None:
    """What only one module uses is there, but for what is part of the format."""
    lines = (PACKAGE / "limits.py").read_text().splitlines()
    bounds = {line.split(" = ")[0]: line for line in lines if re.match("[A-Z][A-Z_]* = ", line)}
    sources = [(PACKAGE / name).read_text() for name in modules() if name != "limits.py"]
    for name, line in bounds.items():
        if name in UNITS:
            continue
        assert "  # " in line, f"{name} has no reason"
        users = sum(re.search(rf"\b{name}\b", source) is not None for source in sources)
        assert users > 1 or name.startswith(OF_THE_FORMAT), f"{name} is used by {users} modules"
