"""The directory that a command writes to.

Other users may write there, too, and may put links into the path at any moment. So a path is walked
once, and from then on only descriptors are used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from diffkeeper.errors import ConflictError, DiffKeeperError, InvalidInputError, NoSpaceError
from diffkeeper.fsio import tree

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDARD = "-"  # standard output, or input, in place of a file


def check_target(path: str) -> str:
    """The absolute path of a target that doesn't exist or is an empty directory; its parent must
    exist. Creates nothing. Raises ConflictError, InvalidInputError.
    """
    target = os.path.abspath(path)
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(target)):
            raise InvalidInputError(f"{os.path.dirname(target)} is not a directory") from None
        return target
    except OSError as error:
        raise InvalidInputError(f"{target}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise ConflictError(f"{target} exists and is not a directory")
    with os.scandir(target) as entries:
        _require_empty(entries, target)
    return target


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the empty directory at an absolute path, created with mode 0700 if needed.

    If something replaces it meanwhile, that is not written to. ConflictError when it is not empty
    or is a link, InvalidInputError when it cannot be reached.
    """
    with parent(path) as above, opened_in(above, path) as directory:
        yield directory


@contextlib.contextmanager
def opened_in(above: int, path: str) -> Iterator[int]:
    """As `opened`, where `above` is a descriptor of the directory above."""
    try:
        fd = tree.make_directory(above, os.fsencode(os.path.basename(path)))
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise ConflictError(f"{path} exists and is not a directory") from error
        raise failed(path, error) from error
    try:
        with os.scandir(fd) as entries:
            _require_empty(entries, path)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def parent(path: str) -> Iterator[int]:
    """A descriptor of the directory that holds an absolute path; InvalidInputError."""
    above = os.path.dirname(path)
    try:
        fd = tree.open_trusted(above)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be reached: {error.strerror or error}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def failed(path: str, error: OSError) -> DiffKeeperError:
    """The error for a target that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    kind = NoSpaceError if full else InvalidInputError
    return kind(f"{path} cannot be written: {error.strerror or error}")


def _require_empty(entries: Iterator[os.DirEntry[str]], target: str) -> None:
    if next(entries, None) is not None:
        raise ConflictError(f"{target} is not empty; nothing was restored")
