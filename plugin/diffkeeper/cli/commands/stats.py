"""The commands that ask the daemon one thing and show the answer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import diffkeeper
from diffkeeper.cli import changes, discover, doctor, history, output, repair, restore, transfer
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.connection import ask, connect, socket_path
from diffkeeper.daemon import config
from diffkeeper.errors import (
    BusyError,
    CorruptionError,
    DiffKeeperError,
    UnavailableError,
    VerificationError,
)
from diffkeeper.volumes.options import check_name, format_size
from diffkeeper.volumes.path_arguments import check_path

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from diffkeeper.volumes.views import Json


def volumes(arguments: argparse.Namespace) -> int:
    """List the volumes."""
    found = cast("list[Json]", ask(arguments, "GET", "/v1/volumes"))
    if arguments.json:
        output.print_json(found)
        return 0
    rows = [[v["name"], v["mounts"], v["created_at"], v["mountpoint"] or "-"] for v in found]
    output.print_table(("volume", "mounts", "created", "mountpoint"), rows)
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """Show one volume with its status."""
    path = volume_path(check_name(arguments.volume))
    found = cast("Json", ask(arguments, "GET", path))
    if arguments.json:
        output.print_json(found)
    else:
        output.print_table(("field", "value"), list(flatten(found)))
    return 0


def flatten(value: Json, prefix: str = "") -> list[tuple[str, object]]:
    """Nested objects as `outer.inner` rows."""
    rows: list[tuple[str, object]] = []
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            rows += flatten(inner, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, "-" if inner in ("", None, {}, []) else inner))
    return rows


def snapshots(arguments: argparse.Namespace) -> int:
    """List the snapshots of a volume, oldest first."""
    path = volume_path(check_name(arguments.volume), "snapshots")
    found = cast("list[Json]", ask(arguments, "GET", path))
    if arguments.json:
        output.print_json(found)
    else:
        show_snapshots(found)
    return 0


def snapshot(arguments: argparse.Namespace) -> int:
    """Take a snapshot now; returns when it is durable."""
    path = volume_path(check_name(arguments.volume), "snapshots")
    with output.waiting(f"taking a snapshot of {arguments.volume}"):
        taken = cast("Json", ask(arguments, "POST", path, {}))
    if arguments.json:
        output.print_json(taken)
    else:
        show_snapshots([taken])
    return 0


def show_snapshots(found: list[Json]) -> None:
    """Snapshots as a table."""
    headers = ["seq", "time", "consistency", "reason", "files", "size", "new", "freeze", "root"]
    more = [name for name in ("group", "tags") if any(each[name] for each in found)]
    rows = [_snapshot_row(each) + [_extra(each[name]) for name in more] for each in found]
    output.print_table(headers + more, rows)


def _extra(value: object) -> object:
    return (", ".join(value) if isinstance(value, list) else value) or "-"


def _snapshot_row(each: Json) -> list[object]:
    size, new = cast("int", each["bytes"]), cast("int", each["new_bytes"])
    freeze = f"{cast('float', each['freeze_ms']):.1f}ms"
    described = [each["seq"], each["time"], each["consistency"], each["reason"], each["files"]]
    root = str(each["root"])[:12]
    return [*described, format_size(size), format_size(new), freeze, root]


def verify(arguments: argparse.Namespace) -> int:
    """Verify a volume against its snapshot; raises VerificationError when it differs."""
    name, reference = restore.split_reference(arguments.volume)
    path = volume_path(check_name(name), "verify")
    with output.waiting(f"verifying {arguments.volume}"):
        report = cast("Json", ask(arguments, "POST", path, {"snapshot": reference}))
    if arguments.json:
        output.print_json(report)
    else:
        _show_report(report)
    if not report["ok"]:
        faults = cast("list[Json]", report["faults"])
        raise VerificationError(
            f"volume {name} differs from snapshot {report['seq']} in {len(faults)} places"
        )
    return 0


def _show_report(report: Json) -> None:
    verdict = "whole" if report["ok"] else "damaged"
    extent = "" if report["complete"] else " (only in part: the time ran out)"
    output.print_line(
        f"{report['volume']}@{report['seq']} is {verdict}{extent}: {report['files']} files,"
        f" {format_size(cast('int', report['bytes']))}"
        f" in {cast('float', report['milliseconds']):.0f} ms"
    )
    faults = cast("list[Json]", report["faults"])
    if faults:
        output.print_table(("path", "problem"), [[f["path"], f["problem"]] for f in faults])
    if report["repair"]:
        count = sum(bool(fault["damaged"]) for fault in faults)
        output.print_line(
            f"{count} of these nobody wrote to; when nothing has the volume mounted, put the"
            f" recorded bytes back: {report['repair']}"
        )


def restore_volume(arguments: argparse.Namespace) -> int:
    """Restore a snapshot, or all volumes of its group, into a directory.

    Raises IncompleteError, after all is shown, when the target refused some of it.
    """
    check_name(restore.split_reference(arguments.volume)[0])
    wanted = restore.Wanted(
        owner=not arguments.no_owner,
        xattrs=not arguments.no_xattrs,
        # As a shell completes the name of a directory.
        paths=tuple(check_path(path.rstrip("/")) for path in arguments.paths),
    )
    client = connect(arguments)
    try:
        act = restore.restore_group if arguments.group else restore.restore
        result = act(client, arguments.volume, arguments.to, wanted)
    finally:
        client.close()
    if arguments.json:
        output.print_json(result)
    else:
        restore.show(result)
    restore.judge(result)
    return 0


def export_volume(arguments: argparse.Namespace) -> int:
    """Export one snapshot as a tar, or a volume with its history as an archive."""
    client = connect(arguments)
    try:
        result = transfer.export(client, arguments.volume, arguments.to, history=arguments.history)
    finally:
        client.close()
    if arguments.json and arguments.to != transfer.STANDARD:
        output.print_json(result)
    else:
        transfer.show_export(result)
    return 0


def import_volume(arguments: argparse.Namespace) -> int:
    """Import an archive as a new volume."""
    client = connect(arguments)
    try:
        result = transfer.import_volume(client, arguments.file, arguments.name)
    finally:
        client.close()
    if arguments.json:
        output.print_json(result)
    else:
        transfer.show_import(result)
    return 0


def stats(arguments: argparse.Namespace) -> int:
    """Totals of the store and what each volume takes, counted now; or one volume's figures."""
    with output.waiting("counting"):
        found = cast("Json", ask(arguments, "POST", "/v1/stats", {}))
    accounting = cast("Json", found.pop("accounting") or {})
    each = cast("dict[str, Json]", accounting.get("volumes", {}))
    if arguments.volume is not None:
        name = check_name(arguments.volume)
        if name not in each:
            raise _not_counted(arguments, name)
        found, each = {"volume": name, **each[name]}, {}
    else:
        found |= {"accounting": accounting or None} if arguments.json else {}
    if arguments.json:
        output.print_json(found)
        return 0
    totals = flatten({**found, "scrub": _last_scrub(found)} if "scrub" in found else found)
    output.print_table(("total", "value"), [_statistic(*item) for item in totals])
    if each:
        output.print_line("")
        output.print_table(_ACCOUNT_HEADS, [_account_row(n, each[n]) for n in sorted(each)])
    return 0


