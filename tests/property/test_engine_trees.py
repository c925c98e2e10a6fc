"""Any tree, any edits: each snapshot replays to what the directory was, in every respect."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from diffkeeper.engine.snapshotter import Policy
from diffkeeper.engine.verify import Verifier
from tests.support.edits import CHUNKS, Edit, Editor, batches, holes
from tests.support.harness import Engine
from tests.support.trees import Description, describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.format.records import SnapshotRecord

EXAMPLES = max(1, settings().max_examples // 4)  # an example is dozens of captures and replays


@dataclass(frozen=True)
class Step:
    """A batch of edits, and whether the engine is closed before, and opened again after them."""

    edits: list[Edit]
    close: bool = False
    reopen: bool = False


steps = st.lists(st.builds(Step, batches, st.booleans(), st.booleans()), min_size=1, max_size=4)


@dataclass
class State:
    """What was on disk when a snapshot was taken."""

    snapshot: SnapshotRecord
    tree: Description
    holes: dict[bytes, tuple[str, ...]]


@dataclass
class Session:
    """One volume under random edits."""

    base: Path
    policy: Policy
    states: list[State] = field(default_factory=list)
    replays: int = 0
    engine: Engine | None = None

    @property
    def live(self) -> bytes:
        return os.fsencode(self.base / "live")

    @property
    def chunk_bytes(self) -> int:
        return 1 << self.policy.chunk_bits

    def open(self) -> Engine:
        if self.engine is None:
            self.engine = Engine(self.base, self.policy)
        return self.engine

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    def capture(self) -> None:
        """The newest snapshot is what is on disk, and says so."""
        engine = self.open()
        snapshot = engine.capture()
        state = State(snapshot, describe(self.base / "live"), holes(self.live, self.chunk_bytes))
        assert snapshot.consistency == "crash", snapshot.cause
        assert snapshot.files == sum(values[0] == stat.S_IFREG for values in state.tree.values())
        self.check(state)
        result = Verifier(engine.store, engine.reader).live(
            str(engine.live), bytes.fromhex(snapshot.root)
        )
        assert result.complete and result.mismatches == []
        self.states.append(state)

    def check(self, state: State) -> None:
        """A snapshot replays to what was described."""
        self.replays += 1
        target = self.open().replay(state.snapshot, f"replay-{self.replays}")
        assert difference(describe(target), state.tree) == []
        assert holes(os.fsencode(target), self.chunk_bytes) == state.holes
        shutil.rmtree(target)

    def check_reopened(self) -> None:
        """A new engine finds nothing to record in what is unchanged."""
        self.close()
        before = self.states[-1].snapshot
        after = self.open().capture()
        # Which names of a hard link are gone is found only by comparing everything.
        assert after.root == before.root
        assert after.seq == before.seq


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the trees are: a file system that gives inode numbers out again, as most do."""
    yield tmp_path_factory.mktemp("trees")


def session(base: Path, source: str, chunk_bytes: int) -> Session:
    return Session(base, Policy(source=source, chunk_bits=chunk_bytes.bit_length() - 1))


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
