"""What the globs of the option `exclude` match, and which are refused."""

from __future__ import annotations

import pytest

from diffkeeper.errors import InvalidInputError
from diffkeeper.snapshot.exclusions import Exclusions
from diffkeeper.volumes.options import parse_options


@pytest.mark.parametrize(
    ("glob", "inside", "outside"),
    [
        ("cache", ["cache"], ["a/cache", "cache2", "Cache", "a"]),
        ("a/b", ["a/b"], ["b", "a", "a/c", "c/a/b"]),
        ("*.tmp", ["x.tmp", ".tmp"], ["d/x.tmp", "x.tmp2"]),
        ("**/*.tmp", ["x.tmp", "d/x.tmp", "d/e/f/x.tmp"], ["tmp", "d/x.tm"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["b", "a", "x/a/b"]),
        ("a/**", ["a/b"], ["a", "b"]),
        ("**/a/**/b", ["a/b", "x/a/y/b"], ["b", "a", "x/b"]),
        ("a/*/c", ["a/b/c"], ["a/c", "a/b", "a/b/x/c"]),
        ("[ab]?", ["ax", "b1"], ["a", "cx", "axx"]),
        ("ü*", ["übung"], ["ubung"]),
    ],
)
def test_globs(glob: str, inside: list[str], outside: list[str]) -> None:
    exclusions = Exclusions([glob])
    for path in inside + outside:
        *parents, name = path.encode().split(b"/")
        assert exclusions.within(parents)(name) is (path in inside), path


def test_a_name_that_is_no_text_and_a_glob_of_many_stars() -> None:
    assert Exclusions(["**/*\udcff"]).within([b"d"])(b"x\xff")
    assert not Exclusions(["*a*a*a*a*a*a*a*a*a*a*b"]).within([])(b"a" * 255)


@pytest.mark.parametrize(
    "text", ["", "/a", "a/", "a//b", "a,,b", "../a", "a/./b", "*", "**", "**/*", "a**", "a\n", "a,"]
)
def test_a_bad_option_names_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"option exclude: .*GLOB\[,GLOB…\]"):
        parse_options({"exclude": text})


def test_globs_are_bounded() -> None:
    assert parse_options({"exclude": ",".join("a" * 32)}).policy.exclude == ("a",) * 32
    with pytest.raises(InvalidInputError, match="more than 32"):
        parse_options({"exclude": ",".join("a" * 33)})