def _last_scrub(found: Json) -> Json:
    """What a person wants to know of the last scrub; its list of paths is `scrub`'s to show."""
    last = cast("Json", found["scrub"])["last"]
    return {k: v for k, v in last.items() if k != "lost"} if isinstance(last, dict) else {}


def maintain(arguments: argparse.Namespace) -> int:
    """Do all maintenance that is due; returns when it is done."""
    return _figures(arguments, "/v1/maintain", "maintaining the store")


def scrub(arguments: argparse.Namespace) -> int:
    """Read every stored object again; raises CorruptionError when some of it is lost."""
    with output.waiting("scrubbing the store"):
        found = cast("Json", ask(arguments, "POST", "/v1/scrub", {}))
    lost = cast("list[Json]", found["lost"])
    if arguments.json:
        output.print_json(found)
    else:
        figures = [item for item in found.items() if item[0] != "lost"]
        output.print_table(("figure", "value"), [_statistic(*item) for item in figures])
        if lost:
            output.print_line("")
            heads = ("volume", "seq", "path")
            output.print_table(heads, [[each[head] for head in heads] for each in lost])
    if lost:
        raise CorruptionError(
            f"{found['lost_objects']} objects are damaged and could not be healed;"
            f" {found['lost_snapshots']} snapshots lose the files above"
        )
    return 0


