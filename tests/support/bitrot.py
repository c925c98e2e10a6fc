"""Bits that rot on a disk: in the image below a mounted file system, past the kernel's files.

No timestamp of a file moves: the file system does not know.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

SECTOR = 512
_FIEMAP_CALL = 0xC020660B
_FIEMAP = struct.Struct("=QQIIII")  # range, flags, extents found, room for extents
_FIEMAP_SYNC = 1
_EXTENT = struct.Struct("=QQQ32x")  # struct fiemap_extent: in the file, on the disk, length
MIB = 1 << 20
OPTIONS = {"interval": "1h", "retention": "all"}
CAPABILITY = b"\1\0\0\2" + b"\0\4" + bytes(14)  # as setcap cap_net_bind_service+ep; a write ends it
Files = dict[str, bytes]


def image(daemon: Daemon) -> Path:
    """The image below the disk that is the daemon's base."""
    return daemon.base.parent / "image"


def live(daemon: Daemon) -> Path:
    """The live directory of `v`."""
    return Path(daemon.ok("Get", Name="v")["Volume"]["Status"]["live"])


def filled(daemon: Daemon, **options: str) -> Files:
    """A volume that nothing has mounted, replayed, so that its signatures prove everything."""
    daemon.ok("Create", Name="v", Opts={**OPTIONS, **options})
    mountpoint = Path(daemon.ok("Mount", Name="v", ID="m")["Mountpoint"])
    (mountpoint / "d").mkdir()
    files = {"a": os.urandom(3 * MIB), "d/b": os.urandom(100_001), "d/c": os.urandom(50_000)}
    for name, content in files.items():
        (mountpoint / name).write_bytes(content)
    with open(mountpoint / "sparse", "wb") as file:
        file.truncate(MIB)
        file.seek(MIB // 2)
        file.write(os.urandom(10_000))
    files["sparse"] = (mountpoint / "sparse").read_bytes()
    os.chmod(mountpoint / "d/c", 0o4750)
    os.setxattr(mountpoint / "d/c", "user.mine", b"x")
    os.setxattr(mountpoint / "d/c", "security.capability", CAPABILITY)
    os.link(mountpoint / "d/b", mountpoint / "linked")
    os.symlink("d", mountpoint / "dir")
    os.symlink("a", mountpoint / "link")
    os.mkfifo(mountpoint / "fifo")
    daemon.ok("Unmount", Name="v", ID="m")
    shutil.rmtree(live(daemon))
    daemon.ok("Mount", Name="v", ID="m")
    daemon.ok("Unmount", Name="v", ID="m")
    return files


def parsed(daemon: Daemon, *arguments: str, code: int = 0) -> Any:
    """What a command that must end with this exit code prints as JSON."""
    ended = daemon.cli(*arguments, "--json")
    assert ended.returncode == code, (ended.stderr, ended.stdout)
    return json.loads(ended.stdout)


def rot(image: Path, path: Path, offset: int, length: int = 8) -> bytes:
    """Flip bits of a file from `offset`, within one sector; what it holds then."""
    before = path.stat()
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        content = os.pread(file.fileno(), length, offset)
        assert len(content) == length
        assert offset % SECTOR + length <= SECTOR
        at = _place(file.fileno(), offset)
        expected = bytes(b ^ 0xFF for b in content)
        with open(image, "r+b") as disk, mmap.mmap(disk.fileno(), 0) as raw:
            assert raw[at : at + length] == content
            raw[at : at + length] = expected
            raw.flush()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = os.pread(file.fileno(), before.st_size, 0)
    assert found[offset : offset + length] == expected, "the file does not show it"
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    return found


def _place(fd: int, offset: int) -> int:
    """Where a byte of a file is in the image; sources: linux/fiemap.h."""
    asked = bytearray(_FIEMAP.pack(offset, 1, _FIEMAP_SYNC, 0, 1, 0) + bytes(_EXTENT.size))
    fcntl.ioctl(fd, _FIEMAP_CALL, asked)
    assert _FIEMAP.unpack_from(asked)[3] == 1, "nothing is stored there"
    logical, physical, _ = _EXTENT.unpack_from(asked, _FIEMAP.size)
    return int(physical + offset - logical)
