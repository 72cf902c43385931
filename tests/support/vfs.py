"""
A SQLite VFS around the system's own, which notes all that is asked of a disk and has it done.

It is put under the SQLite that the interpreter's sqlite3 module is linked with, as the default, so
that whoever uses sqlite3 meanwhile need not know. sqlite.org/c3ref/vfs.html and io_methods.html
tell of the structures.
"""

import _sqlite3
import ctypes
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

from support.disk import Create, Delete, FailedSync, Operation, Sync, SyncFolder, Truncate, Write

_OK = 0
_SYNC_FAILED = 10 | 4 << 8  # SQLITE_IOERR_FSYNC
_NEW_JOURNAL = 0x800 | 0x4000 | 0x80000
"""SQLITE_OPEN_MAIN_JOURNAL, SUPER_JOURNAL and WAL: their first sync is their folder's as well."""
_CREATE = 0x4

_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_Delete = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


def _pointers(*names: str) -> list[tuple[str, Any]]:
    return [(name, c_void_p) for name in names]


class _Vfs(Structure):
    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        *_pointers("open", "delete", "access", "full_path"),
        *_pointers("dl_open", "dl_error", "dl_sym", "dl_close"),
        *_pointers("randomness", "sleep", "time", "last_error"),
        *_pointers("time_int64", "set_call", "get_call", "next_call"),
    )


class _Methods(Structure):
    _fields_ = (
        ("version", c_int),
        *_pointers("close", "read", "write", "truncate", "sync", "size"),
        *_pointers("lock", "unlock", "check_lock", "control", "sector_size", "traits"),
        *_pointers("shm_map", "shm_lock", "shm_barrier", "shm_unmap", "fetch", "unfetch"),
    )


_VFS_ENDS = {1: "time_int64", 2: "set_call"}
_METHODS_END = {1: "shm_map", 2: "fetch"}
"""Version to the first member that it does not have."""


class NoWayInError(Exception):
    """The SQLite of this interpreter shows no way to put a VFS under it; the text says why."""


def _copy(kind: Any, address: int, ends: dict[int, str]) -> Any:
    """Copy a structure of SQLite's, as much of it as its version has."""
    version = c_int.from_address(address).value
    end = ends.get(version)
    length = ctypes.sizeof(kind) if end is None else getattr(kind, end).offset
    copied = kind()
    ctypes.memmove(ctypes.byref(copied), address, length)
    if end is None:
        copied.version = max(ends) + 1  # of later ones, what we know
    return copied


def _address(function: Any) -> Any:
    return ctypes.cast(function, c_void_p).value


