"""Runs in a container, with the standard library and Debian's drivers alone: one workload on /data.

`serve KIND` checks what was acknowledged before, then commits numbers for ever; each is appended
to /ledger/KIND once it is acknowledged. `check KIND` opens a copy and checks it with the database's
own means. Both end with 3 when something is lost or broken.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import subprocess
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = pathlib.Path("/data")
START_SECONDS_MAX = 120.0
FILES = int(os.environ.get("SOAK_FILES", "5000"))
RATE = int(os.environ.get("SOAK_RATE", "100"))
PAUSE_SECONDS = float(os.environ.get("SOAK_PAUSE", "0.02"))
LOST = 3


class Database(Protocol):
    """A database, or what stands in for one."""

    def start(self) -> None:
        """Make it answer; creates it where there is nothing."""

    def commit(self, number: int) -> None:
        """Store the number; it is acknowledged when this returns."""

    def newest(self) -> int:
        """The greatest number that is stored; fails unless all below it are, too."""

    def check(self) -> None:
        """The database's own look at all of its data; raises when it is broken."""


def lost(text: str) -> None:
    """Say so, and end."""
    print(f"LOST {text}", flush=True)
    os._exit(LOST)


def as_user(user: str, command: tuple[str, ...]) -> list[str]:
    """The command, run by that user; by root where there is none."""
    how = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
    return [*how, *command]


def run(*command: str, user: str = "") -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        as_user(user, command), capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def background(*command: str) -> None:
    """Start a command that goes on to the container's end."""
    subprocess.Popen(command, stdout=subprocess.DEVNULL)


