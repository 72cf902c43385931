"""The options that commands of the ledger share."""

from datetime import UTC, datetime
from typing import Annotated

import typer

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


Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar="NAME", help="The name of an entry of `ledger history`; may be repeated."
    ),
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="All entries that ended in this state; may be repeated.",
        autocompletion=ended_states,
    ),
]
Month = Annotated[
    datetime | None,
    typer.Option(
        "--month", metavar="YYYY-MM", parser=month, help="Only of this month; by default of all."
    ),
]
Note = Annotated[
    str, typer.Option("--note", metavar="TEXT", help="Why; it is kept in the history.")
]


def customer_ids(
    account: str | None,
    customer_identifier: str | None,
    license_arn: str | None,
    product_code: str | None,
) -> dict[str, str | None]:
    """Return them by the names that the library has for them."""
    return {
        "customer_aws_account_id": account,
        "customer_identifier": customer_identifier,
        "license_arn": license_arn,
        "product_code": product_code,
    }
