"""What several tests use is in `tests.support`, or beside its fixtures: never in another test.
A class of it has a name of its own.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

import diffkeeper

PACKAGE = Path(diffkeeper.__file__).parent
TESTS = Path(__file__).parents[1]
FILES = sorted(str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py"))


def imported(source: str) -> set[str]:
    """Every module that is imported, and what is imported from it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def of_a_test(source: str) -> list[str]:
    """Imports of test modules and of conftest."""
    parts = ((name, name.split(".")) for name in sorted(imported(source)))
    return [
        name
        for name, words in parts
        if words[0] == "tests"
        and any(word == "conftest" or word.startswith("test_") for word in words[:-1] or words)
    ]


@pytest.mark.parametrize("file", FILES)
def test_no_test_is_imported(file: str) -> None:
    assert of_a_test((TESTS / file).read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tests.unit.test_x import y", ["tests.unit.test_x", "tests.unit.test_x.y"]),
        ("from tests.docker.conftest import y", ["tests.docker.conftest.y"]),
        ("from tests.support.daemon import Daemon", []),
        ("from diffkeeper.volumes import thinning", []),
    ],
)
def test_what_counts(source: str, found: list[str]) -> None:
    assert set(of_a_test(source)) >= set(found[-1:])
    assert bool(of_a_test(source)) is bool(found)


def classes(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def test_a_helper_has_a_class_name_of_its_own() -> None:
    """In all tests; two tests may call things of their own the same."""
    tests = {TESTS / file for file in FILES if Path(file).name.startswith("test_")}
    helpers = Counter(
        name for file in FILES if TESTS / file not in tests for name in classes(TESTS / file)
    )
    assert len(helpers) > 50
    elsewhere = {name for path in tests for name in classes(path)}
    assert {name for name, count in helpers.items() if count > 1 or name in elsewhere} == set()


def test_no_class_of_the_tests_is_called_as_one_of_the_package() -> None:
    package = {name for path in PACKAGE.rglob("*.py") for name in classes(path)}
    found = {name for file in FILES for name in classes(TESTS / file)}
    assert len(package) > 100
    assert found & package == set()
