"""Imports go down only, and each of the system's touchy corners is touched by one module."""

from __future__ import annotations

import ast
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
    "store": ("format", *BASE),
    "capture": ("format", *BASE),
    "freeze": ("format", *BASE),
    "engine": ("store", "capture", "freeze", "format", *BASE),
    "volumes": ("engine", "store", "capture", "freeze", "format", *BASE),
    "api": ("volumes", *BASE),
    "daemon": ("api", "volumes", *BASE),
    "cli": ("daemon", "api", "volumes", "engine", "format", *BASE),
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
        ("store/store.py", "from diffkeeper.capture import scan"),
        ("format/chunk.py", "import diffkeeper.store.store"),
        ("api/driver.py", "from diffkeeper import engine"),
        ("daemon/serve.py", "from diffkeeper.cli.main import main"),
        ("engine/replay.py", "def f():\n    from diffkeeper.volumes import model"),
        ("engine/replay.py", "import time"),
        ("engine/replay.py", "from time import sleep"),
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
            "engine/replay.py",
            "from diffkeeper.store import store\nfrom diffkeeper import clock",
        ),
        ("clock.py", "import time"),
        ("fsio/durable.py", "import os\nos.rename('a', 'b')"),
        ("cli/commands.py", "import os\nos.environ['X']"),
        ("daemon/config.py", "import os\nos.environ['X']"),
    ],
)
def test_the_rules_can_pass(module: str, source: str) -> None:
    assert problems(source, module) == []
