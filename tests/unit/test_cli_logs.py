"""Log lines: one event each, whatever the values hold."""

from __future__ import annotations

import logging
import sys

from diffkeeper.daemon.logs import EventFormatter


def line(message: str, **fields: object) -> str:
    record = logging.LogRecord("n", logging.WARNING, "f", 1, message, None, None)
    vars(record).update(fields)
    return EventFormatter().format(record)


def test_plain_values_stay_plain() -> None:
    fields = {"volume": "pg-data", "ms": 1.23456, "count": 3, "path": "/a/b:c"}
    assert line("mounted", **fields) == (
        "warning mounted volume=pg-data ms=1.235 count=3 path=/a/b:c"
    )


def test_values_that_could_be_misread_are_quoted() -> None:
    assert line("x", error='no "room" left') == 'warning x error="no \\"room\\" left"'
    assert line("x", a="", b="k=v", c="a\nb\x1b[31m") == (
        'warning x a="" b="k=v" c="a\\nb\\u001b[31m"'
    )


def test_a_traceback_is_one_line_too() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        text = line("failed", exc_info=sys.exc_info())
    assert "\n" not in text
    assert "ValueError" in text


def test_a_foreign_message_with_line_breaks_is_one_line() -> None:
    assert "\n" not in line("a\nb")
