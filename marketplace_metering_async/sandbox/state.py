"""
The sandbox's memory kept in a file between runs: records, products, buyers, tokens, keys, clock.

Lines of JSON, each with what was new when it was appended, so that the file grows with that. What
a sandbox is made with (quota, faults, rules, access keys) is not kept.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

from marketplace_metering_async.sandbox.as_json import as_json, decoded, from_json
from marketplace_metering_async.sandbox.clock import ClockSetting
from marketplace_metering_async.sandbox.service.memory import Memory, News, remember
from marketplace_metering_async.sandbox.world import World

if sys.platform != "win32":
    import fcntl

_VERSION: Final = 2
_FIRST_LINE: Final = f'{{"sandbox_state": {_VERSION}}}\n'
_PARTS: Final = {"memory", "signing_keys", "clock"}
_CLOCK: Final[Any] = ClockSetting | None


class StateFileError(RuntimeError):
    """A state file cannot be used: the text says which and why."""


class StateFile:
    """
    A file that a sandbox is read from and written to.

    One sandbox at a time has it; only its owner may read it, since it holds private keys.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: TextIO | None = None
        self._news: News | None = None
        self._keys: dict[int, str] = {}
        self._clock: ClockSetting | None = None
        self._seen: tuple[int, ...] | None = None
        """How the file was when its memory was that of the world; None: there was none."""

    def restore(self, world: World) -> None:
        """
        Let *world* remember what is in the file, if there is one.

        Raises:
            StateFileError: if it cannot be read, or is no state file.
        """
        try:
            clock = None
            for line in self._lines():
                remember(world.book, from_json(Memory, line.get("memory", {})))
                world.keys.private_pems.update(
                    from_json(dict[int, str], line.get("signing_keys", {}))
                )
                clock = from_json(_CLOCK, line.get("clock", as_json(clock)))
            world.clock.restore(clock)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise StateFileError(f"{self._path} cannot be read as a state file: {error}") from error

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            self._seen = _looks(os.fstat(file.fileno()))
            first = file.readline()
            if decoded(first or b"{}").get("sandbox_state") != _VERSION:
                raise ValueError("it is of another version, or something else")
            for line in file:
                if line.endswith(b"\n"):  # the last one may be torn, where a process was killed
                    found = decoded(line)
                    if unknown := found.keys() - _PARTS:
                        raise ValueError(f"it has {', '.join(sorted(unknown))}")
                    yield found

    def open(self, world: World) -> None:
        """
        Take the file and write all that *world* remembers.

        Raises:
            StateFileError: if another sandbox has it, or has had it since it was read; if it cannot
                be written.
        """
        try:
            self._begin(world)
        except BlockingIOError as error:
            raise StateFileError(f"{self._path}: another sandbox is using it") from error
        except OSError as error:
            raise StateFileError(f"{self._path} cannot be written: {error}") from error

    def _begin(self, world: World) -> None:
        place = self._path.resolve()  # a link stays one
        before = self._taken(place) if self._file is None else self._file
        try:
            file = self._written_anew(world, place, before)
        except BaseException:
            if self._file is None:
                _close(before)
            raise
        _close(before)
        self._file = file

    def _written_anew(self, world: World, place: Path, before: TextIO) -> TextIO:
        """Return a file with all of *world*, locked, that has taken the place of *before*."""
        fresh = place.with_name(f"{place.name}.new")
        fresh.unlink(missing_ok=True)  # of one that was killed here
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        file = os.fdopen(descriptor, "w", encoding="utf-8")
        try:
            _lock(file)
            self._write_all(file, world)
            if sys.platform == "win32":  # which moves no open file, and replaces none
                _close(before)
                _close(file)
                fresh.replace(place)
                return place.open("a", encoding="utf-8")
            fresh.replace(place)
        except BaseException:
            _close(file)
            fresh.unlink(missing_ok=True)
            raise
        return file

    def _taken(self, place: Path) -> TextIO:
        """Return the file at *place*, or an empty one, locked until another is there."""
        with suppress(FileExistsError), place.open("xb", buffering=0) as new:
            try:
                new.write(_FIRST_LINE.encode())
            except OSError:
                place.unlink()
                raise
            self._seen = _looks(os.fstat(new.fileno()))
        file = place.open("r+", encoding="utf-8")
        try:
            _lock(file)
            self._check_unchanged(place)
        except BaseException:
            _close(file)
            raise
        return file

    def _check_unchanged(self, place: Path) -> None:
        if _looks(place.stat()) != self._seen:
            text = "another sandbox has written to it since it was read; read it again"
            raise StateFileError(f"{self._path}: {text}")

    def _write_all(self, file: TextIO, world: World) -> None:
        file.write(_FIRST_LINE)
        self._news, self._keys, self._clock = News(world.book), {}, None
        self._append(file, world, self._news)

    def save(self, world: World) -> None:
        """
        Write what has changed.

        Raises:
            OSError: it cannot be written; the next time, all is written anew.
        """
        if self._file is None:
            raise RuntimeError("the state file is not open")
        try:
            if self._news is None or self._news.is_outdated:
                self._begin(world)  # the file is torn, or has what the sandbox has forgotten
            else:
                self._append(self._file, world, self._news)
        except OSError as error:
            self._news = None
            reason = f"{self._path} cannot be written: {error.strerror or error}"
            raise OSError(error.errno, reason) from error

    def _append(self, file: TextIO, world: World, news: News) -> None:
        memory = {name: part for name, part in as_json(news.take()).items() if part}
        line: dict[str, Any] = {"memory": memory} if memory else {}
        pems = world.keys.private_pems
        if keys := {version: pem for version, pem in pems.items() if version not in self._keys}:
            line["signing_keys"] = as_json(keys)
            self._keys.update(keys)
        clock = world.clock.setting
        if clock != self._clock:
            line["clock"] = as_json(clock)
            self._clock = clock
        if line:
            file.write(json.dumps(line) + "\n")
        file.flush()

    def close(self) -> None:
        """Let the next one have it."""
        if self._file is not None:
            self._seen = _looks(os.fstat(self._file.fileno()))
            _close(self._file)
            self._file = None


def _looks(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _close(file: TextIO) -> None:
    with suppress(OSError):  # what a full disk has not taken is written anew, or has been said
        file.close()


def _lock(file: TextIO) -> None:
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
