"""`doctor`: is this machine ready to meter? It meters nothing."""

import platform
import re
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

from attrs import frozen
from rich.table import Table
from rich.text import Text

from marketplace_metering_async.aws import wire
from marketplace_metering_async.aws.transport import AiohttpTransport, Response
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.options import Settings, Target
from marketplace_metering_async.cli.output.console import (
    Console,
    error_text,
    print_json_if_piped,
    printable,
)
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import InvalidResponseError, MeteringError
from marketplace_metering_async.limits import service_metadata
from marketplace_metering_async.service_codes import ErrorKind

_CLOCK: Final = SystemClock()
_PACKAGE: Final = "marketplace-metering-async"
_OPERATION: Final = "ResolveCustomer"
_NO_TOKEN: Final = {"RegistrationToken": "marketplace-metering doctor: not a token"}
"""What the service is asked: it reads nothing and changes nothing, but credentials are checked."""
_EXPIRED: Final = "the AWS credentials have expired: refresh them"
_BATCH: Final = "BatchMeterUsage"
_UNPROVEN: Final = "; whether product and dimensions are right shows only with the first record"
_PERMITTED: Final = f"{_BATCH} is permitted: a call without a record was taken{_UNPROVEN}"
_NOT_ASKED: Final = f"With --product-code it also asks whether {_BATCH} is permitted."

_TIMEOUT: Final = 10.0
_MOST_SKEW: Final = 60.0
"""Seconds: hours are held until they are over by this machine's clock."""
_FLOOR: Final = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9.]+)(.*)")


class Mark(StrEnum):
    """How a thing is found."""

    GOOD = "ok"
    DOUBTFUL = "?"
    BAD = "no"


_STYLES: Final = {Mark.GOOD: "green", Mark.DOUBTFUL: "yellow", Mark.BAD: "bold red"}


@frozen
class Finding:
    """One thing that was looked at."""

    name: str
    mark: Mark
    text: str


async def run(settings: Settings, product_code: str | None, console: Console) -> Exit:
    """
    Look at everything, tell of it, and return 0 if nothing is bad, or 4.

    With a *product_code* the permission that counts is proven, too: an empty list meters nothing.
    """
    findings = [*_versions()]
    try:
        target = await settings.target()
    except MeteringError as error:
        findings.append(Finding("configuration", Mark.BAD, error_text(error)))
    else:
        findings += _configuration(target)
        findings += await _service(target, product_code)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")
    for finding in findings:
        mark = Text(finding.mark, style=_STYLES[finding.mark])
        table.add_row(mark, finding.name, Text(printable(finding.text)))
        print_json_if_piped(
            {"check": finding.name, "found": finding.mark.value, "text": finding.text}
        )
    console.print(table)
    if product_code is None:
        console.print(_NOT_ASKED)
    bad = any(finding.mark is Mark.BAD for finding in findings)
    return Exit.ACCOUNT if bad else Exit.OK


def _versions() -> Iterator[Finding]:
    yield Finding("python", _good(sys.version_info >= (3, 11)), platform.python_version())
    yield _sqlite(sqlite3.sqlite_version)
    try:
        needed = requires(_PACKAGE) or []
    except PackageNotFoundError:
        yield Finding(_PACKAGE, Mark.DOUBTFUL, "runs from a folder and is not installed")
        return
    yield Finding(_PACKAGE, Mark.GOOD, version(_PACKAGE))
    for requirement in needed:
        found = _FLOOR.fullmatch(requirement)
        if found is not None and "extra ==" not in found[3]:
            yield _version(found[1], found[2])


def _version(name: str, floor: str) -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, Mark.BAD, "not installed")
    if _numbers(found) < _numbers(floor):
        return Finding(name, Mark.BAD, f"{found}; at least {floor} is needed")
    return Finding(name, Mark.GOOD, found)


def _sqlite(found: str) -> Finding:
    """Say where processes that write at the same instant may damage a ledger's file."""
    release = _numbers(found)
    if release >= (3, 51, 3) or (3, 50, 7) <= release < (3, 51) or (3, 44, 6) <= release < (3, 45):
        return Finding("SQLite", Mark.GOOD, found)
    fixed = "several processes on one ledger may damage it, rarely; 3.51.3 does not"
    return Finding("SQLite", Mark.DOUBTFUL, f"{found}: {fixed}")


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])


