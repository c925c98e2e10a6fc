"""Logging: one line per event on standard output, `level event key=value…`.

Events are logged as `log.info("mounted", extra={"volume": name})`: the message is the event's name,
every extra attribute one `key=value`. dockerd tags what standard error gets as errors, so
everything goes to standard output.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f]+")
VALUE_CHARACTERS_MAX: Final = 4096


class EventFormatter(logging.Formatter):
    """One line per record, whatever the values hold."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as `level event key=value…`; a traceback is one quoted value."""
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        event = record.getMessage()
        words = [record.levelname.lower(), event if "\n" not in event else quoted(event)]
        words += [f"{key}={quoted(value)}" for key, value in fields.items()]
        return " ".join(words)


def quoted(value: object) -> str:
    """A value on one line: bare when nothing in it could be misread, else as a JSON string."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if len(text) > VALUE_CHARACTERS_MAX:
        text = text[:VALUE_CHARACTERS_MAX] + "…"
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def configure(level: str) -> None:
    """Send every logger's records of `level` and above to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(EventFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
