"""docs/concurrency.md names every lock, thread, pool and task of the package, and no others."""

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
DOCUMENT = PACKAGE.parents[1] / "docs" / "concurrency.md"
MADE = {
    *("threading.Lock", "threading.RLock", "threading.Condition", "threading.Event"),
    *("threading.Semaphore", "threading.Thread", "threading.Timer", "threading.local"),
    *("asyncio.Lock", "asyncio.Semaphore", "asyncio.Event", "asyncio.Condition"),
    *("ThreadPoolExecutor", "ProcessPoolExecutor"),
}
BEGUN = {"create_task", "spawn"}  # the task is called as what it runs
STEP = "service/threads.py"  # the one way from the event loop into a pool
STEPS = {"within", "begun", "run"}  # what takes a function to its thread
UNCHECKED = ("partial(", "functools.partial(", "lambda")
DEFAULT_POOL = "to_thread"  # asyncio's own threads, called as this
# `freeze/guard_main.py` is a process of its own, with one thread.
ALONE = "freeze/guard_main.py"


def found_in(source: str) -> Iterator[str]:
    """Names of what one module makes: attributes, variables, or functions that are made tasks."""
    tree = ast.parse(source)
    outer: dict[ast.AST, str] = {}
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            outer[child] = outer.get(node, "")
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                outer[child] = node.name
    assigned = {
        id(inner): target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in [node.targets[0] if isinstance(node, ast.Assign) else node.target]
        for inner in [node.value]
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == DEFAULT_POOL:
            yield DEFAULT_POOL
        if not isinstance(node, ast.Call):
            continue
        # What a field of a data class is made by is no call yet.
        for keyword in node.keywords:
            if keyword.arg == "default_factory" and ast.unparse(keyword.value) in MADE:
                target = assigned.get(id(node))
                yield target.id if isinstance(target, ast.Name) else outer[node]
        if ast.unparse(node.func) in MADE:
            target = assigned.get(id(node))
            if isinstance(target, ast.Attribute):
                yield target.attr
            elif isinstance(target, ast.Name) and target.id != "pool":
                yield target.id
            else:
                yield outer[node]
        elif isinstance(node.func, ast.Attribute) and node.func.attr in BEGUN and node.args:
            step = node.args[0]
            called = step.func if isinstance(step, ast.Call) else step
            yield called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)


def in_the_package() -> set[tuple[str, str]]:
    return {
        (module, name)
        for path in PACKAGE.rglob("*.py")
        if (module := str(path.relative_to(PACKAGE))) != ALONE
        for name in found_in(path.read_text())
    }


def in_the_document() -> set[tuple[str, str]]:
    """`module.py` followed by names in backticks, up to the end of its line or the next module."""
    told: set[tuple[str, str]] = set()
    for line in DOCUMENT.read_text().splitlines():
        module = ""
        for word in re.findall(r"`([^`]*)`", line):
            if re.fullmatch(r"[a-z_/]+\.py", word):
                module = word
            elif module and re.fullmatch(r"[a-z_]+", word):
                told.add((module, word))
    return told


def detours(source: str) -> list[str]:
    """Calls that go to a pool beside `within`, or whose arguments mypy does not check there."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = [call for call in calls if ast.unparse(call.func).endswith(".run_in_executor")]
    for call in calls:
        if ast.unparse(call.func).rpartition(".")[2] in STEPS:
            found += [call for a in call.args[1:2] if ast.unparse(a).startswith(UNCHECKED)]
    return [ast.unparse(call) for call in found]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_steps_into_threads_are_typed(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) != STEP:
        assert detours(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("async def f(): await loop.run_in_executor(pool, g)", True),
        ("async def f(): await within(pool, partial(g, 1))", True),
        ("async def f(): await within(pool, functools.partial(g, 1))", True),
        ("async def f(): await self.slots.run(True, lambda: g(1))", True),
        ("async def f(): await within(pool, g, 1, key=lambda x: x)", False),
        ("async def f(): await within(pool, g, 1, lambda: 2)", False),
    ],
)
def test_what_is_a_detour(source: str, is_one: bool) -> None:
    assert bool(detours(source)) is is_one


def test_all_are_told() -> None:
    assert in_the_package() - in_the_document() == set()


def test_what_is_told_is_there() -> None:
    assert in_the_document() - in_the_package() == set()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import threading\nclass A:\n    def f(self):\n        self._x = threading.Lock()", "_x"),
        ("import threading\n_y = threading.RLock()", "_y"),
        ("def f():\n    with ThreadPoolExecutor(2) as pool: pass", "f"),
        ("class A:\n    def f(self): asyncio.create_task(self._go())", "_go"),
        ("class A:\n    def f(self): self._tasks.spawn(self._more(1))", "_more"),
        ("class A:\n    x: L = field(default_factory=threading.Lock)", "x"),
        ("async def f(): await asyncio.to_thread(g)", "to_thread"),
        ("class A(threading.local): pass\ndef g(): a.b = threading.Event()", "b"),
    ],
)
def test_what_counts(source: str, name: str) -> None:
    assert list(found_in(source)) == [name]