def _good(good: bool) -> Mark:  # noqa: FBT001
    return Mark.GOOD if good else Mark.BAD


def _configuration(target: Target) -> Iterator[Finding]:
    endpoint = target.endpoint
    known = f"access key {target.access_key}, from {target.source}"
    yield Finding("credentials", Mark.GOOD, known)
    offered = endpoint.region_name in service_metadata().regions
    note = "" if offered else f": not known to offer {_BATCH}; is it mistyped?"
    yield Finding("region", Mark.GOOD if offered else Mark.DOUBTFUL, endpoint.region_name + note)
    configured = "; set by an option, the environment or the profile" if endpoint.configured else ""
    yield Finding("endpoint", Mark.GOOD, endpoint.url + configured)
    yield Finding("proxy", Mark.GOOD, endpoint.transport.proxy or "none")
    if endpoint.transport.ca_bundle is not None:
        yield Finding("certificates", Mark.GOOD, endpoint.transport.ca_bundle)


async def _service(target: Target, product_code: str | None) -> list[Finding]:
    """Ask the service who is behind a token that is none, and for a batch of nothing."""
    transport = AiohttpTransport(target.endpoint.transport, 1)

    async def ask(operation: str, body: bytes) -> Response:
        request = await target.signer.sign(operation, body, _CLOCK.now)
        return await transport.send(request, timeout=_TIMEOUT)

    try:
        started = _CLOCK.monotonic()
        response = await ask(_OPERATION, wire.dumps(_NO_TOKEN))
        seconds = _CLOCK.monotonic() - started
        found = [
            Finding("network", Mark.GOOD, f"a response after {seconds * 1000:,.0f} ms"),
            _clock(response),
            _answer(response),
        ]
        if product_code is not None:
            found.append(_batch(await ask(_BATCH, wire.encode_batch(product_code, ()))))
    except MeteringError as error:
        return [Finding("network", Mark.BAD, error_text(error))]
    finally:
        await transport.aclose()
    return found


def _batch(response: Response) -> Finding:
    if response.status == 200:
        return Finding(_BATCH, Mark.GOOD, _PERMITTED)
    error = wire.read_error(_BATCH, response.status, response.headers, response.body)
    passing = classify(error) in (ErrorKind.SERVICE, ErrorKind.THROTTLE, ErrorKind.UNKNOWN)
    return Finding(_BATCH, Mark.DOUBTFUL if passing else Mark.BAD, error_text(error))


def _clock(response: Response) -> Finding:
    try:
        theirs = parsedate_to_datetime(response.headers.get("Date", "")).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return Finding("clock", Mark.DOUBTFUL, "the endpoint does not tell the time")
    skew = (_CLOCK.now() - theirs).total_seconds()
    return Finding("clock", _good(abs(skew) < _MOST_SKEW), f"{skew:+.0f} s from the endpoint's")


def _answer(response: Response) -> Finding:
    if response.status == 200:
        return Finding("access", Mark.DOUBTFUL, "the endpoint knows the token, which is none")
    error = wire.read_error(_OPERATION, response.status, response.headers, response.body)
    if isinstance(error, InvalidResponseError):
        return Finding("access", Mark.BAD, error_text(error))
    if error.code == "InvalidTokenException" and error.status == 400:
        return Finding("access", Mark.GOOD, "the credentials are accepted")
    if error.code == "ExpiredTokenException":  # what is no token cannot be too old
        return Finding("access", Mark.BAD, _EXPIRED)
    if error.code in ("AccessDenied", "AccessDeniedException", "UnauthorizedException"):
        known = f"the credentials are known but may not call {_OPERATION}; {_BATCH} is "
        return Finding("access", Mark.DOUBTFUL, known + "a permission of its own")
    passing = classify(error) in (ErrorKind.SERVICE, ErrorKind.THROTTLE)
    return Finding("access", Mark.DOUBTFUL if passing else Mark.BAD, error_text(error))
