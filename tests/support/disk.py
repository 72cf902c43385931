"""What a disk holds when the power goes: all that was synced, and of the rest whatever it likes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from attrs import Factory, define, frozen

SECTOR: Final = 512
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - not for what should last


def memory() -> Path | None:
    """Return a folder in memory, where a sync takes no time; None if the system has none."""
    return _MEMORY if _MEMORY.is_dir() else None


@frozen
class Write:
    """Bytes of a file; they may be lost, in whole or by sectors, until the file is synced."""

    file: int
    offset: int
    data: bytes

    def sectors(self) -> Iterator["Write"]:
        """Yield the parts that a disk writes each as a whole."""
        begin = 0
        while begin < len(self.data):
            end = begin + SECTOR - (self.offset + begin) % SECTOR
            yield Write(self.file, self.offset + begin, self.data[begin:end])
            begin = end


@frozen
class Truncate:
    """A file's new length."""

    file: int
    size: int


@frozen
class Sync:
    """All of a file is on the disk now, but for its name."""

    file: int


@frozen
class FailedSync:
    """The disk could not; what it had not written by then is as good as gone for the system."""

    file: int


@frozen
class Create:
    """A file gets a name; it may be lost until the folder is synced."""

    name: str
    file: int


@frozen
class Delete:
    """A name goes; it may be back until the folder is synced."""

    name: str


@frozen
class SyncFolder:
    """All names are on the disk now."""


@frozen
class Mark:
    """What the world outside knows from here on."""

    word: str
    value: Any


Operation = Write | Truncate | Sync | FailedSync | Create | Delete | SyncFolder | Mark


@define
class Disk:
    """
    One folder of a disk, which operation upon operation is asked of.

    It is as strict as the standards let it be: names and bytes are kept from their own sync on, and
    before that any of them may be kept, in any order. What a failed sync drops, no later one brings
    back, though whoever reads the file goes on to see it.
    """

    _chance: Random
    _synced: dict[int, bytearray] = Factory(dict)
    _unsynced: dict[int, list[Write | Truncate]] = Factory(lambda: defaultdict(list))
    _names: dict[str, int] = Factory(dict)
    _unsynced_names: list[Create | Delete] = Factory(list)

    def take(self, operation: Operation) -> None:
        """Do as asked."""
        match operation:
            case Write(file) | Truncate(file):
                self._unsynced[file].append(operation)
            case Sync(file):
                _apply(self._synced.setdefault(file, bytearray()), self._unsynced.pop(file, ()))
            case FailedSync(file):
                pending = self._unsynced.pop(file, [])
                _apply(self._synced.setdefault(file, bytearray()), _kept(pending, self._chance))
            case Create() | Delete():
                self._unsynced_names.append(operation)
            case SyncFolder():
                _name(self._names, self._unsynced_names)
                self._unsynced_names.clear()

    def after_cut(self) -> dict[str, bytes]:
        """Return name to content, as the next start finds them."""
        names = dict(self._names)
        _name(names, [change for change in self._unsynced_names if self._chance.random() < 0.5])
        return {name: self._content(file) for name, file in names.items()}

    def _content(self, file: int) -> bytes:
        content = bytearray(self._synced.get(file, b""))
        _apply(content, _kept(self._unsynced.get(file, ()), self._chance))
        return bytes(content)


def without_cut(operations: Iterable[Operation]) -> dict[str, bytes]:
    """Return name to content, as whoever reads the files sees them."""
    names: dict[str, int] = {}
    files: dict[int, bytearray] = defaultdict(bytearray)
    for operation in operations:
        match operation:
            case Write(file) | Truncate(file):
                _apply(files[file], (operation,))
            case Create() | Delete():
                _name(names, (operation,))
    return {name: bytes(files[file]) for name, file in names.items()}


def _name(names: dict[str, int], changes: Sequence[Create | Delete]) -> None:
    for change in changes:
        match change:
            case Create(name, file):
                names[name] = file
            case Delete(name):
                names.pop(name, None)


def _apply(content: bytearray, changes: Sequence[Write | Truncate]) -> None:
    for change in changes:
        match change:
            case Truncate(_, size):
                del content[size:]
            case Write(_, offset, data):
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data


def _kept(pending: Sequence[Write | Truncate], chance: Random) -> Sequence[Write | Truncate]:
    """Choose what had got to the disk of what nobody had synced."""
    match chance.choice(["nothing", "first", "some", "sectors"]):
        case "first":
            return pending[: chance.randint(0, len(pending))]
        case "some":
            return [change for change in pending if chance.random() < 0.5]
        case "sectors":
            parts = [
                part
                for change in pending
                for part in (change.sectors() if isinstance(change, Write) else (change,))
                if chance.random() < 0.5
            ]
            chance.shuffle(parts)
            return parts
    return ()
