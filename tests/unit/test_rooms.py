"""A test is in the folder that says what it needs: the table of CONTRIBUTING.md holds for all."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
KINDS = ("root", "eBPF", "daemon", "engine")
_ROW = re.compile(r"^\| `tests/(\w+)` \| ([^|]+) \|", re.MULTILINE)

# What a file that imports one of these, or something of it, takes.
IMPORTED = {
    "diffkeeper.sources.ebpf.loading": "eBPF",
    "diffkeeper.sources.ebpf.program": "eBPF",
    "tests.support.daemon": "daemon",
    "tests.docker": "engine",
}
# Programs that root alone can run to an end, where they are the first word of a command, or in
# the text of a script; and calls and files that are for root alone.
_PROGRAMS = {"mount", "umount", "unshare", "nsenter", "chroot", "losetup", "chattr", "setpriv"}
_SCRIPT = re.compile(r"\b(u?mount|unshare|chroot|nsenter) ([-/]|$)|cgroup\.procs")
_CALLS = frozenset({"geteuid", "chroot", "mknod", "lchown", "unshare", "setns"})


def modules(tree: ast.AST) -> set[str]:
    """Every module that is imported, and `MODULE.NAME` of what is imported from one."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def takes_root(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _CALLS
    if isinstance(node, ast.List) and node.elts and isinstance(node.elts[0], ast.Constant):
        return node.elts[0].value in _PROGRAMS
    return isinstance(node, ast.Constant) and bool(_SCRIPT.search(str(node.value)))


@cache
def needs(source: str) -> frozenset[str]:
    """What a test file takes, by its text and by that of the helpers that it imports."""
    tree = ast.parse(source)
    found = {"root"} if any(takes_root(node) for node in ast.walk(tree)) else set()
    for name in modules(tree):
        found |= {kind for module, kind in IMPORTED.items() if f"{name}.".startswith(f"{module}.")}
        path = TESTS.parent.joinpath(*name.split(".")[:3]).with_suffix(".py")
        if name.startswith("tests.") and path.is_file():
            found |= needs(path.read_text())
    return frozenset(found)


def rooms() -> dict[str, set[str]]:
    """The table: a folder, and which kinds it names."""
    text = (TESTS.parent / "CONTRIBUTING.md").read_text()
    return {
        folder: {kind for kind in KINDS if re.search(rf"\b{kind}\b", what)}
        for folder, what in _ROW.findall(text)
    }


# All but this one, which has samples of what needs something.
FILES = sorted(
    str(path.relative_to(TESTS))
    for path in TESTS.rglob("test_*.py")
    if path.name != Path(__file__).name
)


def test_each_folder_with_tests_is_in_the_table() -> None:
    assert {Path(file).parts[0] for file in FILES} <= rooms().keys()
    assert rooms()["unit"] == rooms()["property"] == set()


@pytest.mark.parametrize("file", FILES)
def test_it_needs_no_more_than_its_folder_says(file: str) -> None:
    assert needs((TESTS / file).read_text()) <= rooms()[Path(file).parts[0]]


@pytest.mark.parametrize(
    ("source", "kinds"),
    [
        ('run(["mount", "--bind", a, b])', {"root"}),
        ('SCRIPT = """\nset -e\nmount --bind a b\n"""', {"root"}),
        ('script = f"umount {seen} && {run}"', {"root"}),
        ('Path(cgroup, "cgroup.procs").write_text(pid)', {"root"}),
        ("skipif(os.geteuid() != 0)", {"root"}),
        ("from tests.support.containers import Container", {"root"}),
        ("from tests.support import disks", {"root"}),
        ("from diffkeeper.sources.ebpf.program import Program", {"eBPF"}),
        ("from diffkeeper.sources.ebpf import loading", {"eBPF"}),
        ("from tests.support.daemon import Daemon", {"root", "daemon"}),
        ("from tests.docker.managed import ManagedPlugin", {"root", "engine"}),
        ("from tests.support.capture_rig import CaptureRig", set()),
        ("from diffkeeper.sources.ebpf.probe import Sources", set()),
        ('daemon.ok("mount"); life = ("mount", "umount")', set()),
    ],
)
def test_what_is_noticed(source: str, kinds: set[str]) -> None:
    assert needs(source) == kinds
