"""The `diffkeeper` command: arguments in, exit code out."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import diffkeeper
from diffkeeper.cli import commands, output
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
HELP: Final = {
    "serve": "run the daemon",
    "volumes": "list the volumes",
    "inspect": "show one volume with its status",
    "set": "change options of a volume",
    "rename": "give a volume that nothing has mounted another name",
    "snapshots": "list the snapshots of a volume, oldest first",
    "snapshot": "take a snapshot now and wait until it is durable",
    "verify": "check a volume, or one of its snapshots, against the Merkle root",
    "repair": "put recorded bytes back into damaged files of a volume that nothing has mounted",
    "restore": "write a snapshot's files into a directory",
    "export": "write a snapshot as a tar, or a volume with its history, into one file",
    "import": "make a new volume from a file that export --history wrote",
    "tag": "give a snapshot a name, under which it is kept",
    "untag": "take such a name away",
    "forget": "forget snapshots, all that are named or none",
    "prune": "show what retention lets go now, and forget it",
    "trash": "list the removed volumes",
    "undelete": "bring a removed volume back with its history",
    "empty-trash": "delete removed volumes for good",
    "maintain": "do all maintenance of the store that is due, and say what was done",
    "scrub": "read every stored object again, heal what is damaged, name what is lost",
    "compact": "give free room in the store's file back to the file system",
    "stats": "show what the store and each volume take",
    "doctor": "say what is missing on this machine, what it costs and how to mend it",
    "version": "show the versions of this program and of the daemon",
}


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
    common = argparse.ArgumentParser(add_help=False)
    # A default here would overwrite what was given before the command's name.
    _add_common(common, {"socket": argparse.SUPPRESS, "json": argparse.SUPPRESS})
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in HELP.items():
        sub = subparsers.add_parser(name, help=text, description=text, parents=[common])
        _add_own(sub, name)
    return top


def _add_own(sub: argparse.ArgumentParser, name: str) -> None:
    """The arguments that the command of this name has for itself."""
    match name:
        case "inspect" | "snapshots" | "snapshot" | "untag":
            sub.add_argument("volume", metavar="VOLUME")
        case "verify" | "restore" | "export" | "tag":
            sub.add_argument("volume", metavar="VOLUME[@SNAPSHOT]")
        case "forget":
            sub.add_argument("snapshots", metavar="VOLUME@SNAPSHOT", nargs="+")
        case "import":
            sub.add_argument("file", metavar="FILE", help="what was exported, or - to pipe")
            new = "name of the new volume"
            sub.add_argument("--as", dest="name", metavar="NAME", required=True, help=new)
        case "set":
            sub.add_argument("volume", metavar="VOLUME")
            form = "such as interval=5s; without a value the default"
            sub.add_argument("options", metavar="OPTION=VALUE", nargs="+", help=form)
        case "rename":
            sub.add_argument("volume", metavar="VOLUME")
            sub.add_argument("to", metavar="NAME")
        case "stats":
            sub.add_argument("volume", metavar="VOLUME", nargs="?")
        case "prune":
            sub.add_argument("volume", metavar="VOLUME", nargs="?")
            sub.add_argument("--dry-run", action="store_true", help="show it only")
        case "maintain":
            sub.add_argument("--now", action="store_true", help="at once, which is the default")
        case "repair":
            sub.add_argument("volume", metavar="VOLUME")
            which = "file below the volume's top directory; all that are damaged by default"
            sub.add_argument("paths", metavar="PATH", nargs="*", help=which)
            sub.add_argument("--dry-run", action="store_true", help="show what is damaged only")
            sub.add_argument("--yes", action="store_true", help="do not ask")
        case "undelete":
            sub.add_argument("volume", metavar="VOLUME|ID")
            sub.add_argument("--as", dest="to", metavar="NAME", help="under another name")
        case "empty-trash":
            sub.add_argument("volume", metavar="VOLUME|ID", nargs="?")
            sub.add_argument("--yes", action="store_true", help="do not ask")
        case "serve":
            config.add_arguments(sub)
    match name:
        case "restore":
            which = "file or directory below the volume's top directory; everything by default"
            sub.add_argument("paths", metavar="PATH", nargs="*", help=which)
            sub.add_argument("--to", metavar="DIR", required=True, help="new or empty directory")
            group = "all volumes that were captured with it, as they were at the same instant"
            sub.add_argument("--group", action="store_true", help=group)
            for flag, what in (("owner", "owners and groups"), ("xattrs", "extended attributes")):
                sub.add_argument(f"--no-{flag}", action="store_true", help=f"without {what}")
        case "export":
            sub.add_argument("--to", metavar="FILE", required=True, help="new file, or - to pipe")
            whole = "the whole volume with all its snapshots, for `diffkeeper import`"
            sub.add_argument("--history", action="store_true", help=whole)
        case "tag" | "untag":
            sub.add_argument("tag", metavar="TAG")


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
        return commands.COMMANDS[arguments.command](arguments)
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
