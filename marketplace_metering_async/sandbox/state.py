"""
The sandbox's memory kept in a file between runs: records, products, buyers, tokens, keys, clock.

Lines of JSON: what was metered is appended as it comes, all else is written anew when it has
changed, and the last line of its kind counts. What a sandbox is made with (quota, faults, rules,
access keys) is not kept.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

from attrs import frozen

from marketplace_metering_async.sandbox.as_json import as_json, from_json
from marketplace_metering_async.sandbox.clock import ClockSetting
from marketplace_metering_async.sandbox.service.memory import (
    Entry,
    Memory,
    memory_of,
    remember,
    remember_records,
)
from marketplace_metering_async.sandbox.world import World

if sys.platform != "win32":
    import fcntl

_VERSION: Final = 1


@frozen(kw_only=True)
class _Rest:
    """What is kept beside records."""

    memory: Memory
    signing_keys: dict[int, str]
    clock: ClockSetting | None


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
        self._written = 0
        self._generation = 0
        self._rest = ""

    def restore(self, world: World) -> None:
        """
        Let *world* remember what is in the file, if there is one.

        Raises:
            StateFileError: if it cannot be read, or is no state file.
        """
        try:
            for line in self._lines():
                _remember(world, line)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise StateFileError(f"{self._path} cannot be read as a state file: {error}") from error

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8") as file:
            first = file.readline()
            if json.loads(first or "{}").get("sandbox_state") != _VERSION:
                raise ValueError("it is of another version, or something else")
            for line in file:
                if line.endswith("\n"):  # the last one may be torn, where a process was killed
                    yield json.loads(line)

    def open(self, world: World) -> None:
        """
        Take the file and write all that *world* remembers.

        Raises:
            StateFileError: if another sandbox has it, or it cannot be written.
        """
        try:
            self._begin(world)
        except BlockingIOError as error:
            raise StateFileError(f"{self._path}: another sandbox is using it") from error
        except OSError as error:
            raise StateFileError(f"{self._path} cannot be written: {error}") from error

    def _begin(self, world: World) -> None:
        if self._file is None and self._path.exists():
            with self._path.open("a", encoding="utf-8") as file:
                _lock(file)  # is anybody there?
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        file = os.fdopen(descriptor, "w", encoding="utf-8")
        try:
            _lock(file)
            self._write_all(file, world)
            fresh.replace(self._path)
        except BaseException:
            file.close()
            raise
        if self._file is not None:
            self._file.close()
        self._file = file

    def _write_all(self, file: TextIO, world: World) -> None:
        file.write(json.dumps({"sandbox_state": _VERSION}) + "\n")
        self._written, self._rest = 0, ""
        self._generation = world.book.metered.generation
        self._append(file, world)

    def save(self, world: World) -> None:
        """Write what has changed; OSError if it cannot be written."""
        if self._file is None:
            raise RuntimeError("the state file is not open")
        if self._generation != world.book.metered.generation:
            self._begin(world)  # the sandbox has forgotten what the file still has
        else:
            self._append(self._file, world)

    def _append(self, file: TextIO, world: World) -> None:
        entries = world.book.metered.entries(self._written)
        if entries:
            file.write(json.dumps({"records": as_json(entries)}) + "\n")
            self._written += len(entries)
        rest = json.dumps({"rest": as_json(_rest_of(world))})
        if rest != self._rest:
            file.write(rest + "\n")
            self._rest = rest
        file.flush()

    def close(self) -> None:
        """Let the next one have it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock(file: TextIO) -> None:
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _rest_of(world: World) -> _Rest:
    return _Rest(
        memory=memory_of(world.book),
        signing_keys=dict(world.keys.private_pems),
        clock=world.clock.setting,
    )


def _remember(world: World, line: dict[str, Any]) -> None:
    if "records" in line:
        remember_records(world.book, from_json(tuple[Entry, ...], line["records"]))
        return
    rest = from_json(_Rest, line["rest"])
    remember(world.book, rest.memory)
    world.keys.private_pems.update(rest.signing_keys)
    world.clock.restore(rest.clock)
