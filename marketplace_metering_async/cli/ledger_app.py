"""`ledger …`: the commands of the ledger and their options; what they do is in `commands`."""

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Final

import typer

from marketplace_metering_async.cli import ledger_operator_app
from marketplace_metering_async.cli.help import App, examples
from marketplace_metering_async.cli.ledger_options import (
    Month,
    Url,
    all_states,
    customer_ids,
    ended_states,
)
from marketplace_metering_async.cli.options import (
    QUOTA,
    Account,
    CallsPerSecond,
    CustomerIdentifier,
    Dimension,
    EndpointUrl,
    Format,
    License,
    OfProduct,
    ProductCode,
    Profile,
    Quantity,
    Region,
    Settings,
    Timeout,
    Verbose,
    moment,
    whole_number,
)
from marketplace_metering_async.cli.output.console import Log, LogFormat
from marketplace_metering_async.cli.running import finish, sources_or_exit
from marketplace_metering_async.clock import SystemClock

app = App(
    help=(
        "Keep usage safe until AWS has acknowledged it. URL is sqlite:///usage.db or "
        "postgresql://user@host/database."
    ),
    epilog=examples(
        "ledger import sqlite:///usage.db usage.jsonl --product-code my-product",
        "ledger relay sqlite:///usage.db",
        "ledger status sqlite:///usage.db",
        "ledger explain conflict",
    ),
)

_LONGEST_DAYS: Final = 36_500

Host = Annotated[str, typer.Option("--host", metavar="HOST", help="Where to listen.")]
Port = Annotated[
    int,
    typer.Option("--port", metavar="PORT", help="On which port; 0: a free one.", min=0, max=65535),
]


@app.command(epilog=examples("ledger create postgresql://owner@host/usage"))
def create(url: Url) -> None:
    """Make a ledger, or upgrade its schema; as the owner of its tables, where roles differ."""
    from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

    finish(partial(ledger_actions.create, url))


@app.command(
    epilog=examples(
        "ledger add sqlite:///usage.db --product-code my-product --account 111122223333 "
        "--dimension requests --quantity 5 --event-id request-1",
    )
)
def add(
    url: Url,
    *,
    dimension: Dimension,
    quantity: Quantity,
    account: Account = None,
    customer_identifier: CustomerIdentifier = None,
    license_arn: License = None,
    product_code: ProductCode = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at",
            metavar="TIME",
            parser=moment,
            help="When it happened, in ISO 8601 with a time zone; now by default.",
        ),
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option(
            "--event-id",
            metavar="TEXT",
            help="Your name for this usage; a repetition adds nothing.",
        ),
    ] = None,
) -> None:
    """Add usage of one customer; it is on the disk when the command ends."""
    from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

    members = {
        "dimension": dimension,
        "quantity": quantity,
        **customer_ids(account, customer_identifier, license_arn, product_code),
        "at": at,
        "event_id": event_id,
    }
    finish(partial(ledger_actions.add, url, members))


@app.command(
    "import",
    epilog=examples(
        "ledger import sqlite:///usage.db usage.jsonl --product-code my-product",
        "ledger import sqlite:///usage.db - --name web-1/2026-11-28T09 --product-code my-product",
        "ledger import postgresql://user@host/database sqlite:///usage.db",
    ),
)
def import_(
    url: Url,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help=(
                "As `send` takes them; - is standard input. Or the URL of a SQLite ledger to move."
            ),
        ),
    ],
    *,
    product_code: ProductCode = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="TEXT",
            help="Name of the input in place of the file's own, such as HOST-DAY.",
        ),
    ] = None,
    changed: Annotated[
        bool,
        typer.Option(
            "--changed",
            help="Add lines that differ from those of a file of this name that was imported "
            "before, beside what was added then; by default the file is refused.",
        ),
    ] = False,
) -> None:
    """
    Add every line of files as usage; lines that were imported before add nothing.

    A line is known by its event_id, if it has that column. Otherwise it is known by the name of its
    file (without the folder) and its number: another file of that name is refused, and the same
    lines under another name are added again.
    """
    from marketplace_metering_async.cli.commands import ledger_actions, ledger_import  # noqa: PLC0415 - heavy

    if len(files) == 1 and files[0].startswith("sqlite://"):
        finish(partial(ledger_actions.take_over, url, files[0]))
    sources = sources_or_exit(files, for_ledger=True)
    naming = ledger_import.Naming(name, changed)
    finish(partial(ledger_actions.import_files, url, sources, product_code, naming))


