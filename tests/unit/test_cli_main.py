"""Arguments, exit codes and output of the command line, without a daemon."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diffkeeper
from diffkeeper.cli import commands, connection, discover, figures, output, reference, target
from diffkeeper.cli.commands import COMMANDS, doctor
from diffkeeper.cli.main import main, parser
from diffkeeper.errors import ConflictError, InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="dk-") as directory:
        yield Path(directory)


def dead_socket(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return str(path)


def run(*arguments: str, stdout: int) -> subprocess.CompletedProcess[bytes]:
    """The command as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(diffkeeper.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "diffkeeper", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
    )


def test_every_command_has_one_name_and_help() -> None:
    names = [command.name for command in COMMANDS]
    assert len(set(names)) == len(names)
    assert all(command.help for command in COMMANDS)


def test_every_file_of_a_command_is_in_the_list() -> None:
    files = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert {command.run.__module__.rpartition(".")[2] for command in COMMANDS} == files


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_tells_its_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: diffkeeper {name} ")


@pytest.mark.parametrize(
    "argv",
    [
        ["--socket", "/s", "--json", "volumes"],
        ["volumes", "--socket", "/s", "--json"],
        ["--socket", "/other", "volumes", "--socket", "/s", "--json"],
    ],
)
def test_common_flags_before_and_after_the_command(argv: list[str]) -> None:
    arguments = parser().parse_args(argv)
    assert (arguments.socket, arguments.json) == ("/s", True)


@pytest.mark.parametrize(
    ("argv", "taken"),
    [
        ("restore v --to d p q", {"volume": "v", "to": "d", "paths": ["p", "q"]}),
        ("restore v p --to d q", {"volume": "v", "to": "d", "paths": ["p", "q"]}),
        ("restore v p q --to d", {"volume": "v", "to": "d", "paths": ["p", "q"]}),
        ("restore v --to d", {"volume": "v", "to": "d", "paths": []}),
        ("restore --to d v -- -p", {"volume": "v", "to": "d", "paths": ["-p"]}),
        ("repair v --dry-run p", {"volume": "v", "dry_run": True, "paths": ["p"]}),
        ("diff v@1 --stat v@2", {"old": "v@1", "stat": True, "new": "v@2"}),
        ("set v --json interval=5s", {"volume": "v", "json": True, "options": ["interval=5s"]}),
        ("forget v@1 --json v@2", {"json": True, "snapshots": ["v@1", "v@2"]}),
    ],
)
def test_options_may_stand_between_arguments(argv: str, taken: dict[str, object]) -> None:
    arguments = vars(parser().parse_args(argv.split()))
    assert {name: arguments[name] for name in taken} == taken


def test_common_flags_have_defaults() -> None:
    arguments = parser().parse_args(["volumes"])
    assert (arguments.socket, arguments.json) == (None, False)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["restore", "v"], 2),
        (["--help"], 0),
        (["inspect", "../x"], 2),
        (["snapshot", "a/b"], 2),
        (["verify", "v@"], 2),
        (["restore", "@1", "--to", "/tmp/x"], 2),
        (["serve", "--log-level", "loud"], 2),
        (["--socket", "/nowhere/d.sock", "volumes"], 11),
    ],
)
def test_exit_codes(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == code
    streams = capsys.readouterr()
    assert (streams.out or streams.err).strip()
    assert "Traceback" not in streams.err


def test_nothing_found_says_what_was_tried(short: Path) -> None:
    with pytest.raises(UnavailableError, match="no DiffKeeper daemon found") as caught:
        discover.find((str(short),))
    assert str(short) in str(caught.value)


def test_dead_sockets_are_skipped_and_named(short: Path) -> None:
    paths = [dead_socket(short / "diffkeeper.sock"), dead_socket(short / "id" / "diffkeeper.sock")]
    assert discover.candidates((str(short), str(short))) == paths
    with pytest.raises(UnavailableError) as caught:
        discover.find((str(short),))
    for path in paths:
        assert path in str(caught.value)


def test_the_environment_names_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFKEEPER_SOCKET", "/from/environment")
    assert connection.socket_path(parser().parse_args(["volumes"])) == "/from/environment"
    assert connection.socket_path(parser().parse_args(["volumes", "--socket", "/f"])) == "/f"


def test_numbers_are_shown_as_ranges() -> None:
    assert figures.ranges([]) == "-"
    assert figures.ranges([1, 2, 3, 5, 7, 8]) == "1-3,5,7-8"
    assert figures.ranges(list(range(0, 100, 2))).endswith(",38,…")


def test_version_without_a_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", "/nowhere", "--json", "version"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"version": diffkeeper.__version__, "daemon": None}


def test_doctor_beside_several_daemons() -> None:
    found = doctor.no_daemon(ConflictError("2 DiffKeeper daemons are running"))
    assert "--socket PATH doctor" in found.mend
    assert "no volume can be used" not in found.cost
    none = doctor.no_daemon(UnavailableError("no daemon answers"))
    assert "no volume can be used" in none.cost


def test_doctor_without_a_daemon() -> None:
    ended = run("--socket", "/nowhere", "--json", "doctor", stdout=subprocess.PIPE)
    findings = {finding["name"]: finding for finding in json.loads(ended.stdout)}
    assert ended.returncode == int(any(f["result"] == "fail" for f in findings.values()))
    assert findings["daemon"]["result"] == "warn"
    assert {"engine", "kernel", "freezer", "inotify", "space"} <= set(findings)
    assert {f"ebpf-{step}" for step in ("tracefs", "headers", "bcc", "programs")} <= set(findings)
    assert findings["ebpf-programs"]["result"] == "unknown"
    for finding in findings.values():
        assert set(finding) == {"name", "result", "found", "cost", "mend"}


def test_references() -> None:
    assert reference.split_reference("v") == ("v", None)
    assert reference.split_reference("v@12") == ("v", "12")
    with pytest.raises(InvalidInputError):
        reference.split_reference("v@")


def test_restore_targets(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("empty")
    assert target.check_target(str(tmp_path / "new")) == str(tmp_path / "new")
    assert target.check_target(str(tmp_path / "empty")) == str(tmp_path / "empty")
    for name in ("file", "link"):
        with pytest.raises(ConflictError, match="not a directory"):
            target.check_target(str(tmp_path / name))
    with pytest.raises(ConflictError, match="not empty"):
        target.check_target(str(tmp_path))
    for name in ("no/parent", "file/below"):
        with pytest.raises(InvalidInputError):
            target.check_target(str(tmp_path / name))


def test_tables_in_a_pipe_are_plain_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    output.print_table(("a", "name"), [[1, long], ["\x1b[31m[red]", "n\n"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "A              NAME",
        f"1              {long}",
        "\\x1b[31m[red]  n\\n",
    ]


def test_nested_status_becomes_rows() -> None:
    value = {"a": 1, "b": {"c": "x", "d": {}}, "e": "", "f": [1]}
    assert figures.flatten(value) == [("a", 1), ("b.c", "x"), ("b.d", "-"), ("e", "-"), ("f", [1])]


def test_the_command_line_starts_without_what_few_commands_need() -> None:
    """Each of these takes longer to import than most commands do to run."""
    program = "import sys, diffkeeper.cli.main; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(diffkeeper.__file__).parents[1])}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    heavy = {
        "aiohttp",
        "asyncio",
        "bcc",
        "docker",
        "lmdb",
        "prometheus_client",
        "rich",
        "zstandard",
    }
    assert heavy & set(ended.stdout.split()) == set()


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = run("--socket", "/nowhere", "version", stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")
