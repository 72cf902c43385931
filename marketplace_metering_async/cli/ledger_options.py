"""The options that commands of the ledger share, and what they make of them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import asdict, frozen

from marketplace_metering_async.cli.exit_codes import MisuseError
from marketplace_metering_async.cli.options import (
    Account,
    CustomerIdentifier,
    License,
    OfProduct,
    ProductCode,
    option,
)
from marketplace_metering_async.cli.output.console import (
    Console,
    LogFormat,
    at_minute,
    counted,
    error_text,
)
from marketplace_metering_async.cli.output.steps import step
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.events import (
    Event,
    Observer,
    RelayBlocked,
    RelayWorking,
    UsageEndedUnmetered,
    WarningIssued,
)

if TYPE_CHECKING:
    from marketplace_metering_async.ledger import HourState, UsageLedger

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="The ledger: sqlite:///usage.db or postgresql://user@host/database."
    ),
]


def all_states() -> list[str]:
    """Return the states that usage may be in."""
    from marketplace_metering_async.ledger.model import HourState  # noqa: PLC0415 - heavy

    return [state.value for state in HourState]


def ended_states() -> list[str]:
    """Return the states in which usage ends that is not metered."""
    from marketplace_metering_async.ledger.model import ENDED  # noqa: PLC0415 - heavy

    return [state.value for state in ENDED]


def month(text: str) -> datetime:
    """Read a month; its first moment in UTC."""
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(f"expected YYYY-MM, got {text!r}") from None


Month = Annotated[
    datetime | None,
    option("--month YYYY-MM", "Only of this month; by default of all.", parser=month),
]
Note = Annotated[str, option("--note TEXT", "Why; it is kept in the history.")]


@frozen(kw_only=True)
class Buyer:
    """Which customer of which product, by the names that the library has for it."""

    customer_aws_account_id: Account = None
    customer_identifier: CustomerIdentifier = None
    license_arn: License = None
    product_code: ProductCode = None


@frozen(kw_only=True)
class Where:
    """Which hours of the history, by the names that the library has for it."""

    month: Month = None
    customer_aws_account_id: Account = None
    customer_identifier: CustomerIdentifier = None
    license_arn: License = None
    product_code: OfProduct = None


@frozen(kw_only=True, slots=False)  # of two bases only one may have slots
class _Named:
    name: Annotated[
        list[str] | None,
        option("--name NAME", "The name of an entry of `ledger history`; may be repeated."),
    ] = None
    state: Annotated[
        list[str] | None,
        option(
            "--state STATE",
            "All entries that ended in this state; may be repeated.",
            autocompletion=ended_states,
        ),
    ] = None


@frozen(kw_only=True)
class Chosen(Where, _Named):
    """Which entries an operator speaks of: by name, or by state and where they are."""


def states_of(names: Sequence[str], known: Sequence[str]) -> "list[HourState]":
    """
    Return the states that are named.

    Raises:
        MisuseError: one is none of those *known*.
    """
    from marketplace_metering_async.ledger.model import HourState  # noqa: PLC0415 - heavy

    if unknown := [name for name in names if name not in known]:
        raise MisuseError(f"--state: expected one of {', '.join(known)}; got {unknown[0]!r}")
    return [HourState(name) for name in names]


def open_ledger(url: str, console: Console, **settings: Any) -> "UsageLedger":  # noqa: ANN401
    """Return the ledger at *url*, which reports to *console*."""
    from marketplace_metering_async.ledger import UsageLedger  # noqa: PLC0415 - heavy

    return UsageLedger.open(url, observer=report_to(console), **settings)


def report_to(console: Console) -> Observer:
    """Return an observer of a ledger that says on *console* what a person should know of."""

    def report(event: Event) -> None:
        match event:
            case WarningIssued(text=text):
                console.complain(text)
            case UsageEndedUnmetered(state=state, records=records):
                console.complain(
                    f"{counted(records, 'record')} ended as {state}: `ledger explain {state}` says "
                    "what to do"
                )
            case RelayWorking() if console.log_as.format is LogFormat.JSON:
                console.note("info", step(event), event="RelayWorking", **asdict(event))
            case RelayWorking():
                console.tell("RelayWorking", step(event), asdict(event))
            case RelayBlocked():
                _say_blocked(event, console)

    return report


def _say_blocked(event: RelayBlocked, console: Console) -> None:
    text = f"the relay is blocked, and goes on trying: {error_text(event.error)}"
    if event.units and event.first_loss_at is not None:
        lost = at_minute(event.first_loss_at, SystemClock().now())
        text += f"\n{event.units:,} units are unsent; the first is lost at {lost}"
    if console.log_as.format is LogFormat.JSON:
        members = {"event": "RelayBlocked", **asdict(event, recurse=False)}
        console.note("error", text, **members)
    else:
        console.complain(f"ERROR: {text}")
