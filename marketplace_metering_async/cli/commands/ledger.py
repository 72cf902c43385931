"""`ledger …`: the commands of the ledger that programs and their keepers use day by day."""

import json
from collections.abc import Iterable
from csv import writer as csv_writer
from datetime import datetime
from io import StringIO
from typing import Annotated, Any, Final

import typer
from attrs import asdict, fields

from marketplace_metering_async.cli.commands import ledger_operator
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.help import App, examples
from marketplace_metering_async.cli.input.lines import sources_of
from marketplace_metering_async.cli.ledger_options import (
    Buyer,
    Url,
    Where,
    all_states,
    open_ledger,
    states_of,
)
from marketplace_metering_async.cli.options import (
    Dimension,
    ProductCode,
    Quantity,
    SendSettings,
    moment,
    option,
    some_text,
)
from marketplace_metering_async.cli.output.console import (
    Console,
    are,
    json_line,
    print_json,
    write_out,
)

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so would be run by a spreadsheet."""

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

Host = Annotated[str, option("--host HOST", "Where to listen.")]
Port = Annotated[int, option("--port PORT", "On which port; 0: a free one.", min=0, max=65535)]


@app.command("ledger create postgresql://owner@host/usage")
async def create(console: Console, url: Url) -> Exit:
    """Make a ledger, or upgrade its schema; as the owner of its tables, where roles differ."""
    async with open_ledger(url, console):
        console.print("the ledger is there, with the schema of this version")
    return Exit.OK


@app.command(
    "ledger add sqlite:///usage.db --product-code my-product --account 111122223333 "
    "--dimension requests --quantity 5 --event-id request-1"
)
async def add(
    console: Console,
    url: Url,
    *,
    dimension: Dimension,
    quantity: Quantity,
    buyer: Buyer,
    at: Annotated[
        datetime | None,
        option(
            "--at TIME",
            "When it happened, in ISO 8601 with a time zone; now by default.",
            parser=moment,
        ),
    ] = None,
    event_id: Annotated[
        str | None,
        option("--event-id TEXT", "Your name for this usage; a repetition adds nothing."),
    ] = None,
) -> Exit:
    """Add usage of one customer; it is on the disk when the command ends."""
    async with open_ledger(url, console) as ledger:
        added = await ledger.add_usage(
            dimension=dimension, quantity=quantity, at=at, event_id=event_id, **asdict(buyer)
        )
    print_json(asdict(added), done="the usage is stored")
    return Exit.OK if added.ended is None else Exit.REJECTED


@app.command(
    "ledger import sqlite:///usage.db usage.jsonl --product-code my-product",
    "ledger import sqlite:///usage.db - --name web-1/2026-11-28T09 --product-code my-product",
    "ledger import postgresql://user@host/database sqlite:///usage.db",
    name="import",
)
async def import_(
    console: Console,
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
        option(
            "--name TEXT",
            "Name of the input in place of the file's own, such as HOST-DAY.",
            callback=some_text,
        ),
    ] = None,
    changed: Annotated[
        bool,
        option(
            "--changed",
            "Add lines that differ from those of a file of this name that was imported "
            "before, beside what was added then; by default the file is refused.",
        ),
    ] = False,
) -> Exit:
    """
    Add every line of files as usage; lines that were imported before add nothing.

    A line is known by its event_id, if it has that column. Otherwise it is known by the name of its
    file (without the folder and .gz) and its number: another file of that name is refused, and the
    same lines under another name are added again.
    """
    if len(files) == 1 and files[0].startswith("sqlite://"):
        if name is not None or changed:
            wrong = "--changed" if name is None else "--name"
            raise typer.BadParameter("a ledger that moves has no lines", param_hint=wrong)
        async with open_ledger(url, console) as ledger:
            hours = await ledger.take_over(files[0])
        console.print(f"{are(hours, 'hour')} moved; the old ledger takes no more usage")
        return Exit.OK
    from marketplace_metering_async.cli.commands import ledger_import, ledger_in_out  # noqa: PLC0415 - heavy

    sources = sources_of(files, for_ledger=True)
    naming = ledger_import.Naming(name, changed)
    return await ledger_in_out.import_files(url, sources, product_code, naming, console)


@app.command(
    "ledger relay sqlite:///usage.db",
    "ledger relay sqlite:///usage.db --log-format json --verbose",
    "ledger relay sqlite:///usage.db --once --timeout 60",
)
async def relay(
    console: Console,
    url: Url,
    *,
    once: Annotated[
        bool, option("--once", "Send what may be sent now; exit code 3: some is still open.")
    ] = False,
    settings: SendSettings,
) -> Exit:
    """Seal hours that are over and meter them, until Ctrl-C or SIGTERM. Exit code 5: a copy."""
    if settings.timeout is not None and not once:
        raise typer.BadParameter("only together with --once", param_hint="--timeout")
    from marketplace_metering_async.cli.commands import ledger_in_out  # noqa: PLC0415 - heavy

    return await ledger_in_out.relay(url, settings, console, once=once)


@app.command(
    "ledger status sqlite:///usage.db",
    "ledger status sqlite:///usage.db --json",
    "ledger status sqlite:///usage.db --prometheus",
)
async def status(
    _: Console,
    url: Url,
    *,
    json: Annotated[bool, option("--json", "As JSON on stdout.")] = False,
    prometheus: Annotated[bool, option("--prometheus", "As Prometheus text on stdout.")] = False,
) -> Exit:
    """Show where all usage is. Exit code 3: at risk; 1: some has ended, for a person."""
    if json and prometheus:
        raise typer.BadParameter("not together with --json", param_hint="--prometheus")
    from marketplace_metering_async.cli.commands import ledger_status  # noqa: PLC0415 - heavy

    return await ledger_status.show(url, json=json, prometheus=prometheus)


@app.command("ledger serve sqlite:///usage.db")
async def serve(console: Console, url: Url, *, port: Port = 9178) -> Exit:
    """
    Show the ledger in a browser of this machine, until Ctrl-C or SIGTERM.

    What is open, what goes out next, what has ended and why, and the latest hours by product,
    customer and month. It only reads. Whole ids of customers are on the page.
    """
    from marketplace_metering_async.cli.commands import ledger_serve  # noqa: PLC0415 - a web server

    return await ledger_serve.serve_page(url, port, console)


@app.command(
    "ledger serve-metrics sqlite:///usage.db",
    "ledger serve-metrics postgresql://reader@host/database --host 0.0.0.0 --port 9177",
    name="serve-metrics",
)
async def serve_metrics(
    console: Console, url: Url, *, host: Host = "127.0.0.1", port: Port = 9177
) -> Exit:
    """
    Serve the status as Prometheus text, at /metrics, until Ctrl-C or SIGTERM.

    It only reads. /healthz says that the server lives, whatever has become of the ledger; while
    that cannot be read, /metrics answers 503.
    """
    from marketplace_metering_async.cli.commands import ledger_serve  # noqa: PLC0415 - a web server

    return await ledger_serve.serve_metrics(url, host, port, console)


@app.command("ledger history sqlite:///usage.db --month 2026-11 --account 111122223333 --csv")
async def history(
    console: Console,
    url: Url,
    *,
    where: Where,
    state: Annotated[
        list[str] | None,
        option(
            "--state STATE",
            "Only what is in this state; may be repeated.",
            autocompletion=all_states,
        ),
    ] = None,
    csv: Annotated[bool, option("--csv", "CSV in place of JSON lines.")] = False,
) -> Exit:
    """Print the story of every hour: sums, frozen record, attempts, answers."""
    states = states_of(state or [], all_states())
    async with open_ledger(url, console, create=False) as ledger:
        columns = _columns() if csv else []
        if csv:
            write_out(_row(columns))
        async for entry in ledger.history(states=states, **asdict(where)):
            members = asdict(entry)
            row = _row(_cell(one, members[one]) for one in columns) if csv else json_line(members)
            if not write_out(row):
                break
    return Exit.OK


def _columns() -> list[str]:
    """Return all that an entry has; its name is for commands, and comes last."""
    from marketplace_metering_async.ledger import HistoryEntry  # noqa: PLC0415 - heavy

    name, *others = (field.name for field in fields(HistoryEntry))
    return [*others, name]


def _row(cells: Iterable[object]) -> str:
    row = StringIO()
    csv_writer(row, lineterminator="\n").writerow(cells)
    return row.getvalue()


def _cell(column: str, value: Any) -> object:  # noqa: ANN401 - whatever an entry has there
    if column in ("carried", "attempts", "resolutions"):
        return json.dumps(value, default=str)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


app.registered_commands += ledger_operator.app.registered_commands