@app.command(
    epilog=examples(
        "ledger relay sqlite:///usage.db",
        "ledger relay sqlite:///usage.db --log-format json --verbose",
        "ledger relay sqlite:///usage.db --once --timeout 60",
    )
)
def relay(
    url: Url,
    *,
    once: Annotated[
        bool,
        typer.Option("--once", help="Send what may be sent now; exit code 3: some is still open."),
    ] = False,
    endpoint_url: EndpointUrl = None,
    profile: Profile = None,
    region: Region = None,
    calls_per_second: CallsPerSecond = QUOTA,
    timeout: Timeout = None,
    verbose: Verbose = False,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Seal hours that are over and meter them, until Ctrl-C or SIGTERM. Exit code 5: a copy."""
    from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

    settings = Settings(
        endpoint_url=endpoint_url,
        profile=profile,
        region=region,
        calls_per_second=calls_per_second,
        timeout=timeout,
        log=Log(verbose=verbose, format=log_format),
    )
    if timeout is not None and not once:
        raise typer.BadParameter("only together with --once", param_hint="--timeout")
    finish(partial(ledger_actions.relay, url, settings, once=once), settings.log)


@app.command(
    epilog=examples(
        "ledger status sqlite:///usage.db",
        "ledger status sqlite:///usage.db --json",
        "ledger status sqlite:///usage.db --prometheus",
    )
)
def status(
    url: Url,
    *,
    json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="As Prometheus text on stdout.")
    ] = False,
) -> None:
    """Show where all usage is. Exit code 3: at risk; 1: some has ended unmetered."""
    if json and prometheus:
        raise typer.BadParameter("not together with --json", param_hint="--prometheus")
    from marketplace_metering_async.cli.commands import ledger_status  # noqa: PLC0415 - heavy

    finish(partial(ledger_status.show, url, json=json, prometheus=prometheus))


@app.command(epilog=examples("ledger serve sqlite:///usage.db"))
def serve(url: Url, *, port: Port = 9178) -> None:
    """
    Show the ledger in a browser of this machine, until Ctrl-C or SIGTERM.

    What is open, what goes out next, what has ended and why, and the latest hours by product,
    customer and month. It only reads. Whole ids of customers are on the page.
    """
    from marketplace_metering_async.cli.commands import ledger_serve  # noqa: PLC0415 - a web server

    finish(partial(ledger_serve.serve_page, url, port))


@app.command(
    "serve-metrics",
    epilog=examples(
        "ledger serve-metrics sqlite:///usage.db",
        "ledger serve-metrics postgresql://reader@host/database --host 0.0.0.0 --port 9177",
    ),
)
def serve_metrics(url: Url, *, host: Host = "127.0.0.1", port: Port = 9177) -> None:
    """
    Serve the status as Prometheus text, at /metrics, until Ctrl-C or SIGTERM.

    It only reads. /healthz says that the server lives, whatever has become of the ledger; while
    that cannot be read, /metrics answers 503.
    """
    from marketplace_metering_async.cli.commands import ledger_serve  # noqa: PLC0415 - a web server

    finish(partial(ledger_serve.serve_metrics, url, host, port))


@app.command(
    epilog=examples(
        "ledger history sqlite:///usage.db --month 2026-11 --account 111122223333 --csv",
    )
)
def history(
    url: Url,
    *,
    month: Month = None,
    account: Account = None,
    customer_identifier: CustomerIdentifier = None,
    license_arn: License = None,
    product_code: OfProduct = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only what is in this state; may be repeated.",
            autocompletion=all_states,
        ),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="CSV in place of JSON lines.")] = False,
) -> None:
    """Print the story of every hour: sums, frozen record, attempts, answers."""
    from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

    ids = customer_ids(account, customer_identifier, license_arn, product_code)
    where = {"month": month, **ids}
    finish(partial(ledger_actions.history, url, where, state or [], as_csv=csv))


@app.command(
    epilog=examples(
        "ledger retry sqlite:///usage.db",
        "ledger retry sqlite:///usage.db --state not_subscribed",
    )
)
def retry(
    url: Url,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="An end state, or frozen; by default all but those of which you have to decide.",
            autocompletion=ended_states,
        ),
    ] = None,
) -> None:
    """Send ended records again, unchanged, where the service still takes them."""
    from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

    finish(partial(ledger_actions.retry, url, state or []))


@app.command(epilog=examples("ledger prune sqlite:///usage.db --days 400"))
def prune(
    url: Url,
    *,
    days: Annotated[
        int,
        typer.Option(
            "--days",
            metavar="NUMBER",
            parser=whole_number,
            help="Keep what was settled within so many days.",
        ),
    ] = 400,
) -> None:
    """Remove old hours that are metered or ended, but for their sums."""
    from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

    if days > _LONGEST_DAYS:
        raise typer.BadParameter(f"expected at most {_LONGEST_DAYS}", param_hint="--days")
    before = SystemClock().now() - timedelta(days=days)
    finish(partial(ledger_actions.prune, url, before))


@app.command(epilog=examples("ledger backup sqlite:///usage.db usage-backup.db"))
def backup(
    url: Url, file: Annotated[str, typer.Argument(metavar="FILE", help="New; not there yet.")]
) -> None:
    """Copy a SQLite ledger into a file, while it is in use. Put back, it is known as a copy."""
    from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

    finish(partial(ledger_actions.backup, url, file))


@app.command("adopt-copy", epilog=examples("ledger adopt-copy sqlite:///usage.db"))
def adopt_copy(url: Url) -> None:
    """Go on with a copy, such as a restored backup, once the producers have repeated."""
    from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

    finish(partial(ledger_actions.adopt_copy, url))


@app.command(
    "close-customer",
    epilog=examples(
        "ledger close-customer sqlite:///usage.db --product-code my-product --account 111122223333",
    ),
)
def close_customer(
    url: Url,
    *,
    account: Account = None,
    customer_identifier: CustomerIdentifier = None,
    license_arn: License = None,
    product_code: ProductCode = None,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="The customer has subscribed again.")
    ] = False,
) -> None:
    """Seal a customer's last hours at once, since the subscription has ended."""
    from marketplace_metering_async.cli.commands import ledger_actions  # noqa: PLC0415 - heavy

    who = customer_ids(account, customer_identifier, license_arn, product_code)
    finish(partial(ledger_actions.close_customer, url, who, reopen=reopen))


app.registered_commands += ledger_operator_app.app.registered_commands