def compact(arguments: argparse.Namespace) -> int:
    """Give free room in the store's file back to the file system."""
    return _figures(arguments, "/v1/compact", "compacting the store")


def _figures(arguments: argparse.Namespace, path: str, doing: str) -> int:
    with output.waiting(doing):
        found = cast("Json", ask(arguments, "POST", path, {}))
    if arguments.json:
        output.print_json(found)
    else:
        output.print_table(("figure", "value"), [_statistic(*item) for item in found.items()])
    return 0


def _not_counted(arguments: argparse.Namespace, name: str) -> BusyError:
    """Why there are no figures of a volume; raises NotFoundError when there is no volume."""
    ask(arguments, "GET", volume_path(name))
    return BusyError(f"volume {name} is still being counted; ask again")


_ACCOUNT_HEADS = ("volume", "files", "unique", "shared", "stored", "alone", "ratio", "a day", "age")


def _account_row(name: str, account: Json) -> list[object]:
    fields = ("logical", "unique", "shared", "stored", "unique_stored")
    sizes = [format_size(cast("int", account[f"{field}_bytes"])) for field in fields]
    growth = account["growth_bytes_per_day"]
    daily = "-" if growth is None else format_size(cast("int", growth))
    age = f"{cast('float', account['age_seconds']):.0f}s"
    return [name, *sizes, account["ratio"] or "-", daily, age]


def _statistic(name: str, value: object) -> tuple[str, str]:
    if name.endswith("_bytes") and isinstance(value, int):
        return name.removesuffix("_bytes"), format_size(value)
    return name, str(value)


def examine(arguments: argparse.Namespace) -> int:
    """Check the machine; exit code 1 when something fails."""
    places = config.load({"socket": arguments.socket}, os.environ)
    findings = doctor.examine(lambda: _live(socket_path(arguments)), places)
    if arguments.json:
        output.print_json(findings)
    else:
        doctor.show(findings)
    failed = any(finding["result"] == "fail" for finding in findings)
    return DiffKeeperError.exit_code if failed else 0


def _live(path: str) -> str:
    problem = discover.probe(path)
    if problem:
        raise UnavailableError(problem)
    return path


def version(arguments: argparse.Namespace) -> int:
    """This program's version and the running daemon's, if there is one."""
    daemon: Json | None = None
    problem = ""
    try:
        daemon = cast("Json", ask(arguments, "GET", "/v1/version"))
    except UnavailableError as error:
        problem = str(error)
    if arguments.json:
        output.print_json({"version": diffkeeper.__version__, "daemon": daemon})
        return 0
    output.print_line(f"diffkeeper {diffkeeper.__version__}")
    running = f"{daemon['version']} (pid {daemon['pid']})" if daemon else f"none: {problem}"
    output.print_line(f"daemon {running}")
    return 0


def serve(arguments: argparse.Namespace) -> int:
    """Run the daemon until it is told to stop."""
    flags = {setting: getattr(arguments, setting.replace("-", "_")) for setting in config.SETTINGS}
    loaded = config.load(flags, os.environ)
    from diffkeeper.daemon.serve import serve as run  # the daemon's imports are not the CLI's

    return run(loaded)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": serve,
    "volumes": volumes,
    "inspect": inspect,
    "set": changes.set_options,
    "rename": changes.rename,
    "snapshots": snapshots,
    "snapshot": snapshot,
    "verify": verify,
    "repair": repair.repair,
    "restore": restore_volume,
    "export": export_volume,
    "import": import_volume,
    "tag": history.tag,
    "untag": history.untag,
    "forget": history.forget,
    "prune": history.prune,
    "trash": history.trash,
    "undelete": history.undelete,
    "empty-trash": history.empty_trash,
    "maintain": maintain,
    "scrub": scrub,
    "compact": compact,
    "stats": stats,
    "doctor": examine,
    "version": version,
}
