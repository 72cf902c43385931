"""`sandbox`: the sandbox as a process, with what to paste into a shell."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from marketplace_metering_async import sandbox as package
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.output.console import Console, write_out
from marketplace_metering_async.cli.sandbox_options import SandboxOptions
from marketplace_metering_async.sandbox import AccessKey, Fault, Rules, Sandbox, StateFileError
from marketplace_metering_async.sandbox.as_json import arguments_from_json, decoded, from_json
from marketplace_metering_async.sandbox.sdks import SDKS
from marketplace_metering_async.sandbox.service.readings import PRESETS

T = TypeVar("T")

_WHO_COMES: Final = (
    "The lines above bring these clients here, from these versions on. Others call AWS all the",
    "same, where usage of a test is billed if it brings real keys: give them the address in code.",
)


async def serve(options: SandboxOptions, console: Console) -> Exit:
    """
    Run the sandbox until it is interrupted.

    Raises:
        OSError: if the port is taken.
        MisuseError: for an option that says nothing right, or a state file that cannot be used.
    """
    rules = None if options.rules is None else _rules_of(options.rules)
    faults = _each(options.fault or (), "--fault", _fault_of)
    keys = dict(_each(options.access_key or (), "--access-key", _access_key_of))
    products = _each(options.product or (), "--product", _product_of)
    try:
        sandbox = Sandbox(
            options.port,
            host=options.host,
            open_to=options.open_to or (),
            token=options.token,
            calls_per_second=options.calls_per_second or None,
            rules=rules,
            faults=faults,
            seed=options.seed,
            access_keys=keys,
            state=options.state,
        )
        for product in products:
            sandbox.declare_product(**arguments_from_json(sandbox.declare_product, product))
        return await _serve(sandbox, console)
    except StateFileError as error:
        raise MisuseError(f"--state: {error}") from error
    except (TypeError, ValueError) as error:
        raise MisuseError(_as_option(str(error))) from error


def _as_option(text: str) -> str:
    """Call an argument of Sandbox by the option that it came from."""
    name, colon, rest = text.partition(": ")
    options = {"host": "--host", "open_to": "--open-to", "token": "--token"}
    if name not in options:
        return f"--product: {text}"
    return f"{options[name]}{colon}{rest.replace('open_to=', '--open-to')}"


async def _serve(sandbox: Sandbox, console: Console) -> Exit:
    with _warnings_to(console), Interrupts(console, "the sandbox closes.") as interrupts:
        async with sandbox:
            write_out(sandbox.instructions())
            _describe(sandbox, console)
            await interrupts.stopped.wait()
    return Exit.OK if interrupts.is_of_service else Exit.INTERRUPTED


@contextmanager
def _warnings_to(console: Console) -> Iterator[None]:
    """Show what the sandbox would log, such as that its state cannot be kept."""

    class ToConsole(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.complain(self.format(record))

    logger, handler = logging.getLogger(package.__name__), ToConsole(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _describe(sandbox: Sandbox, console: Console) -> None:
    """Say where the page is, and which clients the lines on stdout bring here."""
    lines = [f"The page: {sandbox.page_url}"]
    lines += [f"From elsewhere: {url}" for url in sandbox.urls[1:]]
    lines += ["", *_WHO_COMES, ""]
    for sdk in SDKS:
        lines += [f"{sdk.name}: {sdk.by_environment}", f"    {sdk.in_code_at(sandbox.url)}"]
    console.print("\n".join(lines), markup=False)


def _each(texts: Iterable[str], option: str, read: Callable[[str], T]) -> list[T]:
    try:
        return [read(text) for text in texts]
    except (TypeError, ValueError) as error:
        raise MisuseError(f"{option}: {error}") from error


def _object_of(text: str) -> dict[str, Any] | None:
    """Return the JSON object that *text* says, or None if it is written in short."""
    if not text.startswith("{"):
        return None
    try:
        found = decoded(text.encode())
    except ValueError:
        raise ValueError(f"expected JSON, got {text!r}") from None
    return found if isinstance(found, dict) else None


def _fault_of(text: str) -> Fault:
    written = _object_of(text)
    if written is None:
        kind, equals, probability = text.partition("=")
        written = {"kind": kind} | ({"probability": float(probability)} if equals else {})
    return from_json(Fault, written)


def _access_key_of(text: str) -> tuple[str, AccessKey]:
    written = _object_of(text)
    if written is None:
        access_key_id, colon, secret = text.partition(":")
        if not (access_key_id and colon and secret):
            raise ValueError("expected ID:SECRET, or a JSON object with id and secret")
        return access_key_id, AccessKey(secret)
    access_key_id = written.pop("id", None)
    if not isinstance(access_key_id, str) or "secret" not in written:
        raise ValueError("expected a JSON object with id and secret")
    return access_key_id, from_json(AccessKey, written)


def _product_of(text: str) -> dict[str, Any]:
    written = _object_of(text)
    if written is None:
        product_code, *dimensions = map(str.strip, text.split(","))
        if "" in dimensions:
            raise ValueError(f"expected CODE or CODE,DIMENSION,…, got {text!r}")
        return {"product_code": product_code, "dimensions": dimensions}
    return written


def _rules_of(path: Path) -> Rules:
    if str(path) in PRESETS:
        return PRESETS[str(path)]
    try:
        return from_json(Rules, decoded(path.read_bytes()))
    except (OSError, TypeError, ValueError) as error:
        raise MisuseError(f"--rules: {path}: {error}") from error