class Recorder:
    """
    Notes what is done to the files of one folder.

    Attributes:
        operations: What was done, in order; marks may be put in between.
        sync_fails: Asked at each sync.
    """

    def __init__(self, folder: Path, original: int) -> None:
        self.operations: list[Operation] = []
        self.sync_fails: Callable[[], bool] = lambda: False
        self._folder = f"{folder.resolve()}/"
        self._original = original
        self._files: dict[str, int] = {}  # name to number, of those that there are
        self._handles: dict[int, int] = {}  # sqlite3_file to number
        self._syncs_folder: set[int] = set()
        self._methods: dict[int, Any] = {}  # original address to ours, which must outlive the files
        self._alive: list[Any] = []  # callbacks, which Python would collect
        self._count = 0
        system = _Vfs.from_address(original)
        self._open, self._delete = _Open(system.open), _Delete(system.delete)
        self.vfs = _copy(_Vfs, original, _VFS_ENDS)
        self.vfs.name = b"recording"
        self.vfs.open = self._callback(_Open, self._opened)
        self.vfs.delete = self._callback(_Delete, self._deleted)

    def begin_with(self, files: Mapping[str, bytes]) -> None:
        """Note *files* that are in the folder, safe on the disk."""
        for name, content in files.items():
            number = self._create(name)
            self.operations += [Write(number, 0, content), Sync(number)]
        self.operations.append(SyncFolder())

    def note_names(self, names: set[str], within: str) -> None:
        """Note which empty files there are *within* a folder now: new names are on the disk."""
        known = {name for name in self._files if name.startswith(within)}
        for name in names - known:
            self._create(name)
        self.operations.append(SyncFolder())
        for name in known - names:
            del self._files[name]
            self.operations.append(Delete(name))

    def _create(self, name: str) -> int:
        self._count += 1
        self._files[name] = self._count
        self.operations.append(Create(name, self._count))
        return self._count

    def _callback(self, kind: Any, function: Callable[..., int]) -> Any:
        callback = kind(function)
        self._alive.append(callback)
        return _address(callback)

    def _name(self, address: int | None) -> str | None:
        """Return the name of a file in the folder; None for any other one."""
        path = "" if address is None else ctypes.string_at(address).decode()
        return path.removeprefix(self._folder) if path.startswith(self._folder) else None

    def _opened(self, vfs: int, path: int | None, file: int, flags: int, out: Any) -> int:
        code = int(self._open(self._original, path, file, flags, out))
        name = self._name(path)
        if code != _OK or name is None:
            return code
        if name not in self._files:
            self._create(name)
        self._handles[file] = self._files[name]
        self._syncs_folder.discard(file)
        if flags & _CREATE and flags & _NEW_JOURNAL:
            self._syncs_folder.add(file)
        place = c_void_p.from_address(file)
        if place.value is not None:
            if place.value not in self._methods:
                self._methods[place.value] = self._recording_methods(place.value)
            place.value = ctypes.addressof(self._methods[place.value])
        return code

    def _deleted(self, vfs: int, path: int, sync_folder: int) -> int:
        code = int(self._delete(self._original, path, sync_folder))
        name = self._name(path)
        if code == _OK and name in self._files:
            del self._files[name]
            self.operations.append(Delete(name))
            if sync_folder:
                self.operations.append(SyncFolder())
        return code

    def _recording_methods(self, original: int) -> Any:
        methods = _copy(_Methods, original, _METHODS_END)
        write = _Write(methods.write)
        truncate, sync = _Truncate(methods.truncate), _Sync(methods.sync)

        def written(file: int, data: int, amount: int, offset: int) -> int:
            code = int(write(file, data, amount, offset))
            if code == _OK:
                content = ctypes.string_at(data, amount)
                self.operations.append(Write(self._handles[file], offset, content))
            return code

        def truncated(file: int, size: int) -> int:
            code = int(truncate(file, size))
            if code == _OK:
                self.operations.append(Truncate(self._handles[file], size))
            return code

        def synced(file: int, flags: int) -> int:
            if self.sync_fails():
                self.operations.append(FailedSync(self._handles[file]))
                return _SYNC_FAILED
            code = int(sync(file, flags))
            if code == _OK:
                self.operations.append(Sync(self._handles[file]))
                if file in self._syncs_folder:
                    self._syncs_folder.remove(file)
                    self.operations.append(SyncFolder())
            return code

        methods.write = self._callback(_Write, written)
        methods.truncate = self._callback(_Truncate, truncated)
        methods.sync = self._callback(_Sync, synced)
        return methods


def _sqlite() -> Any:
    """Return the library that the sqlite3 module uses."""
    try:
        library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        library.sqlite3_libversion.restype = c_char_p
        version = library.sqlite3_libversion().decode()
        library.sqlite3_vfs_find.restype = c_void_p
        library.sqlite3_vfs_find.argtypes = (c_char_p,)
        for name in ("sqlite3_vfs_register", "sqlite3_vfs_unregister"):
            getattr(library, name)
    except (AttributeError, OSError, TypeError) as error:
        raise NoWayInError(f"this interpreter's SQLite hides its functions ({error})") from error
    if version != sqlite3.sqlite_version:
        raise NoWayInError(f"sqlite3 uses SQLite {sqlite3.sqlite_version}; found is {version}")
    return library


@contextmanager
def recording(folder: Path) -> Iterator[Recorder]:
    """
    Record what SQLite does in *folder*, from its first file on.

    Raises:
        NoWayInError: if SQLite is linked in a way that hides it, or is not a Unix's.
    """
    library = _sqlite()
    original = library.sqlite3_vfs_find(None)
    if original is None or _Vfs.from_address(original).name != b"unix":
        raise NoWayInError("the simulation knows what SQLite does on Unix only")
    recorder = Recorder(folder, original)
    library.sqlite3_vfs_register(ctypes.byref(recorder.vfs), 1)
    try:
        yield recorder
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(recorder.vfs))
