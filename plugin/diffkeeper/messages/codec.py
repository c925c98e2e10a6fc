"""Structures to JSON and back.

JSON is read and written by the standard library: paths may contain bytes that are no UTF-8, as lone
surrogates, which msgspec's own reader and writer refuse.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeVar

import msgspec

from diffkeeper.errors import InvalidInputError

Json = dict[str, object]
T = TypeVar("T")
PROBLEM_CHARACTERS_MAX = 200
_WORDS: Final = [
    (re.compile(pattern), words)
    for pattern, words in (
        (r"^Object missing required field `(\w+)`", r"\1 is missing"),
        (r"^Expected", "expected"),
        (r"of length >= 1$", "of at least one"),
        (r"of length >= ", "of at least "),
        (r"of length <= ", "of at most "),
        (r"\barray\b", "list"),
        (r"\bstr\b", "string"),
        (r"\bbool\b", "boolean"),
        (r"\b(?:int|float)\b", "number"),
        ("`", ""),
    )
]


def plain(value: object) -> object:
    """The value as dicts, lists, strings and numbers, in the order of the structures' fields."""
    return msgspec.to_builtins(value)


def to_json(value: object) -> bytes:
    """`value` as JSON; non-ASCII text is escaped, so that any string can be sent."""
    return json.dumps(plain(value)).encode("ascii")


def converted(value: object, kind: type[T]) -> T:
    """A value from JSON as a structure; InvalidInputError naming what does not fit."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        text = str(error).encode("ascii", "backslashreplace").decode()
        raise InvalidInputError(_words(text)[:PROBLEM_CHARACTERS_MAX]) from error


def _words(text: str) -> str:
    """The message of msgspec with JSON's names of types, after the place: `paths[0]: expected
    …`.
    """
    text, at, place = text.partition(" - at `$")
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    where = place.removesuffix("`").removeprefix(".")
    return f"{where}: {text}" if at else text
