"""What the commands of the ledger do, but for its status."""

import csv
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from attrs import asdict

from marketplace_metering_async.cli import exits
from marketplace_metering_async.cli.exits import Exit, MisuseError
from marketplace_metering_async.cli.formats import UsageFileError
from marketplace_metering_async.cli.held import tell_blocked
from marketplace_metering_async.cli.importing import (
    FIX_AND_IMPORT,
    Entries,
    Entry,
    import_entries,
    require_names,
)
from marketplace_metering_async.cli.intake import Intake
from marketplace_metering_async.cli.interrupts import Interrupts
from marketplace_metering_async.cli.kept import KeptLines
from marketplace_metering_async.cli.ledger_status import at_minute, exit_of, tell_unsettled
from marketplace_metering_async.cli.options import Settings
from marketplace_metering_async.cli.order import Order
from marketplace_metering_async.cli.output import People, error_text, print_json, printable
from marketplace_metering_async.cli.progress import Watch
from marketplace_metering_async.cli.reading import Source
from marketplace_metering_async.cli.reporting import Complaints
from marketplace_metering_async.cli.result_lines import ResultLines
from marketplace_metering_async.cli.results import FIX_AND_SEND_ALL
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.events import Event, RelayBlocked, UsageEnded, Warned
from marketplace_metering_async.ledger import HistoryEntry, HourState, RelayReport, UsageLedger
from marketplace_metering_async.ledger.model import ENDED

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so would be run by a spreadsheet."""
_CLOSES: Final = "no more is sent; what is on its way to the service is awaited."


def _open(url: str, people: People, **settings: Any) -> UsageLedger:  # noqa: ANN401
    def tell(event: Event) -> None:
        match event:
            case Warned(text=text):
                people.complain(text)
            case UsageEnded(state=state, records=records):
                people.complain(f"{records:,} records ended as {state}")
            case RelayBlocked(error=error):
                people.complain(f"the relay is blocked, and goes on trying: {error_text(error)}")

    return UsageLedger.open(url, observer=tell, **settings)


async def add(url: str, members: Mapping[str, Any], people: People) -> Exit:
    """Add one piece of usage."""
    async with _open(url, people) as ledger:
        added = await ledger.add_usage(**members)
    print_json(
        {
            "hour": added.hour,
            "late": added.late,
            "repeated": added.repeated,
            "ended": added.ended,
        }
    )
    return Exit.METERED if added.ended is None else Exit.REJECTED


async def import_files(
    url: str,
    sources: Sequence[Source],
    product_code: str | None,
    name: str | None,
    people: People,
) -> Exit:
    """Add every line as it is read, and tell of each."""
    require_names(sources, name)
    entries = Entries(product_code, name, FIX_AND_IMPORT)

    async def blocks() -> AsyncIterator[list[Entry]]:
        async for block in Intake(sources).blocks():
            yield [entries.of(line) for line in block]

    async with _open(url, people) as ledger:
        code = await _import(ledger, blocks(), people)
        status = await ledger.status()
    if status.next_seal_at is not None:
        when = at_minute(status.next_seal_at, SystemClock().now())
        people.print(f"The next hours are sealed at {when}; `ledger relay` meters them.")
    return code


async def _import(
    ledger: UsageLedger, blocks: AsyncIterator[Sequence[Entry]], people: People
) -> Exit:
    complain = Complaints(people)
    counts: Counter[str] = Counter()
    codes = {Exit.METERED}
    failures: list[OSError] = []
    lines = ResultLines(people, failures.append)
    async with Watch(people, "importing", unit="lines") as watch:
        try:
            async for entry in import_entries(ledger, blocks):
                members = entry.result or {}
                counts[str(members["status"])] += 1
                codes.add(entry.code)
                if "message" in members:
                    complain(members["message"])
                lines.write({"file": entry.file, "line": entry.number, **members})
                watch.advance()
                await lines.room.wait()
        except UsageFileError as error:
            people.complain(error)
            codes.add(Exit.USAGE)
        await lines.close()
    complain.end()
    people.print(", ".join(f"{n:,} {status}" for status, n in counts.items()) or "no lines")
    return exits.gravest(codes | ({Exit.USAGE} if failures else set()))


async def take_over(url: str, old: str, people: People) -> Exit:
    """Move a SQLite ledger into PostgreSQL."""
    async with _open(url, people) as ledger:
        hours = await ledger.take_over(old)
    people.print(f"{hours:,} hours are moved; the old ledger takes no more usage")
    return Exit.METERED


async def relay(url: str, settings: Settings, people: People, *, once: bool) -> Exit:
    """Relay once, or until a signal."""
    async with _open(url, people, create=False, region_name=settings.region) as ledger:
        pacer = ledger.pacer(settings.calls_per_second) if settings.calls_per_second else None
        async with settings.client(pacer=pacer) as client:
            with Interrupts(people, _CLOSES) as interrupts:
                if not once:
                    where = printable((await client.endpoint()).url)
                    people.print(f"relaying to {where}; Ctrl-C ends it", markup=False)
                    await ledger.relay(client, stop=interrupts.stopped)
                    return Exit.INTERRUPTED if interrupts.happened else Exit.METERED
                report = await ledger.relay_once(client, stop=interrupts.stopped)
        status = await ledger.status()
    codes = {_print_report(report, people), tell_unsettled(status, SystemClock().now(), people)}
    return exits.gravest(codes | ({Exit.INTERRUPTED} if interrupts.happened else set()))


def _print_report(report: RelayReport, people: People) -> Exit:
    print_json(
        {
            "sealed": report.sealed,
            "metered": report.metered,
            "units": report.units,
            "returned": report.returned,
            "ended": report.ended,
        }
    )
    if report.stopped_by is not None:
        people.complain(error_text(report.stopped_by))
        return Exit.ACCOUNT
    if report.returned:
        return Exit.UNDELIVERED
    return Exit.REJECTED if report.ended else Exit.METERED


async def send_through(order: Order, url: str, people: People) -> Exit:
    """`send --ledger`: import the files, then meter all hours that are over."""
    require_names(order.sources, None)
    settings = order.settings
    async with _open(url, people, region_name=settings.region, grace=0) as ledger:
        pacer = ledger.pacer(settings.calls_per_second) if settings.calls_per_second else None
        async with settings.client(pacer=pacer) as client:
            await client.endpoint()  # whoever has no account hears so before anything is stored
            codes = {await _import_whole(ledger, order, people)}
            with Interrupts(people, _CLOSES) as interrupts:
                report = await ledger.relay_once(client, stop=interrupts.stopped)
            codes.add(_print_report(report, people))
            if interrupts.happened:
                codes.add(Exit.INTERRUPTED)
        status = await ledger.status()
    codes |= {tell_unsettled(status, SystemClock().now(), people), exit_of(status)}
    return exits.gravest(codes)


async def _import_whole(ledger: UsageLedger, order: Order, people: People) -> Exit:
    """Add all lines but those of hours that a bad line may belong to, once all are read."""
    entries = Entries(order.product_code, None, FIX_AND_SEND_ALL)
    with KeptLines(order.product_code) as kept:
        async with Watch(people, "reading", total=order.size, unit="lines") as watch:
            async for block in Intake(order.sources).blocks():
                for line in block:
                    kept.add(line, entries.of(line))
                    watch.advance(line.size)
        code = await _import(ledger, kept.blocks(), people)
        tell_blocked(len(kept.held), kept.anywhere, people)
    return code


async def history(url: str, where: Mapping[str, Any], people: People, *, as_csv: bool) -> Exit:
    """Print the story of every hour to stdout."""
    async with _open(url, people, create=False) as ledger:
        table = csv.writer(sys.stdout, lineterminator="\n") if as_csv else None
        if table is not None:
            table.writerow(_COLUMNS)
        async for entry in ledger.history(**where):
            members = asdict(entry)
            if table is None:
                print_json(members)
            else:
                table.writerow([_cell(members, entry, column) for column in _COLUMNS])
    sys.stdout.flush()
    return Exit.METERED


_COLUMNS: Final = (
    "product_code",
    "customer_aws_account_id",
    "customer_identifier",
    "license_arn",
    "dimension",
    "hour",
    "state",
    "quantity",
    "events",
    "carried",
    "timestamp",
    "sealed_at",
    "region_name",
    "digest",
    "attempts",
    "settled_at",
    "metering_record_id",
    "reason",
)


def _cell(members: Mapping[str, Any], entry: HistoryEntry, column: str) -> object:
    value = members[column]
    if column in ("carried", "attempts"):
        return json.dumps(value, default=str)
    if isinstance(getattr(entry, column), datetime):
        return value.isoformat()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


async def retry(url: str, names: Sequence[str], people: People) -> Exit:
    """Send ended records again."""
    if unknown := [name for name in names if name not in ENDED]:
        raise MisuseError(f"--state: expected one of {', '.join(ENDED)}; got {unknown[0]!r}")
    async with _open(url, people, create=False) as ledger:
        count = await ledger.retry(*(HourState(name) for name in names))
    people.print(f"{count:,} are on their way again")
    return Exit.METERED


async def prune(url: str, before: datetime, people: People) -> Exit:
    """Remove what was settled long ago."""
    async with _open(url, people, create=False) as ledger:
        try:
            count = await ledger.prune(before)
        except ValueError as error:
            raise MisuseError(f"--days: {error}") from error
    people.print(f"{count:,} hours are removed; their sums are kept")
    return Exit.METERED


async def release(url: str, people: People) -> Exit:
    """Go on with a copy."""
    async with _open(url, people, create=False) as ledger:
        await ledger.release()
    people.print("released: its open hours are metered from now on")
    return Exit.METERED


async def close_customer(url: str, who: Mapping[str, Any], people: People, *, reopen: bool) -> Exit:
    """Close a customer's hours, or take usage again."""
    async with _open(url, people, create=False) as ledger:
        if reopen:
            await ledger.reopen_customer(**who)
            people.print("usage of the customer is taken again")
        else:
            hours = await ledger.close_customer(**who)
            people.print(f"{hours:,} hours are on their way; relay now")
    return Exit.METERED
