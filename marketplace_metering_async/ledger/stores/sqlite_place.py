"""Where a ledger's file may lie: what a URL names, and on which disks SQLite keeps its promise."""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import ConfigurationError, LedgerUnusableError

_FAR_AWAY: Final = frozenset(
    """
    nfs nfs4 cifs smb3 smbfs afs ncpfs sshfs rclone davfs davfs2 curlftpfs
    ceph ceph-fuse glusterfs lustre gpfs beegfs ocfs2 gfs2 orangefs pvfs2 panfs wekafs mfs moosefs
    lizardfs juicefs seaweedfs alluxio alluxio-fuse cvmfs2
    s3fs goofys geesefs gcsfuse mountpoint-s3 blobfuse blobfuse2 objectivefs
    9p virtiofs vboxsf vmhgfs vmhgfs-fuse prl_fs drvfs grpcfuse osxfs fakeowner
    fuse
    """.split()  # noqa: SIM905 - one name a line would fill a page
)
"""
File systems of other machines, and of the machine around this one, where the shared memory of WAL
does not work; `fuse` is one that does not say what it is.
"""
_NO_SUCH_FILE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_MOUNTS: Final = Path("/proc/mounts")


def path_of(rest: str) -> str:
    """
    Return the file that a URL names with *rest*, what follows `sqlite:///`.

    Raises:
        ConfigurationError: it names none, or asks for what a ledger has not.
    """
    if sign := next((sign for sign in "?#" if sign in rest), None):
        raise ConfigurationError(
            f"ledger URL: leave out what follows {sign!r}, a ledger in a file has no options; in a "
            f"file's own name it is written %{ord(sign):X}"
        )
    path = unquote(rest)
    if Path(path).name == ":memory:":
        raise ConfigurationError(
            "ledger URL: name a file in place of :memory:, whose usage would end with the process"
        )
    if "\0" in path:
        raise ConfigurationError("ledger URL: expected a file's name, got one with a NUL in it")
    return path


_SECOND: Final = 10**9
"""Nanoseconds. Some file systems know the time of a change by the second alone."""
_SAME_TIME: Final = 0.1
"""Seconds within which others give two changes the same time, and more."""


def is_there(file: Path) -> bool:
    """
    Return whether there is something of that name.

    Raises:
        OSError: that cannot be known, which Path.exists calls False from Python 3.14 on.
    """
    try:
        file.stat()
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            return False
        raise
    return True


def require_place(file: Path) -> None:
    """
    Refuse a place where SQLite cannot keep a ledger.

    Raises:
        LedgerUnusableError: its folder is missing, it is no file, lies on a network file system, or
            has several names.
    """
    parent = file.parent
    if not (is_there(parent) and parent.is_dir()):
        raise LedgerUnusableError(f"{parent}: there is no such directory")
    if is_there(file) and not stat.S_ISREG(file.stat().st_mode):
        raise LedgerUnusableError(f"{file}: expected a file, got something else")
    there = Path(os.path.realpath(file))  # resolve() raises on loops
    mount, kind = _mount_of(there)
    if kind.removeprefix("fuse.") in _FAR_AWAY:
        raise LedgerUnusableError(
            f"{file} lies on a network file system ({kind}), where SQLite's WAL loses "
            "data; keep it on a local disk, or use PostgreSQL for many machines"
        )
    if mount == there:
        raise LedgerUnusableError(
            f"mount the folder that {file} lies in, and not the file alone: its log lies beside "
            "it, where others who use it do not see it, and nothing keeps it"
        )
    if is_there(there) and there.stat().st_nlink > 1:
        raise LedgerUnusableError(
            f"remove the other names of {file}, which is hard-linked: whoever opens it by one of "
            "them has another log, and what both add is lost; a copy is made by `ledger backup`"
        )


def may_write(path: Path) -> bool:
    """Whether this process may write the file and its folder, which gets a log."""
    there = Path(os.path.realpath(path))
    effective = os.access in os.supports_effective_ids
    return not is_there(there) or all(
        os.access(place, os.W_OK, effective_ids=effective) for place in (there, there.parent)
    )


_Number = tuple[int, int]
_in_use: Final = WeakKeyDictionary[object, _Number]()
_inherited: Final = set[_Number]()
_left_open: Final = list[object]()


def take_into_use(file: Path, user: object) -> None:
    """
    Note that *user* has connections to *file*, which is there, until `let_go`.

    What a process had open when this one was forked from it cannot be opened here: SQLite takes the
    locks of the other process for its own. It would wait for them without end, write without any,
    and have the log removed under it once the other process closes.

    Raises:
        LedgerUnusableError: this process was forked while it was open.
    """
    number = _number_of(file)
    if number in _inherited:
        raise LedgerUnusableError(
            f"open it after the fork, in each process by itself: {file} was open in the one that "
            "this was forked from, whose locks SQLite takes for its own here"
        )
    if number is not None:
        _in_use[user] = number


def let_go(user: object) -> None:
    """Note that *user* has no connections any more."""
    _in_use.pop(user, None)


def leave_open(user: object) -> None:
    """Keep what has connections of the parent's: closed here, they undo what that is writing."""
    _left_open.append(user)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _inherited.update(_in_use.values()))


class OpenFiles:
    """
    Files that stay open: tells whether others have their names now.

    To ask that of three that are being written takes a fifth of the time of a small transaction. So
    their folders are asked whether anything in them was made, renamed or removed since.
    """

    def __init__(
        self, files: Sequence[Path], monotonic: Callable[[], float] = SystemClock.monotonic
    ) -> None:
        """Note which files these are; *monotonic* tells the time."""
        self._numbers = {file: _number_of(file) for file in files}
        self._folders = sorted({str(file.parent) for file in files})
        self._monotonic = monotonic
        # How the folders looked when all was well, and since when, by the monotonic time; it is one
        # value, since two threads ask.
        self._known: tuple[list[tuple[int, int, int]], float] = ([], 0.0)

    def require_same(self) -> None:
        """
        Refuse to go on where one was deleted or replaced.

        Raises:
            LedgerUnusableError: that has happened.
        """
        moment, seen = self._monotonic(), list(map(_state_of, self._folders))
        known, since = self._known
        if seen == known and moment - since > _SAME_TIME and all(at % _SECOND for _, _, at in seen):
            return  # sooner after another change, or by the second, it might look the same
        for file, number in self._numbers.items():
            if (found := _number_of(file)) != number:
                what = "replaced" if found else "deleted"
                raise LedgerUnusableError(
                    f"end this process, and start it again: {file} was {what} while it was open"
                )
        if seen != known:
            self._known = (seen, moment)


def _state_of(folder: str) -> tuple[int, int, int]:
    """Return which folder it is, and when something in it was last made, renamed or removed."""
    try:
        found = os.stat(folder)  # noqa: PTH116 - half the time of a Path's
    except FileNotFoundError:
        return 0, 0, 0
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _number_of(file: Path) -> _Number | None:
    """Return what tells a file from another one of its name; None: there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _mount_of(file: Path) -> tuple[Path | None, str]:
    """
    Return where the file system is mounted that *file* lies on, and its kind.

    None and '' where the system does not say.
    """
    try:
        lines = _MOUNTS.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None, ""
    mount, kind = None, ""
    for line in lines:
        _, point, found, *_ = line.split(" ")
        place = Path(point.replace("\\040", " "))
        is_nearer = mount is None or len(place.parts) >= len(mount.parts)
        if is_nearer and (file == place or place in file.parents):
            mount, kind = place, found
    return mount, kind
