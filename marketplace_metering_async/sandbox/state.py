"""
The sandbox's memory kept in a file between runs: records, products, buyers, tokens, keys, clock.

Lines of JSON: what was metered is appended as it comes, all else is written anew when it has
changed, and the last line of its kind counts. What a sandbox is made with (quota, faults, rules,
access keys) is not kept.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import attrs

from marketplace_metering_async.sandbox.agreements import Agreement
from marketplace_metering_async.sandbox.catalogue import Product
from marketplace_metering_async.sandbox.metered import Key, Metered
from marketplace_metering_async.sandbox.registration import RegistrationToken

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox.sandbox import Sandbox

_VERSION: Final = 1
_MOMENTS: Final = frozenset({"timestamp", "received", "begins", "ends", "free_until", "issued"})
_MOMENTS_OF_PRODUCTS: Final = frozenset({"key_rotated"})


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

    def restore(self, sandbox: "Sandbox") -> None:
        """
        Let *sandbox* remember what is in the file, if there is one.

        Raises:
            StateFileError: if it cannot be read, or is no state file.
        """
        try:
            for line in self._lines():
                _remember(sandbox, line)
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

    def open(self, sandbox: "Sandbox") -> None:
        """
        Take the file and write all that *sandbox* remembers.

        Raises:
            StateFileError: if another sandbox has it, or it cannot be written.
        """
        try:
            self._begin(sandbox)
        except BlockingIOError as error:
            raise StateFileError(f"{self._path}: another sandbox is using it") from error
        except OSError as error:
            raise StateFileError(f"{self._path} cannot be written: {error}") from error

    def _begin(self, sandbox: "Sandbox") -> None:
        if self._file is None and self._path.exists():
            with self._path.open("a", encoding="utf-8") as file:
                _lock(file)  # is anybody there?
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        file = os.fdopen(descriptor, "w", encoding="utf-8")
        try:
            _lock(file)
            self._write_all(file, sandbox)
            fresh.replace(self._path)
        except BaseException:
            file.close()
            raise
        if self._file is not None:
            self._file.close()
        self._file = file

    def _write_all(self, file: TextIO, sandbox: "Sandbox") -> None:
        file.write(json.dumps({"sandbox_state": _VERSION}) + "\n")
        self._written, self._rest = 0, ""
        self._generation = sandbox.book.metered.generation
        self._append(file, sandbox)

    def save(self, sandbox: "Sandbox") -> None:
        """Write what has changed; OSError if it cannot be written."""
        if self._file is None:
            raise RuntimeError("the state file is not open")
        if self._generation != sandbox.book.metered.generation:
            self._begin(sandbox)  # the sandbox has forgotten what the file still has
        else:
            self._append(self._file, sandbox)

    def _append(self, file: TextIO, sandbox: "Sandbox") -> None:
        entries = sandbox.book.metered.entries(self._written)
        if entries:
            file.write(json.dumps({"records": list(map(_entry_to_json, entries))}) + "\n")
            self._written += len(entries)
        rest = json.dumps(_rest_of(sandbox))
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


def _entry_to_json(entry: tuple[Key, Metered]) -> list[Any]:
    key, metered = entry
    return [key, _plain(attrs.asdict(metered))]


def _rest_of(sandbox: "Sandbox") -> dict[str, Any]:
    book, catalogue = sandbox.book, sandbox.book.catalogue
    return {
        "products": {code: _product_to_json(p) for code, p in catalogue.products.items()},
        "agreements": [_plain(attrs.asdict(a)) for a in catalogue.agreements.values()],
        "suspended": sorted(catalogue.suspended),
        "tokens": [_plain(attrs.asdict(token)) for token in book.tokens],
        "taken_keys": sorted(book.metered.taken_keys, key=str),
        "client_tokens": [[*w, *told] for w, told in book.workloads.client_tokens.items()],
        "registered": sorted(book.workloads.registered),
        "statuses": dict(book.statuses),
        "signing_keys": {str(v): pem for v, pem in sandbox.keys.private_pems.items()},
        "clock": sandbox.clock.to_json(),
    }


def _remember(sandbox: "Sandbox", line: dict[str, Any]) -> None:
    if "records" in line:
        _remember_records(sandbox, line["records"])
        return
    book, catalogue = sandbox.book, sandbox.book.catalogue
    catalogue.clear()
    for code, told in line["products"].items():
        catalogue.products[code] = Product(**_read(told, _MOMENTS_OF_PRODUCTS))
    for told in line["agreements"]:
        catalogue.add(Agreement(**_read(told)))
    catalogue.suspended.update(line["suspended"])
    book.tokens.clear()
    for told in line["tokens"]:
        book.tokens.add(RegistrationToken(**_read(told)))
    for key in line["taken_keys"]:
        book.metered.take_key(tuple(key))
    workloads = book.workloads
    workloads.client_tokens.update(
        {
            (key, region, token): (request, id_)
            for key, region, token, request, id_ in line["client_tokens"]
        }
    )
    workloads.registered.update((key, code) for key, code in line["registered"])
    book.statuses.clear()
    book.statuses.update(line["statuses"])
    sandbox.keys.private_pems.update({int(v): pem for v, pem in line["signing_keys"].items()})
    sandbox.clock.restore(line["clock"])


def _remember_records(sandbox: "Sandbox", entries: Iterable[Any]) -> None:
    metered = sandbox.book.metered
    for key, told in entries:
        read = _read(told)
        read["allocations"] = tuple(
            (tuple((name, value) for name, value in tags), share)
            for tags, share in read["allocations"]
        )
        metered.forget_key(tuple(key))
        metered.add(tuple(key), Metered(**read))


def _product_to_json(product: Product) -> dict[str, Any]:
    return {**_plain(attrs.asdict(product)), "dimensions": sorted(product.dimensions)}


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    return {n: v.isoformat() if isinstance(v, datetime) else v for n, v in told.items()}


def _read(told: dict[str, Any], moments: frozenset[str] = _MOMENTS) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value) if name in moments and value is not None else value
        for name, value in told.items()
    }
