"""Any tree, any edits: each snapshot replays to what the directory was, in every respect."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from diffkeeper.integrity.verify import Verifier
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig
from tests.support.edits import CHUNKS, Edit, Editor, batches, holes, preallocated
from tests.support.trees import Description, describe, difference, without

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.format.records import SnapshotRecord

EXCLUDE = [("a",), ("**/b",), ("a/b", "c/*/a"), ("a/**", "**/c/b"), ("?/a", "**/*\n*")]
EXAMPLES = max(1, settings().max_examples // 4)  # an example is dozens of captures and replays


@dataclass(frozen=True)
class Step:
    """A batch of edits, and whether the rig is closed before, and opened again after them."""

    edits: list[Edit]
    close: bool = False
    reopen: bool = False


steps = st.lists(st.builds(Step, batches, st.booleans(), st.booleans()), min_size=1, max_size=4)


@dataclass
class TreeState:
    """What was on disk when a snapshot was taken. holes: of all files but preallocated ones."""

    snapshot: SnapshotRecord
    tree: Description
    holes: dict[bytes, tuple[str, ...]]


@dataclass
class Session:
    """One volume under random edits."""

    base: Path
    policy: CapturePolicy
    states: list[TreeState] = field(default_factory=list)
    replays: int = 0
    rig: CaptureRig | None = None

    @property
    def live(self) -> bytes:
        return os.fsencode(self.base / "live")

    @property
    def chunk_bytes(self) -> int:
        return 1 << self.policy.chunk_bits

    def open(self) -> CaptureRig:
        if self.rig is None:
            self.rig = CaptureRig(self.base, self.policy)
        return self.rig

    def close(self) -> None:
        if self.rig is not None:
            self.rig.close()
            self.rig = None

    def capture(self) -> None:
        """The newest snapshot is what is on disk, and says so."""
        rig = self.open()
        snapshot = rig.capture()
        exclude = self.policy.exclude
        tree = without(describe(self.base / "live"), exclude)
        state = TreeState(snapshot, tree, self.holes_of(self.live, tree))
        assert snapshot.consistency == "crash", snapshot.cause
        assert snapshot.files == sum(values[0] == stat.S_IFREG for values in state.tree.values())
        self.check(state)
        result = Verifier(rig.store, rig.reader).live(str(rig.live), snapshot.root, None, exclude)
        assert result.complete and result.mismatches == []
        self.states.append(state)

    def holes_of(self, root: bytes, tree: Description) -> dict[bytes, tuple[str, ...]]:
        unclear = preallocated(root)
        found = holes(root, self.chunk_bytes)
        return {path: each for path, each in found.items() if path in tree and path not in unclear}

    def check(self, state: TreeState) -> None:
        """A snapshot replays to what was described."""
        self.replays += 1
        target = self.open().replay(state.snapshot, f"replay-{self.replays}")
        assert difference(describe(target), state.tree) == []
        found = holes(os.fsencode(target), self.chunk_bytes)
        assert {path: found[path] for path in state.holes} == state.holes
        shutil.rmtree(target)

    def check_reopened(self) -> None:
        """A new rig finds nothing to record in what is unchanged."""
        self.close()
        before = self.states[-1].snapshot
        after = self.open().capture()
        if preallocated(self.live):
            self.check(replace(self.states[-1], snapshot=after))
            return
        # Which names of a hard link are gone is found only by comparing everything.
        assert after.root == before.root
        assert after.seq == before.seq


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the trees are: a file system that gives inode numbers out again, as most do."""
    yield tmp_path_factory.mktemp("trees")


def session(base: Path, source: str, chunk_bytes: int, exclude: tuple[str, ...] = ()) -> Session:
    policy = CapturePolicy(source=source, chunk_bits=chunk_bytes.bit_length() - 1, exclude=exclude)
    return Session(base, policy)


def run(found: Session, chosen: list[Step]) -> None:
    """Edits and captures in turn; in the end everything recorded is checked once more."""
    editor = Editor(found.live)
    try:
        found.open()
        for step in chosen:
            if step.close:
                found.close()
            for edit in step.edits:
                editor.apply(edit)
            found.capture()
            if step.reopen:
                found.check_reopened()
        for state in found.states:
            found.check(state)
        event(f"files: {len(found.states[-1].tree) // 4 * 4}")
    finally:
        editor.close()
        found.close()


@pytest.mark.parametrize("source", ["inotify", "scan"])
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[*HealthCheck],  # the disk is shared by all examples, on purpose
)
@given(chosen=steps, chunk_bytes=st.sampled_from(CHUNKS))
def test_snapshots_replay_to_what_was_there(
    disk: Path, source: str, chosen: list[Step], chunk_bytes: int
) -> None:
    base = Path(tempfile.mkdtemp(dir=disk))
    try:
        run(session(base, source, chunk_bytes), chosen)
    finally:
        shutil.rmtree(base)


@pytest.mark.parametrize("source", ["inotify", "scan"])
@settings(max_examples=EXAMPLES, suppress_health_check=[*HealthCheck])
@given(chosen=steps, chunk_bytes=st.sampled_from(CHUNKS), exclude=st.sampled_from(EXCLUDE))
def test_so_they_do_but_for_what_is_left_out(
    disk: Path, source: str, chosen: list[Step], chunk_bytes: int, exclude: tuple[str, ...]
) -> None:
    if source == "inotify":
        # What is written under a name that is left out shows late under the others.
        chosen = [replace(s, edits=[e for e in s.edits if e.kind != "link"]) for s in chosen]
    base = Path(tempfile.mkdtemp(dir=disk))
    try:
        run(session(base, source, chunk_bytes, exclude), chosen)
    finally:
        shutil.rmtree(base)
