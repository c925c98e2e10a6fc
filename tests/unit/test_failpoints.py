"""Every failpoint in the source is one that can be armed, and some test kills a process there."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diffkeeper
from diffkeeper import failpoint
from diffkeeper.volumes.lifecycle import Event
from tests.support import killed

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(diffkeeper.__file__).parent
# The writer passes two failpoints for each transaction, under the name that it is given: the last
# argument of its `commit`, and of what hands it on.
SIDES = ("before_commit", "after_commit")
WRITER = "store/writer.py"
HANDED_ON = {"store/meta.py": ("numbers", "put")}

OTHER_WORK = {"capture", "clock", "import", "maintenance", "scrub"}


def texts(call: ast.Call) -> list[str]:
    """The literal texts among a call's arguments."""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]


def passed(source: str, module: str) -> Iterator[str]:
    """The failpoints that a module passes. A name that is put together is refused, since no test
    can know it.
    """
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = ast.unparse(node.func.value).rpartition(".")[2].lstrip("_")
        called = (owner, node.func.attr)
        if called == ("failpoint", "hit") and module != WRITER:
            assert texts(node), f"{module}:{node.lineno} passes a failpoint without a plain name"
            yield from texts(node)
        elif called == ("writer", "commit") and module not in HANDED_ON:
            assert texts(node), f"{module}:{node.lineno} commits without a plain name"
            yield from (f"{texts(node)[-1]}.{side}" for side in SIDES)
        elif called in HANDED_ON.values():
            yield from (f"{texts(node)[-1]}.{side}" for side in SIDES)


def all_passed() -> set[str]:
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        module = str(path.relative_to(PACKAGE))
        found.update(passed(path.read_text(), module))
    return found


def armed() -> set[str]:
    """The failpoints at which tests kill a process; each of them fails if it survives."""
    others = (*killed.MAINTENANCE, *killed.CARRIES, *killed.HEALING, *killed.REPAIR)
    imports = (*killed.IMPORT_UNDONE, *killed.IMPORT_DONE)
    return {point.partition("=")[0] for point in (*killed.LIVED, *others, *imports)}


def test_the_source_passes_what_can_be_armed() -> None:
    assert all_passed() == failpoint.NAMES


def test_each_lies_in_an_event_of_the_table_or_in_other_work() -> None:
    assert set(failpoint.POINTS) - OTHER_WORK < {event.value for event in Event}
    assert sum(map(len, failpoint.POINTS.values())) == len(failpoint.NAMES)


def test_a_crash_test_kills_at_every_failpoint() -> None:
    assert armed() == failpoint.NAMES


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('failpoint.hit("a.b")', {"a.b"}),
        ('self._writer.commit(act, 0, "x")', {"x.before_commit", "x.after_commit"}),
        ('store.writer.commit(act, size=0, name="x")', {"x.before_commit", "x.after_commit"}),
        ('store.numbers.put({"no": 1}, "y")', {"y.before_commit", "y.after_commit"}),
        ("store.commit(batch)", set()),
    ],
)
def test_a_failpoint_is_found(source: str, found: set[str]) -> None:
    assert set(passed(source, "engine/x.py")) == found


@pytest.mark.parametrize("source", ["failpoint.hit(name)", "self._writer.commit(act, 0, name)"])
def test_a_name_that_no_test_can_know(source: str) -> None:
    with pytest.raises(AssertionError, match="plain name"):
        list(passed(source, "engine/x.py"))
