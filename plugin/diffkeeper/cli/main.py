"""The `diffkeeper` command: arguments in, exit code out."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import diffkeeper
from diffkeeper.cli import output
from diffkeeper.cli.commands import COMMANDS
from diffkeeper.daemon import config
from diffkeeper.errors import DiffKeeperError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_INTERRUPTED: Final = 130  # what a shell reports for SIGINT
EXIT_BROKEN_PIPE: Final = 141  # and for SIGPIPE
EXIT_CODES: Final = """\
exit codes:
  0 done, 1 other error, 2 invalid input, 3 not found, 4 conflict, 5 corruption, 6 no space,
  7 unsupported, 8 busy, 9 store locked, 10 store too new, 11 no daemon, 12 verification failed,
  13 freeze failed, 14 restored but for what the target refused,
  15 the store is not where it was, 16 a live directory cannot be looked at,
  17 mounts do not reach the host, 130 interrupted, 141 broken pipe
"""


class _Intermixed(argparse.ArgumentParser):
    """Also takes options between arguments, as in V --to DIR PATH.

    argparse assigns the arguments that stand together: V alone leaves no PATH. After "--" its way
    is kept, so that a PATH may begin with a dash; options come first then.
    """

    _mixed = False  # within `parse_known_intermixed_args`, which may call the method below

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in the base class."""
        if self._mixed or "--" in args:
            return super().parse_known_args(args, namespace)
        self._mixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixed = False


def parser() -> argparse.ArgumentParser:
    """The command line. --socket and --json work before and after the command's name."""
    top = argparse.ArgumentParser(
        prog="diffkeeper",
        description="Docker volumes that remember every state they were in.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"diffkeeper {diffkeeper.__version__}")
    _add_common(top, {"socket": None, "json": False})
    common = _Intermixed(add_help=False)
    # A default here would overwrite what was given before the command's name.
    _add_common(common, {"socket": argparse.SUPPRESS, "json": argparse.SUPPRESS})
    subparsers = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Intermixed
    )
    for command in COMMANDS:
        text = command.help
        sub = subparsers.add_parser(command.name, help=text, description=text, parents=[common])
        sub.set_defaults(run=command.run)
        command.add_arguments(sub)
    return top


def _add_common(to: argparse.ArgumentParser, default: dict[str, object]) -> None:
    text = f"the daemon's Unix socket [{config.variable('socket')}]"
    to.add_argument("--socket", metavar="PATH", default=default["socket"], help=text)
    json_help = "print JSON, for scripts"
    to.add_argument("--json", action="store_true", default=default["json"], help=json_help)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Wrong arguments give 2, as argparse does."""
    try:
        code = _run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _failed("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        output.discard_output()
        return EXIT_BROKEN_PIPE
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = parser().parse_args(argv)
        code: int = arguments.run(arguments)
        return code
    except SystemExit as ended:  # argparse has already said why
        return ended.code if isinstance(ended.code, int) else 2
    except DiffKeeperError as error:
        return _failed(str(error), error.exit_code)


def _failed(message: str, code: int) -> int:
    sys.stderr.write(f"diffkeeper: {output.printable(message)}\n")
    return code


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())
