"""What the documents name exists, and what the code offers is in the documents."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from diffkeeper import errors
from diffkeeper.api import metrics
from diffkeeper.cli.commands import COMMANDS
from diffkeeper.cli.main import EXIT_CODES, EXIT_INTERRUPTED
from diffkeeper.daemon import config
from diffkeeper.volumes.options import OPTIONS, VolumeOptions, parse_options

REPOSITORY = Path(__file__).parents[2]
DOCS = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted(REPOSITORY.glob("docs/**/*.md")),
    *sorted(REPOSITORY.glob("demo/*/README.md")),
]
TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in DOCS}
ALL = "\n".join(TEXTS.values())
PROSE_CHARACTERS_MAX = 120
README_LINES_MAX = 120
VARIABLE = re.compile(r"DIFFKEEPER_[A-Z][A-Z_]*[A-Z]")
# Files that name variables; the daemon makes the names of its own from its settings.
READERS = ("scripts/*", "rootfs-build/*", "demo/**/*.sh", "demo/**/*.yml", "demo/**/*.py")


def rows(document: str, heading: str) -> list[list[str]]:
    """Cells of the first table after a heading, without its head."""
    _, found, after = TEXTS[document].partition(f"\n{heading}\n")
    assert found, f"{document} has no {heading}"
    table = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert table is not None
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def table_headed(document: str, first: str) -> list[list[str]]:
    """Cells of the table whose first column has that head."""
    found = re.search(rf"^\| {re.escape(first)} \|.*\n((?:\|.*\n)+)", TEXTS[document], re.MULTILINE)
    assert found is not None, f"{document} has no table of {first}"
    lines = found[1].splitlines()[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def code(text: str) -> list[str]:
    """Everything in backquotes and in blocks of code."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*blocks, *re.findall(r"`([^`]+)`", outside)]


def anchors(text: str) -> set[str]:
    """The anchors that a code host gives to the headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in headings
    }


def test_the_option_table_is_the_code() -> None:
    table = rows("docs/options.md", "## Volume options")
    described = {row[0].strip("`"): row for row in table}
    assert list(described) == list(OPTIONS)
    for name, option in OPTIONS.items():
        _, values, default, meaning = described[name]
        assert values.replace("\\|", "|") == option.form
        assert meaning
        fields = replace(VolumeOptions())
        if default:
            assert parse_options({name: default.strip("`")}) == fields
        else:
            holder = fields if hasattr(fields, option.field) else fields.policy
            assert getattr(holder, option.field) in (None, ())


@pytest.mark.parametrize("document", TEXTS)
def test_options_in_examples_are_accepted(document: str) -> None:
    for text in code(TEXTS[document]):
        for name, value in re.findall(r"-o ([a-z-]+)=([^\s`]+)", text):
            parse_options({name: value})
        block = re.search(r"driver_opts:\n((?: +[a-z-]+: .*\n)+)", text)
        for name, value in re.findall(r" +([a-z-]+): (.*)\n", block[1]) if block else ():
            parse_options({name: value})


def test_the_command_table_is_the_code() -> None:
    table = rows("docs/options.md", "## Commands")
    assert [row[0].strip("`").split()[1] for row in table] == [command.name for command in COMMANDS]


@pytest.mark.parametrize("document", TEXTS)
def test_commands_in_examples_exist(document: str) -> None:
    for text in code(TEXTS[document]):
        for word in re.findall(r"(?:^|[\n$(;&]\s*|sudo )diffkeeper ([a-z][a-z-]*)", text):
            assert word in [command.name for command in COMMANDS], f"diffkeeper {word}"


def test_the_exit_codes_are_the_code() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.DiffKeeperError)
    ]
    table = {int(row[0]): row[1].strip("`") for row in table_headed("docs/options.md", "exit code")}
    named = {code: name for code, name in table.items() if name}
    assert named == {each.exit_code: each.__name__ for each in classes}
    listed = {int(number) for number in re.findall(r"(\d+) [a-z]", EXIT_CODES)}
    assert set(table) == listed
    assert EXIT_INTERRUPTED in table


def test_the_settings_are_the_code() -> None:
    table = rows("docs/options.md", "## Settings of the daemon")
    described = [(row[0].strip("`"), row[1].strip("`")) for row in table]
    assert described == [(f"--{name}", config.variable(name)) for name in config.SETTINGS]
    by_hand = config.defaults(host="/nowhere")
    for name, row in zip(config.SETTINGS, table, strict=True):
        shown = row[3] if row[3] not in ("the same", "") else row[2]
        if by_hand[name] and name != "mount-dir":
            assert f"`{by_hand[name]}`" in shown


