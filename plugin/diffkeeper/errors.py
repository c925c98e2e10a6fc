"""One exception per condition.

The CLI's exit code (`exit_code`) and the API's HTTP status (`http_status`) come from the class,
so that a caller can tell conditions apart without reading the message.
"""


class DiffKeeperError(Exception):
    """Base of every error that DiffKeeper raises on purpose; its text is written for a person."""

    exit_code = 1
    http_status = 500


def described(error: BaseException) -> str:
    """Text of an error, followed by the notes that were added to it."""
    return "; ".join([str(error), *getattr(error, "__notes__", [])])


class InvalidInputError(DiffKeeperError):
    """The request, a name, an option or an argument is malformed; nothing was changed."""

    exit_code = 2
    http_status = 400


class NotFoundError(DiffKeeperError):
    """The named volume, snapshot or object does not exist."""

    exit_code = 3
    http_status = 404


class ConflictError(DiffKeeperError):
    """The request contradicts the present state, such as removing a mounted volume."""

    exit_code = 4
    http_status = 409


class CorruptionError(DiffKeeperError):
    """Stored bytes do not decode, or do not hash to their key; nothing else raises this."""

    exit_code = 5
    http_status = 500


class NoSpaceError(DiffKeeperError):
    """The file system that holds the store has no room left; store and live data are whole."""

    exit_code = 6
    http_status = 507


class UnsupportedError(DiffKeeperError):
    """The kernel, file system or engine lacks a feature that the request needs."""

    exit_code = 7
    http_status = 501


class BusyError(DiffKeeperError):
    """The operation did not finish within its bound, or the daemon is still loading."""

    exit_code = 8
    http_status = 503


class StoreLockedError(DiffKeeperError):
    """Another process holds the store open."""

    exit_code = 9
    http_status = 423


class FormatVersionError(DiffKeeperError):
    """The store was written by a newer format version than this release reads."""

    exit_code = 10
    http_status = 500


class UnavailableError(DiffKeeperError):
    """No DiffKeeper daemon answers on the socket."""

    exit_code = 11
    http_status = 503


class VerificationError(DiffKeeperError):
    """What is on disk does not hash to the snapshot's Merkle root; the message names the files."""

    exit_code = 12
    http_status = 500


class FreezeError(DiffKeeperError):
    """The writers could not be frozen, or were thawed before the work inside the freeze was done.

    held_seconds: how long some of them were frozen; again: whether another attempt at once may
    succeed.
    """

    exit_code = 13
    http_status = 503

    def __init__(self, text: str, *, held_seconds: float = 0.0, again: bool = True) -> None:
        super().__init__(text)
        self.held_seconds = held_seconds
        self.again = again


class IncompleteError(DiffKeeperError):
    """A restore is done except for what its target refused (owners, attributes, …), which is
    listed.
    """

    exit_code = 14
    http_status = 500


class StoreMissingError(DiffKeeperError):
    """There should be a store, and there is none: its disk is not mounted, or a setting has
    changed.
    """

    exit_code = 15
    http_status = 500


class MountUnseenError(DiffKeeperError):
    """What the plugin mounts is not visible on the host: a container would see an empty
    directory.
    """

    exit_code = 17
    http_status = 503


class UnreadableError(DiffKeeperError):
    """Whether a live directory exists cannot be found out: its disk fails, or is not mounted."""

    exit_code = 16
    http_status = 500
