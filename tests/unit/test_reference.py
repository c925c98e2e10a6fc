"""The snapshot argument: each form, and everything else refused."""

from __future__ import annotations

import pytest

from diffkeeper.errors import InvalidInputError
from diffkeeper.history.references import check_tag, parse_reference

MORNING = 1_795_341_600_000_000_000  # 2026-11-22T10:00:00Z


@pytest.mark.parametrize(
    ("text", "kind", "number"),
    [
        ("17", "seq", 17),
        ("0017", "seq", 17),
        ("12345678", "seq", 12_345_678),
        ("deadbeef", "root", 0),
        ("1234567890123456789", "root", 0),
        ("ab" * 32, "root", 0),
        ("abcdef", "tag", 0),
        ("before-upgrade_1.2", "tag", 0),
        ("Deadbeef", "tag", 0),
        ("latest", "latest", 0),
        ("-5m", "age", 300_000_000_000),
        ("-1.5h", "age", 5_400_000_000_000),
        ("-250ms", "age", 250_000_000),
        ("2026-11-22T10:00", "time", MORNING),
        ("2026-11-22T10:00Z", "time", MORNING),
        ("2026-11-22T11:00+01:00", "time", MORNING),
        ("2026-11-22T10:00:05", "time", MORNING + 5_000_000_000),
        ("2026-11-22T10:00:05.5", "time", MORNING + 5_500_000_999),
        ("2026-11-22T10:00:05.000001Z", "time", MORNING + 5_000_001_999),
        ("2026-11-22T10:00:05.000000001", "time", MORNING + 5_000_000_001),
        ("2026-11-22", "time", MORNING - 10 * 3_600_000_000_000),
        ("0001-01-01", "time", 0),
    ],
)
def test_forms(text: str, kind: str, number: int) -> None:
    found = parse_reference(text)
    assert (found.kind, found.number) == (kind, number)


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "v@1", "../x", "a b", "a\n", "é", "1234x", "-5", "-5w", "--5m", "-", "2026-13-01",
        "2026-11-22T25:00", "2026-11-22T10", "2026-11-22 10:00", "2026-02-30", "a" * 64, "a" * 65,
        "٣", "2026-11-22T10:00+99:00", "_tag", ".tag", "1" * 65,
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    if text == "a" * 64:
        assert parse_reference(text).kind == "root"
        return
    with pytest.raises(InvalidInputError) as caught:
        parse_reference(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "tag", ["", "1", "latest", "deadbeef", "-5m", "a b", "a/b", "é", "a" * 64, "2026-11-22"]
)
def test_what_means_another_thing_is_no_tag(tag: str) -> None:
    with pytest.raises(InvalidInputError, match="begin with a letter"):
        check_tag(tag)


@pytest.mark.parametrize("tag", ["a", "v1.2", "before-upgrade", "Deadbeef", "abcdef1", "z" * 63])
def test_a_tag_is_read_as_one(tag: str) -> None:
    assert parse_reference(check_tag(tag)).kind == "tag"
