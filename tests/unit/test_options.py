"""Volume options, names, IDs and units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffkeeper import limits
from diffkeeper.errors import InvalidInputError
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.volumes import options as o
from diffkeeper.volumes.names import check_mount_id, check_name
from diffkeeper.volumes.options import INTERVAL_SECONDS_DEFAULT, VOLUME_OPTIONS_MAX
from diffkeeper.volumes.retention_tiers import format_retention, parse_retention
from diffkeeper.volumes.units import format_duration, format_size, parse_duration, parse_size


def test_defaults() -> None:
    parsed = o.parse_options({})
    assert parsed == o.VolumeOptions()
    assert parsed.interval_seconds == INTERVAL_SECONDS_DEFAULT
    assert 1 << parsed.policy.chunk_bits == 16384
    assert parsed.policy.chunk_bits == 14
    assert parsed.policy.level == 1


def test_every_option_at_once() -> None:
    parsed = o.parse_options(
        {
            "interval": "250ms",
            "capture": "scan",
            "consistency": "fuzzy",
            "freeze-max": "20ms",
            "verify": "off",
            "compression": "zstd:19",
            "chunk-size": "4KiB",
            "retention": "all",
            "trash": "1h",
            "exclude": "cache,**/*.tmp",
            "size": "10G",
            "uid": "999",
            "gid": "0",
            "mode": "1777",
        }
    )
    assert parsed == o.VolumeOptions(
        0.25, CapturePolicy("scan", False, 0.02, 19, ("cache", "**/*.tmp"), 12), "off", (), 3600.0,
        10 * limits.GIB, 999, 0, 0o1777,
    )  # fmt: skip
    assert set(o.OPTIONS) == {
        "interval",
        "capture",
        "consistency",
        "freeze-max",
        "verify",
        "compression",
        "chunk-size",
        "retention",
        "trash",
        "exclude",
        "size",
        "uid",
        "gid",
        "mode",
        "from",
    }


@pytest.mark.parametrize(("text", "level"), [("none", None), ("zstd", 1), ("zstd:3", 3)])
def test_compression(text: str, level: int | None) -> None:
    assert o.parse_options({"compression": text}).policy.level == level


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("interval", "99ms"),
        ("interval", "31d"),
        ("interval", "1"),
        ("interval", "-1s"),
        ("interval", "1 s"),
        ("interval", "٣s"),
        ("interval", "9" * 300 + "s"),
        ("interval", ""),
        ("capture", "fanotify"),
        ("consistency", "Crash"),
        ("freeze-max", "0ms"),
        ("freeze-max", "6s"),
        ("verify", "on"),
        ("compression", "zstd:0"),
        ("compression", "zstd:20"),
        ("compression", "zstd:"),
        ("compression", "gzip"),
        ("chunk-size", "2KiB"),
        ("chunk-size", "2MiB"),
        ("chunk-size", "5000"),
        ("chunk-size", "0.5"),
        ("chunk-size", "64kb"),
        ("retention", "7d"),
        ("retention", ""),
        ("retention", "all:all"),
        ("retention", "10m:all,"),
        ("retention", "10m:all,2h:all"),
        ("retention", "10m:all,5m:1m"),
        ("retention", "1h:1m,2h:90s"),
        ("retention", "1h:1m,2h:1m"),
        ("retention", "1m:1h"),
        ("retention", "500ms:all"),
        ("retention", "99999d:1d"),
        ("retention", "1h:1.5s"),
        ("retention", ",".join(f"{n}d:{2**n}s" for n in range(1, 10))),
        ("size", "1023K"),
        ("size", "1025TiB"),
        ("size", "-1G"),
        ("size", "10 G"),
        ("size", "10GB"),
        ("size", "80%"),
        ("size", "0"),
        ("size", ""),
        ("uid", "-1"),
        ("uid", "root"),
        ("uid", "4294967295"),
        ("gid", "1.0"),
        ("mode", "888"),
        ("mode", "17777"),
        ("mode", "0o750"),
        ("mode", "7"),
    ],
)
def test_a_malformed_value_names_the_option_and_its_form(name: str, text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        o.parse_options({name: text})
    assert f"option {name}: " in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "count"),
    [("10G", 10 << 30), ("1.5g", 3 << 29), ("512m", 1 << 29), ("2097152", 1 << 21)],
)
def test_sizes_are_written_as_for_docker(text: str, count: int) -> None:
    assert o.parse_options({"size": text}).size_bytes == count
    assert o.changed({"size": text}, {"size": None}) == {}


@pytest.mark.parametrize("text", ["all", "10m:all,2h:1m,2d:1h,30d:1d", "1h:all", "90m:30s,1d:1h"])
def test_retention_reads_back(text: str) -> None:
    assert format_retention(parse_retention(text)) == text


def test_an_unknown_option_lists_the_allowed_ones() -> None:
    with pytest.raises(InvalidInputError) as caught:
        o.parse_options({"intervall\n": "1s"})
    for name, option in o.OPTIONS.items():
        assert f"{name}=<{option.form}>" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_options() -> None:
    with pytest.raises(InvalidInputError):
        o.parse_options({f"x{i}": "" for i in range(VOLUME_OPTIONS_MAX + 1)})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1s", 1), ("10m", 600), ("1h", 3600), ("30d", 2592000), ("1.5s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(1, 30 * 86400 * 1000))
def test_durations_come_back(milliseconds: int) -> None:
    text = format_duration(milliseconds / 1000)
    assert round(parse_duration(text) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("65536", 65536), ("64KiB", 65536), ("1.5MiB", 1572864)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1023, "1023B"), (65536, "64KiB"), (1 << 20, "1MiB"), (1600000, "1.5MiB")],
)
def test_sizes_for_a_person(count: int, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize("name", ["a", "0", "pg_data.v2-x", "a" * 255, "A..b"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b", ".", "..", ".a", "_a", "-a", "a b", "a\n", "a\0", "é", "a" * 256, "\ud800"],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_name(name)
    message = str(caught.value)
    assert message.replace("…", "").isascii()
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("mount_id", ["0" * 64, "x", "m" * 256])
def test_good_mount_ids(mount_id: str) -> None:
    assert check_mount_id(mount_id) == mount_id


@pytest.mark.parametrize("mount_id", ["", " ", "a\n", "m" * 257, "é", "\udfff"])
def test_bad_mount_ids(mount_id: str) -> None:
    with pytest.raises(InvalidInputError):
        check_mount_id(mount_id)


@given(st.dictionaries(st.sampled_from([*o.OPTIONS, "x"]), st.text(max_size=20), max_size=5))
def test_any_text_parses_or_is_invalid_input(options: dict[str, str]) -> None:
    try:
        parsed = o.parse_options(options)
    except InvalidInputError:
        return
    assert 0.1 <= parsed.interval_seconds <= 30 * 86400