def answering(attempt: Callable[[], Any]) -> Any:
    """What the attempt returns once it fails no more."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            return attempt()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def owned(path: pathlib.Path, user: str) -> bool:
    """Make a directory of that user; whether it was new."""
    new = not path.exists()
    path.mkdir(exist_ok=True)
    run("chown", user, str(path))
    return new


class Postgres:
    """Under pgbench beside the numbers."""

    def start(self) -> None:
        bin_dir = next(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
        cluster = DATA / "cluster"
        owned(cluster, "postgres")
        if not (cluster / "PG_VERSION").exists():
            run("find", str(cluster), "-mindepth", "1", "-delete")
            run(f"{bin_dir}/initdb", "-D", str(cluster), "-k", user="postgres")
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        run(
            f"{bin_dir}/pg_ctl", "-D", str(cluster), "-w", "-t", "100", "-l", "/tmp/pg.log",
            "-o", "-c listen_addresses= -k /tmp", "start", user="postgres",
        )  # fmt: skip
        import psycopg2  # in the image alone

        run("chmod", "0777", "/tmp")
        self._db = answering(lambda: psycopg2.connect("host=/tmp user=postgres dbname=postgres"))
        self._db.autocommit = True
        self._run("CREATE TABLE IF NOT EXISTS ledger (n bigint PRIMARY KEY)")
        self._run("CREATE EXTENSION IF NOT EXISTS amcheck")
        self._bin = bin_dir

    def _run(self, statement: str, *values: int) -> Any:
        with self._db.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchone() if cursor.description else None

    def load(self) -> None:
        """pgbench, for ever."""
        common = ("-h", "/tmp", "-U", "postgres", "postgres")
        if self._run("SELECT to_regclass('pgbench_history')")[0] is None:
            run(f"{self._bin}/pgbench", "-i", "-q", "-s", "5", *common)
        rate = ("-R", str(RATE)) if RATE else ()
        background(f"{self._bin}/pgbench", "-n", "-c", "2", *rate, "-T", "86400", *common)

    def commit(self, number: int) -> None:
        self._run("INSERT INTO ledger VALUES (%s)", number)

    def newest(self) -> int:
        count, newest = self._run("SELECT count(*), coalesce(max(n), 0) FROM ledger")
        return gapless(count, newest)

    def check(self) -> None:
        run(f"{self._bin}/pg_amcheck", "-h", "/tmp", "-U", "postgres", "--heapallindexed", "-a")
        if self._run("SELECT to_regclass('pgbench_history')")[0] is None:
            return
        sums = self._run(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts),"
            " (SELECT sum(tbalance) FROM pgbench_tellers),"
            " (SELECT sum(bbalance) FROM pgbench_branches),"
            " (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
        )
        if len(set(sums)) != 1:
            raise RuntimeError(f"the sums of pgbench differ: {sums}")


class Maria:
    """InnoDB, with its own O_DIRECT and asynchronous I/O."""

    def start(self) -> None:
        directory = DATA / "my"
        if owned(directory, "mysql") or not (directory / "mysql").exists():
            run("find", str(directory), "-mindepth", "1", "-delete")
            run("mariadb-install-db", f"--datadir={directory}", "--user=mysql")
        background(
            "mariadbd", f"--datadir={directory}", "--user=mysql", "--socket=/tmp/my.sock",
            "--skip-networking", "--pid-file=/tmp/my.pid", "--innodb-buffer-pool-size=64M",
        )  # fmt: skip
        import pymysql  # in the image alone

        def connect() -> Any:
            return pymysql.connect(unix_socket="/tmp/my.sock", user="root", autocommit=True)

        self._db = answering(connect)
        self._run("CREATE DATABASE IF NOT EXISTS soak")
        self._run(
            "CREATE TABLE IF NOT EXISTS soak.ledger (n bigint PRIMARY KEY, t varchar(900))"
            " ENGINE=InnoDB"
        )

    def _run(self, statement: str, *values: object) -> Any:
        with self._db.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchone()

    def commit(self, number: int) -> None:
        self._run("INSERT INTO soak.ledger VALUES (%s, %s)", number, f"{number}," * 100)

    def newest(self) -> int:
        count, newest = self._run("SELECT count(*), coalesce(max(n), 0) FROM soak.ledger")
        return gapless(count, newest)

    def check(self) -> None:
        found = run("mariadb-check", "--socket=/tmp/my.sock", "--all-databases", "--extended")
        bad = [line for line in found.splitlines() if line.strip() and not line.endswith("OK")]
        if bad:
            raise RuntimeError(f"mariadb-check: {bad[:5]}")


class Redis:
    """An append-only file that is synced at every command."""

    def start(self) -> None:
        background(
            "redis-server", "--dir", str(DATA), "--appendonly", "yes", "--appendfsync", "always",
            "--port", "0", "--unixsocket", "/tmp/redis.sock", "--save", "60", "1000",
            "--auto-aof-rewrite-min-size", "4mb",
        )  # fmt: skip
        import redis  # in the image alone

        def connect() -> Any:
            made = redis.Redis(unix_socket_path="/tmp/redis.sock")
            made.ping()
            return made

        self._db = answering(connect)

    def commit(self, number: int) -> None:
        pipe = self._db.pipeline(transaction=True)
        pipe.set("newest", number)
        pipe.sadd("numbers", number)
        pipe.set(f"key:{number % 5000}", os.urandom(200))
        pipe.execute()

    def newest(self) -> int:
        return gapless(int(self._db.scard("numbers")), int(self._db.get("newest") or 0))

    def check(self) -> None:
        found = self._db.info("persistence")
        if found["aof_last_write_status"] != "ok" or found["loading"]:
            raise RuntimeError(f"the append-only file: {found}")


class Sqlite:
    """A write-ahead log, and reads through mappings."""

    def start(self) -> None:
        self._db = sqlite3.connect(DATA / "db", isolation_level=None, timeout=60)
        for pragma in ("journal_mode=wal", "synchronous=full", "mmap_size=67108864"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE IF NOT EXISTS ledger (n INTEGER PRIMARY KEY, b BLOB)")

    def commit(self, number: int) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT INTO ledger VALUES (?, ?)", (number, os.urandom(300)))
        # Old rows are rewritten, so that pages all over the file change.
        self._db.execute("UPDATE ledger SET b=? WHERE n=?", (os.urandom(300), number * 7 // 11))
        self._db.execute("COMMIT")

    def newest(self) -> int:
        count, newest = self._db.execute(
            "SELECT count(*), coalesce(max(n), 0) FROM ledger"
        ).fetchone()
        return gapless(count, newest)

    def check(self) -> None:
        (found,) = self._db.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise RuntimeError(f"integrity_check: {found}")


class Files:
    """A tree of small files, some of which are replaced all the time; each carries its own sum."""

    def start(self) -> None:
        self._tree = DATA / "tree"
        for directory in range(100):
            (self._tree / str(directory)).mkdir(parents=True, exist_ok=True)
        if not (DATA / "complete").exists():
            for number in range(FILES):
                self._write(number, 0)
            (DATA / "complete").write_text("")
        self._newest = max((number for number, _ in self._all()), default=0)

    def _path(self, number: int) -> pathlib.Path:
        return self._tree / str(number % 100) / str(number % FILES)

    def _write(self, slot: int, number: int) -> None:
        body = f"{number} ".encode() * (1 + slot % 400)
        path = self._path(slot)
        fresh = path.with_suffix(".new")
        with open(fresh, "wb") as file:
            file.write(b"%d %d\n" % (number, zlib.crc32(body)) + body)
            file.flush()
            if number:
                os.fsync(file.fileno())
        fresh.rename(path)

    def commit(self, number: int) -> None:
        self._write(number, number)
        directory = os.open(self._path(number).parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        self._newest = number

    def _all(self) -> Iterator[tuple[int, bool]]:
        for path in self._tree.glob("*/*"):
            if path.suffix:
                continue
            head, _, body = path.read_bytes().partition(b"\n")
            number, total = head.split()
            yield int(number), zlib.crc32(body) == int(total)

    def newest(self) -> int:
        return self._newest

    def check(self) -> None:
        found = list(self._all())
        broken = sum(not whole for _, whole in found)
        if broken or len(found) != FILES:
            raise RuntimeError(f"{broken} of {len(found)} files are torn; {FILES} are due")


KINDS: dict[str, Callable[[], Database]] = {
    "postgres": Postgres,
    "maria": Maria,
    "redis": Redis,
    "sqlite": Sqlite,
    "files": Files,
}


def gapless(count: int, newest: int) -> int:
    """The newest number; ends when one below it is missing."""
    if count != newest:
        lost(f"{count} numbers are stored, up to {newest}")
    return newest


def serve(kind: str) -> None:
    """For ever."""
    ledger = pathlib.Path("/ledger") / kind
    workload = KINDS[kind]()
    workload.start()
    with contextlib.suppress(FileNotFoundError):
        acknowledged = [int(line) for line in ledger.read_text().split("\n")[-3:-1] if line]
        if acknowledged and workload.newest() < acknowledged[-1]:
            lost(f"{workload.newest()} is the newest of {acknowledged[-1]} that were acknowledged")
    if isinstance(workload, Postgres):
        workload.load()
    number = workload.newest()
    with open(ledger, "ab", buffering=0) as file:
        while True:
            number += 1
            workload.commit(number)
            file.write(b"%d\n" % number)
            time.sleep(PAUSE_SECONDS)


def check(kind: str) -> None:
    """Once."""
    workload = KINDS[kind]()
    workload.start()
    newest = workload.newest()
    workload.check()
    print(f"WHOLE {newest}", flush=True)


def main() -> None:
    action, kind = sys.argv[1:]
    try:
        {"serve": serve, "check": check}[action](kind)
    except Exception as error:
        print(f"BROKEN {kind}: {error}", flush=True)
        # The servers that were started in the background end with the container.
        os._exit(LOST if action == "check" else 1)
    os._exit(0)


if __name__ == "__main__":
    main()
