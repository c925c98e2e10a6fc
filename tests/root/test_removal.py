"""A tree is removed whole, and nothing else, whatever is in it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.errors import DiffKeeperError
from diffkeeper.fsio import durable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the same file system that must stay as it is."""
    found = tmp_path / "outside"
    found.mkdir()
    (found / "kept").write_text("kept")
    return found


@pytest.fixture
def tree(tmp_path: Path, outside: Path) -> Path:
    """What is to be removed; a link and a hard link of it lead outside."""
    found = tmp_path / "tree"
    (found / "a" / "b").mkdir(parents=True)
    (found / "a" / "file").write_text("x")
    (found / "a" / "b" / "link").symlink_to(outside)
    (found / "to-file").symlink_to(outside / "kept")
    os.link(outside / "kept", found / "hard")
    os.mkfifo(found / "fifo")
    return found


@pytest.fixture
def bound(tree: Path, outside: Path) -> Iterator[Path]:
    """A directory in the tree at which the one outside is mounted."""
    at = tree / "a" / "b" / "mounted"
    at.mkdir()
    subprocess.run(["mount", "--bind", str(outside), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_all_of_a_tree_goes_and_what_its_links_lead_to_stays(tree: Path, outside: Path) -> None:
    durable.remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").read_text() == "kept"
    durable.remove_tree(str(tree))
    durable.remove_tree(str(tree / "below" / "nothing"))


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path, outside: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(outside)
    durable.remove_tree(str(link))
    assert not link.is_symlink()
    assert (outside / "kept").exists()


def test_what_is_mounted_below_is_never_entered(tree: Path, outside: Path, bound: Path) -> None:
    assert os.stat(bound).st_dev == os.stat(tree).st_dev
    with pytest.raises(DiffKeeperError, match=f"{bound}: something is mounted there"):
        durable.remove_tree(str(tree))
    assert (outside / "kept").read_text() == "kept"
    assert list(tree.rglob("*")) == [
        tree / "a", tree / "a" / "b", bound, bound / "kept",
    ]  # fmt: skip


def test_a_mount_at_the_top_is_not_entered(tmp_path: Path, outside: Path) -> None:
    at = tmp_path / "at"
    at.mkdir()
    subprocess.run(["mount", "--bind", str(outside), str(at)], check=True)
    try:
        with pytest.raises(DiffKeeperError, match="something is mounted there"):
            durable.remove_tree(str(at))
    finally:
        subprocess.run(["umount", str(at)], check=True)
    assert (outside / "kept").exists()


def test_a_tree_deeper_than_paths_and_descriptors_goes(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3_000):
        os.mkdir("d" * 20, dir_fd=fd)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    durable.remove_tree(str(top))
    assert not top.exists()


def test_more_directories_than_are_kept_in_memory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OBSERVE_NAMES_MAX", 7)
    for number in range(40):
        (tmp_path / "wide" / str(number) / "x").mkdir(parents=True)
    durable.remove_tree(str(tmp_path / "wide"))
    assert not (tmp_path / "wide").exists()


def test_resistance_is_told_and_bounded(
    tree: Path, bound: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tree / "second"
    second.mkdir()
    subprocess.run(["mount", "--bind", str(outside), str(second)], check=True)
    try:
        with pytest.raises(DiffKeeperError, match="and 1 more"):
            durable.remove_tree(str(tree))
        monkeypatch.setattr("diffkeeper.fsio.removal.REMOVAL_LEFT_MAX", 1)
        with pytest.raises(DiffKeeperError, match="something is mounted there$"):
            durable.remove_tree(str(tree))
    finally:
        subprocess.run(["umount", str(second)], check=True)
    assert bound.exists()
