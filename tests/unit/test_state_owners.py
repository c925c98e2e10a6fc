"""What a volume is and shows is changed by its owner's methods: no other module writes its fields.

mypy refuses an assignment to a property; here plain fields are looked at, and what is changed in
place.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diffkeeper

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(diffkeeper.__file__).parent
# Module -> its classes whose fields it alone writes.
OWNERS = {
    "volumes/volume.py": ("Volume",),
    "volumes/registry.py": ("Registry", "Slot"),
    "volumes/live.py": ("LiveDirectory",),
    "volumes/size_limit.py": ("SizeLimit",),
    "volumes/mount_counts.py": ("MountCounts",),
    "volumes/volume_status.py": ("VolumeStatus",),
    "volumes/troubles.py": ("Troubles",),
    "volumes/throttle.py": ("Throttle",),
    "volumes/mount_ledger.py": ("MountLedger",),
    "snapshot/volume_state.py": ("VolumeState",),
    "service/capture_slots.py": ("CaptureSlots",),
    "service/pressure.py": ("Pressure",),
    "service/maintenance_thread.py": ("MaintenanceThread",),
    "history/trash.py": ("Trash",),
}
# Only packages that are handed a volume can write to one.
LOOKED_AT = ("volumes", "history", "service", "api", "daemon")
IN_PLACE = {
    *("append", "appendleft", "extend", "insert", "add", "update", "setdefault"),
    *("pop", "popitem", "popleft", "remove", "discard", "clear"),
}
# `VolumeState.update` is a method of the owner, not of a dictionary.
METHODS = {("state", "update")}


def fields(source: str, names: tuple[str, ...]) -> set[str]:
    """What these classes have: assigned on `self`, or declared in the body of a data class."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or node.name not in names:
            continue
        found |= {
            inner.attr
            for inner in ast.walk(node)
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
            if ast.unparse(inner.value) == "self"
        }
        for each in node.body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                found.add(each.target.id)
            # Properties are what others know of a field that is private.
            if isinstance(each, ast.FunctionDef) and any(
                ast.unparse(d) == "property" for d in each.decorator_list
            ):
                found.add(each.name)
    return found


def shown(source: str, names: tuple[str, ...]) -> set[str]:
    """Plain fields of these classes that anybody could assign."""
    return {
        f"{node.name}.{inner.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.name in names
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
        if ast.unparse(inner.value) == "self" and not inner.attr.startswith("_")
    }


def writes(source: str, owned: set[str]) -> Iterator[tuple[int, str]]:
    """Where a field of another object is assigned, deleted, or changed in place."""
    for node in ast.walk(ast.parse(source)):
        target: ast.expr | None = None
        if isinstance(node, ast.Attribute | ast.Subscript):
            if isinstance(node.ctx, ast.Store | ast.Del):
                target = node.value if isinstance(node, ast.Subscript) else node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in IN_PLACE:
                target = node.func.value
                last = target.attr if isinstance(target, ast.Attribute) else ""
                if (last, node.func.attr) in METHODS:
                    continue
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            yield node.lineno, ast.unparse(node)
        if not isinstance(target, ast.Attribute) or target.attr not in owned:
            continue
        if ast.unparse(target.value) not in ("self", "cls"):
            yield target.lineno, ast.unparse(target)


OWNED = {module: fields((PACKAGE / module).read_text(), names) for module, names in OWNERS.items()}
MODULES = sorted(
    str(path.relative_to(PACKAGE)) for part in LOOKED_AT for path in (PACKAGE / part).rglob("*.py")
)


@pytest.mark.parametrize("module", MODULES)
def test_one_owner_writes(module: str) -> None:
    others = {name for owner, names in OWNED.items() if owner != module for name in names}
    assert list(writes((PACKAGE / module).read_text(), others)) == []


@pytest.mark.parametrize("module", OWNERS)
def test_owners_show_properties_alone(module: str) -> None:
    assert shown((PACKAGE / module).read_text(), OWNERS[module]) == set()


def test_what_is_shown() -> None:
    source = "class A:\n    def f(self):\n        self.a, self._b = other.c, 1\n        x.d = 2"
    assert shown(source, ("A",)) == {"A.a"}
    assert shown(source, ("B",)) == set()


def test_the_owners_fields_are_found() -> None:
    assert {"watched", "options", "status", "throttle", "_unused"} <= OWNED["volumes/volume.py"]
    assert {"leaving", "_leaving"} <= OWNED["volumes/mount_counts.py"]
    assert {"_slots", "step", "_removal", "replaced"} <= OWNED["volumes/registry.py"]
    assert {"replaying", "_replaying"} <= OWNED["volumes/live.py"]
    assert OWNED["service/capture_slots.py"] == {"pool", "_pool", "_slots", "_first", "_long"}
    assert {"_tags", "troubles", "group"} <= OWNED["volumes/volume_status.py"]
    assert OWNED["volumes/troubles.py"] == {"_lock", "_texts"}
    assert {"due", "busy", "effective", "_recent"} <= OWNED["volumes/throttle.py"]
    assert {"_inherited", "_held"} <= OWNED["volumes/mount_ledger.py"]
    assert {"_head", "_record", "stored", "head"} <= OWNED["snapshot/volume_state.py"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("volume.throttle.due = 1.0", ["volume.throttle.due"]),
        ("volume.due, other = 1.0, 2", ["volume.due"]),
        ("volume.due += 1", ["volume.due"]),
        ("del slot.volume.due", ["slot.volume.due"]),
        ("volume.due: float = 1", ["volume.due"]),
        ("for volume.due in (1, 2): pass", ["volume.due"]),
        ("volume.recent['a'] = 1", ["volume.recent"]),
        ("del volume.recent['a']", ["volume.recent"]),
        ("volume.recent.pop('a', None)", ["volume.recent"]),
        ("setattr(volume, 'due', 1)", ["setattr(volume, 'due', 1)"]),
        ("self.due = 1", []),
        ("self.recent.pop()", []),
        ("volume.throttle.schedule(1)", []),
        ("volume.other = 1", []),
        ("x = volume.due", []),
    ],
)
def test_what_is_a_write(source: str, found: list[str]) -> None:
    assert [text for _, text in writes(source, {"due", "recent"})] == found
