"""`doctor`: is this machine ready to meter? It never calls BatchMeterUsage."""

import asyncio
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version

import aiohttp
from attrs import frozen
from rich.console import Console
from rich.table import Table

from marketplace_metering_async.cli.exits import Exit
from marketplace_metering_async.cli.settings import Settings
from marketplace_metering_async.errors import MeteringError, mask
from marketplace_metering_async.limits import service_metadata
from marketplace_metering_async.signing import Endpoint, Signer

_FLOORS = {
    "aiobotocore": (3, 3),
    "aiohttp": (3, 14, 4),
    "attrs": (24, 2),
    "tenacity": (9, 1),
}
_SKEW = 60.0


@frozen
class Finding:
    """One thing that was looked at."""

    name: str
    good: bool
    text: str


async def run(settings: Settings, console: Console) -> Exit:
    """Look at everything, show it, and return 0 if all is well, or 4."""
    findings = [*_versions()]
    endpoint = await _configuration(settings, findings)
    if endpoint is not None:
        findings.append(await _clock(endpoint))
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        mark = "[green]ok[/]" if finding.good else "[red]no[/]"
        table.add_row(mark, finding.name, finding.text)
    console.print(table)
    return Exit.METERED if all(finding.good for finding in findings) else Exit.ACCOUNT


def _versions() -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), platform.python_version())
    for name, floor in _FLOORS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, good=False, text="not installed")
            continue
        parts = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
        wanted = ".".join(map(str, floor))
        good = parts >= floor
        yield Finding(name, good, found if good else f"{found}; at least {wanted} is needed")


async def _configuration(settings: Settings, findings: list[Finding]) -> Endpoint | None:
    signer = Signer(
        region_name=settings.region,
        endpoint_url=settings.endpoint_url,
        profile_name=settings.profile,
    )
    try:
        endpoint = await signer.open()
        request = await signer.sign("ResolveCustomer", b"{}", datetime.now(UTC))
    except MeteringError as error:
        findings.append(Finding("configuration", good=False, text=f"{error}. {error.advice}"))
        return None
    authorization = request.headers["Authorization"]
    access_key = authorization.partition("Credential=")[2].partition("/")[0]
    findings.append(Finding("credentials", good=True, text=f"access key {mask(access_key)}"))
    offered = endpoint.region_name in service_metadata().regions
    note = endpoint.region_name + ("" if offered else ": BatchMeterUsage is not offered there")
    findings.append(Finding("region", offered, note))
    findings.append(Finding("endpoint", good=True, text=endpoint.url))
    proxy = endpoint.transport.proxy_url
    findings.append(
        Finding("proxy", good=True, text="none" if proxy is None else "from the environment")
    )
    return endpoint


async def _clock(endpoint: Endpoint) -> Finding:
    """Compare with the `Date` of any answer of the endpoint; the request is not signed."""
    try:
        async with (
            asyncio.timeout(10),
            aiohttp.ClientSession(trust_env=False) as session,
            session.get(
                endpoint.url, allow_redirects=False, proxy=endpoint.transport.proxy_url
            ) as answer,
        ):
            date = answer.headers.get("Date", "")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        text = f"the endpoint cannot be reached ({type(error).__name__})"
        return Finding("network", good=False, text=text)
    try:
        theirs = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return Finding("clock", good=False, text="the endpoint does not tell the time")
    skew = (datetime.now(UTC) - theirs.astimezone(UTC)).total_seconds()
    return Finding("clock", abs(skew) < _SKEW, f"{skew:+.0f} s from the endpoint's")
