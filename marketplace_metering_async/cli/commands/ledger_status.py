"""`ledger status`: where all usage is, for a person, for a program, and for an alarm."""

from datetime import datetime, timedelta

from attrs import asdict
from rich.table import Table
from rich.text import Text

from marketplace_metering_async import limits
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.output.console import (
    Console,
    are,
    at_minute,
    print_json,
    printable,
    write_out,
)
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.events import Event
from marketplace_metering_async.ledger import HourState, LedgerStatus, UsageLedger
from marketplace_metering_async.ledger.metrics import prometheus_text
from marketplace_metering_async.quantities import Quantity, millionths, of_millionths

_LOOKS_EACH = 30.0
"""Seconds between two looks of a relay at its ledger."""
_GUARDED = "[bold yellow]A copy: open hours wait for `ledger adopt-copy`.[/]"


async def show(url: str, *, json: bool, prometheus: bool) -> Exit:
    """Show the status on stdout, for it is what was asked for, and end with what it means."""
    async with UsageLedger.open(url, create=False, observer=unheard) as ledger:
        status = await ledger.status()
    if json:
        print_json(asdict(status))
    elif prometheus:
        write_out(prometheus_text(status))
    else:
        _print_table(status, Console(stderr=False))
    return exit_of(status)


def unheard(event: Event) -> None:
    """What is printed says it all."""


def exit_of(status: LedgerStatus) -> Exit:
    """Return 3 where usage is at risk, 1 where some has ended and a person has to decide."""
    if status.at_risk or status.is_unconfirmed_copy:
        return Exit.UNDELIVERED
    unresolved = (units for state, units in status.ended.items() if state != HourState.WRITTEN_OFF)
    return Exit.REJECTED if any(unresolved) else Exit.OK


def print_unsettled(status: LedgerStatus, now: datetime, console: Console) -> Exit:
    """Say what is not settled at *now* and when to go on; return 3 where any of it has units."""
    if status.claimed_until is not None:
        of_whom = "claimed until then by a relay that may be dead"
        if status.claimed_until <= now:
            of_whom = "left over from a relay that is dead"
        again = _again("after", status.claimed_until, now)
        console.print(f"{again}: {status.in_flight:,} units are {of_whom}.")
    if status.next_send_at is not None:
        again = _again("at", status.next_send_at, now)
        console.print(f"{again}: {_waiting(status):,} units are frozen and wait to be sent.")
    if status.is_unconfirmed_copy:
        console.print(_GUARDED)
    elif status.next_seal_at is not None:
        again = _again("at", status.next_seal_at, now)
        console.print(
            f"{again}, or let `ledger relay` run: {status.open:,} units are open, and the next of "
            "their hours are sealed then."
        )
    return Exit.UNDELIVERED if status.open or status.frozen else Exit.OK


def _again(word: str, when: datetime, now: datetime) -> str:
    return "Run this again" + (f" {word} {at_minute(when, now)}" if when > now else "")


def _print_table(status: LedgerStatus, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("product")
    table.add_column("dimension")
    for name in ("open", "frozen", "metered", "ended"):
        table.add_column(name, justify="right")
    for one in status.products:
        ended = of_millionths(sum(map(millionths, one.ended.values())))
        table.add_row(
            one.product_code or "-",
            Text(printable(one.dimension)),
            f"{one.open:,}",
            f"{one.frozen:,}",
            f"[green]{one.metered:,}[/]",
            f"[red]{ended:,}[/]" if ended else "0",
        )
    console.print(table)
    console.print(f"{status.recorded:,} units recorded, {status.in_flight:,} in flight")
    for state, units in status.ended.items():
        colour = "default" if state is HourState.WRITTEN_OFF else "red"
        text = f"{units:,} units ended as {state}: `ledger explain {state}` says what to do"
        console.print(f"[{colour}]{text}[/]")
    if status.oldest_unsent_seconds is not None:
        console.print(f"oldest unsent: {_hours(status.oldest_unsent_seconds)} after its hour")
    if status.seconds_to_first_loss is not None:
        left = status.seconds_to_first_loss
        style = "red" if left <= 6 * 3600 else "default"
        text = f"in {_hours(left)}" if left > 0 else "already"
        console.print(f"[{style}]the first of it is lost {text}[/]")
    if status.at_risk:
        console.print(f"[bold red]{status.at_risk:,} units are at risk: is a relay running?[/]")
    print_next(status, SystemClock().now(), console)
    if status.is_unconfirmed_copy:
        console.print(_GUARDED)
    _print_last(status, console)


def _print_last(status: LedgerStatus, console: Console) -> None:
    """Say when something last happened."""
    if status.last_relay_seconds is not None:
        console.print(f"a relay last worked {_hours(status.last_relay_seconds)} ago")
    elif status.last_usage_seconds is not None:
        console.print("no relay has worked yet")
    if status.last_success_seconds is not None:
        console.print(f"last success: {_hours(status.last_success_seconds)} ago")
    elif status.last_usage_seconds is None:
        console.print("no usage yet")
    else:
        console.print("nothing was metered yet")


def print_next(status: LedgerStatus, now: datetime, console: Console) -> None:
    """Say what happens next to what is open or frozen at *now*, and when."""
    if status.claimed_until is not None:
        until = at_minute(status.claimed_until, now)
        console.print(f"what is in flight is claimed by a relay until {until}")
    if status.next_send_at is not None:
        when = _soon("at", status.next_send_at, now)
        console.print(f"{_waiting(status):,} units are frozen and sent {when}, if a relay runs")
    if status.next_seal_at is not None and not status.is_unconfirmed_copy:
        hours = status.hours_at_next_seal
        sealed = _soon("at", status.next_seal_at, now)
        sent = at_minute(max(now, status.next_seal_at) + _time_to_send(hours), now)
        console.print(f"{are(hours, 'hour')} sealed {sealed}, sent by {sent}, if a relay runs")


def _waiting(status: LedgerStatus) -> Quantity:
    """Return the units that are frozen and in no relay's hands."""
    return of_millionths(millionths(status.frozen) - millionths(status.in_flight))


def _soon(word: str, when: datetime, now: datetime) -> str:
    return f"{word} {at_minute(when, now)}" if when > now else "at once"


def _time_to_send(hours: int) -> timedelta:
    """Return what it takes until a relay looks, and until its last request is answered."""
    requests = -(-hours // limits.MAX_RECORDS_PER_REQUEST)
    return timedelta(seconds=_LOOKS_EACH + requests / limits.CALLS_PER_SECOND)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