def test_every_variable_is_described_and_exists() -> None:
    known = {config.variable(setting) for setting in config.SETTINGS}
    for pattern in READERS:
        for path in REPOSITORY.glob(pattern):
            if path.is_file() and "out" not in path.parts:
                known |= set(VARIABLE.findall(path.read_text()))
    known |= set(VARIABLE.findall((REPOSITORY / "config.json").read_text()))
    described = set(VARIABLE.findall(TEXTS["docs/options.md"]))
    assert described == known
    assert set(VARIABLE.findall(ALL)) <= known


def test_the_demo_variables_are_the_code() -> None:
    settings = REPOSITORY / "demo" / "postgres-survive-kill9" / "survive" / "settings.py"
    reads = re.findall(r"(?:environ\.get|_number)\(\"([A-Z_]+)\"", settings.read_text())
    table = table_headed("docs/options.md", "variable")
    assert {row[0].strip("`") for row in table if row[1] == "`make demo`"} == set(reads)


def test_every_make_target_is_described_and_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    described = [row[0] for row in table_headed("docs/options.md", "target")]
    assert sorted(described) == sorted(f"`make {target}`" for target in targets)
    for text in (each for document in TEXTS.values() for each in code(document)):
        for word in re.findall(r"(?:^|[\n$(;&]\s*|sudo )make ([a-z-]+)", text):
            assert word in targets, f"make {word}"


def test_the_readme_has_the_two_commands() -> None:
    first_block = code(TEXTS["README.md"])[0]
    assert re.findall(r"^make \w+", first_block, re.MULTILINE) == ["make demo", "make test"]
    assert "\nexec make test\n" in (REPOSITORY / ".ci" / "run").read_text()


def test_the_metrics_are_the_code() -> None:
    names = {*metrics.COUNTERS, *metrics.HISTOGRAMS, *metrics.GAUGES, *metrics.STATISTICS}
    names |= set(metrics.HISTORY)
    names |= {f"ebpf_{name}_total" for name in metrics.EBPF_COUNTS}
    names |= {f"scrub_{name}" for name in metrics.SCRUB}
    names |= {"capture_source", "ebpf_feature", "trouble", "info"}
    table = [row[0].strip("`") for row in rows("docs/operations.md", "## Metrics")]
    assert sorted(table) == sorted(metrics.PREFIX + name for name in names)
    for name in re.findall(r"diffkeeper_[a-z_]+", ALL):
        assert name in table, name


def test_the_events_are_the_code() -> None:
    logged: set[str] = set()
    for path in (REPOSITORY / "plugin" / "diffkeeper").rglob("*.py"):
        calls = r"^ +log\.(?:info|warning|error|exception)\(\s*\"(\w+)\""
        leveled = r"^ +log\.log\([^\"]*\"(\w+)\""
        for call in (calls, leveled):
            logged |= set(re.findall(call, path.read_text(), re.MULTILINE))
    table = table_headed("docs/operations.md", "event")
    assert {name for row in table for name in re.findall(r"`(\w+)`", row[0])} == logged


@pytest.mark.parametrize("document", TEXTS)
def test_links_lead_somewhere(document: str) -> None:
    base = (REPOSITORY / document).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"\n", " ", TEXTS[document])):
        assert "://" not in target, f"{target}: the documents need no other place"
        path, _, anchor = target.partition("#")
        linked = (base / path).resolve() if path else REPOSITORY / document
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text()), target


def test_the_documents_are_all_linked_from_the_readme() -> None:
    """Those in a folder of their own from the README there."""
    linked = set(re.findall(r"\]\(([^)#\s]+)", TEXTS["README.md"]))
    for index in [
        name for name in TEXTS if name.endswith("/README.md") and name.startswith("docs/")
    ]:
        folder = index.removesuffix("README.md")
        linked |= {folder + name for name in re.findall(r"\]\(([^)#\s]+)", TEXTS[index])}
    assert {name for name in TEXTS if name != "README.md"} <= linked


@pytest.mark.parametrize("document", TEXTS)
def test_prose_wraps(document: str) -> None:
    """Tables, code and links may be longer."""
    prose = re.sub(r"^```.*?^```", "", TEXTS[document], flags=re.MULTILINE | re.DOTALL)
    long = [
        line
        for line in prose.splitlines()
        if len(line) > PROSE_CHARACTERS_MAX and not line.startswith("|") and "](" not in line
    ]
    assert long == []


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= README_LINES_MAX


@pytest.mark.parametrize("document", TEXTS)
def test_paths_of_the_tree_exist(document: str) -> None:
    text = TEXTS[document]
    base = (REPOSITORY / document).parent
    pattern = r"`((?:\./)?(?:plugin|docs|tests|scripts|demo|rootfs-build|requirements)/[\w./-]*)`"
    for path in re.findall(pattern, text):
        assert (REPOSITORY / path).exists() or (base / path).exists(), path
    package = REPOSITORY / "plugin" / "diffkeeper"
    folders = "|".join(path.name for path in package.iterdir() if path.is_dir())
    for path in re.findall(rf"`((?:{folders})/\w+\.py)`", text):
        assert (package / path).exists(), path
