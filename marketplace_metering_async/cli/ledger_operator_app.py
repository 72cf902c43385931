"""`ledger …`: what an operator says of usage that has ended, and of the ledger itself."""

from functools import partial
from typing import Annotated

import typer

from marketplace_metering_async.cli.help import App, examples
from marketplace_metering_async.cli.ledger_options import (
    Month,
    Names,
    Note,
    States,
    Url,
    all_states,
    customer_ids,
)
from marketplace_metering_async.cli.options import (
    QUOTA,
    Account,
    CustomerIdentifier,
    EndpointUrl,
    License,
    OfProduct,
    Profile,
    Region,
    Settings,
)
from marketplace_metering_async.cli.running import finish

app = App()


@app.command(
    epilog=examples(
        'ledger resolve sqlite:///usage.db --as metered --state unconfirmed --note "in CloudTrail"',
    )
)
def resolve(
    url: Url,
    *,
    as_: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="WORD",
            help="What became of it: metered, not_metered or written_off.",
            autocompletion=lambda: ["metered", "not_metered", "written_off"],
        ),
    ],
    note: Note,
    name: Names = None,
    state: States = None,
    month: Month = None,
    account: Account = None,
    customer_identifier: CustomerIdentifier = None,
    license_arn: License = None,
    product_code: OfProduct = None,
) -> None:
    """Say what became of usage that has ended, once you have found out."""
    from marketplace_metering_async.cli.commands import ledger_operator  # noqa: PLC0415 - heavy

    ids = customer_ids(account, customer_identifier, license_arn, product_code)
    selection = ledger_operator.Selection.of(name, state, month, ids)
    finish(partial(ledger_operator.resolve, url, selection, as_, note))


@app.command(
    "write-off",
    epilog=examples(
        'ledger write-off sqlite:///usage.db --state month_over --note "goodwill"',
    ),
)
def write_off(
    url: Url,
    *,
    note: Note,
    name: Names = None,
    state: States = None,
    month: Month = None,
    account: Account = None,
    customer_identifier: CustomerIdentifier = None,
    license_arn: License = None,
    product_code: OfProduct = None,
) -> None:
    """Give up usage that has ended: nobody is billed for it."""
    from marketplace_metering_async.cli.commands import ledger_operator  # noqa: PLC0415 - heavy

    ids = customer_ids(account, customer_identifier, license_arn, product_code)
    selection = ledger_operator.Selection.of(name, state, month, ids)
    finish(partial(ledger_operator.resolve, url, selection, "written_off", note))


@app.command(
    epilog=examples(
        'ledger reopen sqlite:///usage.db --state too_late --note "the relay was down"',
    )
)
def reopen(
    url: Url,
    *,
    note: Note,
    name: Names = None,
    state: States = None,
    month: Month = None,
    account: Account = None,
    customer_identifier: CustomerIdentifier = None,
    license_arn: License = None,
    product_code: OfProduct = None,
) -> None:
    """Bill ended usage in the hour that runs, where the service surely does not have it."""
    from marketplace_metering_async.cli.commands import ledger_operator  # noqa: PLC0415 - heavy

    ids = customer_ids(account, customer_identifier, license_arn, product_code)
    selection = ledger_operator.Selection.of(name, state, month, ids)
    finish(partial(ledger_operator.reopen, url, selection, note))


@app.command(
    epilog=examples(
        'ledger rebind sqlite:///usage.db --region us-east-1 --taken billed --note "FIPS host"',
    )
)
def rebind(
    url: Url,
    *,
    note: Note,
    taken: Annotated[
        str | None,
        typer.Option(
            "--taken",
            metavar="WORD",
            help="What becomes of what the old host has taken: billed, send or written_off.",
        ),
    ] = None,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Send to another host of the ledger's region from now on."""
    from marketplace_metering_async.cli.commands import ledger_operator  # noqa: PLC0415 - heavy

    settings = Settings(
        endpoint_url=endpoint_url, profile=profile, region=region, calls_per_second=QUOTA
    )
    finish(partial(ledger_operator.rebind, url, settings, taken, note))


@app.command(
    "un-retire",
    epilog=examples("ledger un-retire sqlite:///usage.db postgresql://user@host/database"),
)
def un_retire(
    url: Url,
    target: Annotated[
        str, typer.Argument(metavar="NEW_URL", help="Where it moved; nothing of it may be there.")
    ],
) -> None:
    """Go on with a ledger that moved to another one."""
    from marketplace_metering_async.cli.commands import ledger_operator  # noqa: PLC0415 - heavy

    finish(partial(ledger_operator.un_retire, url, target))


@app.command(epilog=examples("ledger explain", "ledger explain probably_metered"))
def explain(
    state: Annotated[
        str | None,
        typer.Argument(
            metavar="[STATE]", help="One state; by default all.", autocompletion=all_states
        ),
    ] = None,
) -> None:
    """Say what a state of usage means, and what to do about it."""
    from marketplace_metering_async.cli.commands import ledger_operator  # noqa: PLC0415 - heavy

    finish(partial(ledger_operator.explain, state))
