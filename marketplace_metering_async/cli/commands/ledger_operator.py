"""`ledger …`: what an operator says of usage that has ended, and of the ledger itself."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer
from attrs import asdict

from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.help import App
from marketplace_metering_async.cli.ledger_options import (
    Buyer,
    Chosen,
    Note,
    Url,
    all_states,
    ended_states,
    open_ledger,
    states_of,
)
from marketplace_metering_async.cli.options import Settings, option, whole_number
from marketplace_metering_async.cli.output.advice import as_typed
from marketplace_metering_async.cli.output.console import Console, are, print_json_if_piped
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import CannotResolveError, MeteringError

if TYPE_CHECKING:
    from marketplace_metering_async.ledger import UsageLedger

app = App()

_LONGEST_DAYS: Final = 36_500
_AT_ONCE: Final = 1_000
"""Entries that are changed together, all or none."""


@app.command(
    "ledger retry sqlite:///usage.db", "ledger retry sqlite:///usage.db --state not_subscribed"
)
async def retry(
    console: Console,
    url: Url,
    *,
    state: Annotated[
        list[str] | None,
        option(
            "--state STATE",
            "An end state, or frozen; by default all but those of which you have to decide.",
            autocompletion=ended_states,
        ),
    ] = None,
) -> Exit:
    """Send ended records again, unchanged, where the service still takes them."""
    states = states_of(state or [], [*ended_states(), "frozen"])
    async with open_ledger(url, console, create=False) as ledger:
        with _misuse_of("--state: "):
            count = await ledger.retry(*states)
    console.print(f"{are(count)} on the way again")
    return Exit.OK


@app.command("ledger prune sqlite:///usage.db --days 400")
async def prune(
    console: Console,
    url: Url,
    *,
    days: Annotated[
        int,
        option("--days NUMBER", "Keep what was settled within so many days.", parser=whole_number),
    ] = 400,
) -> Exit:
    """Remove old hours that are metered, written off or reopened, but for their sums."""
    if days > _LONGEST_DAYS:
        raise typer.BadParameter(f"expected at most {_LONGEST_DAYS}", param_hint="--days")
    async with open_ledger(url, console, create=False) as ledger:
        with _misuse_of():
            count = await ledger.prune(SystemClock().now() - timedelta(days=days))
    console.print(f"{are(count, 'hour')} removed; the sums are kept")
    return Exit.OK


@app.command("ledger backup sqlite:///usage.db usage-backup.db")
async def backup(
    console: Console,
    url: Url,
    file: Annotated[str, typer.Argument(metavar="FILE", help="New; not there yet.")],
) -> Exit:
    """Copy a SQLite ledger into a file, while it is in use. Put back, it is known as a copy."""
    async with open_ledger(url, console, create=False) as ledger:
        await ledger.back_up(file)
    console.print(f"{file} has all that was stored", markup=False)
    return Exit.OK


@app.command("ledger adopt-copy sqlite:///usage.db", name="adopt-copy")
async def adopt_copy(console: Console, url: Url) -> Exit:
    """Go on with a copy, such as a restored backup, once the producers have repeated."""
    async with open_ledger(url, console, create=False) as ledger:
        if not (await ledger.status()).is_unconfirmed_copy:
            console.print("this ledger is no copy, or was adopted before: nothing is changed")
            return Exit.OK
        await ledger.adopt_copy()
    console.print(
        "adopted: new usage is metered from now on; hours that may be metered already end as "
        "unconfirmed when they are due"
    )
    return Exit.OK


@app.command(
    "ledger close-customer sqlite:///usage.db --product-code my-product --account 111122223333",
    name="close-customer",
)
async def close_customer(
    console: Console,
    url: Url,
    *,
    buyer: Buyer,
    reopen: Annotated[bool, option("--reopen", "The customer has subscribed again.")] = False,
) -> Exit:
    """Seal a customer's last hours at once, since the subscription has ended."""
    async with open_ledger(url, console, create=False) as ledger:
        if reopen:
            await ledger.reopen_customer(**asdict(buyer))
            console.print("usage of the customer is taken again")
        else:
            hours = await ledger.close_customer(**asdict(buyer))
            console.print(
                f"{are(hours, 'hour')} on the way; relay now"
                if hours
                else "nothing of the customer waits; usage from now on ends as subscription_over"
            )
    return Exit.OK


@app.command(
    'ledger resolve sqlite:///usage.db --as metered --state unconfirmed --note "in CloudTrail"'
)
async def resolve(
    console: Console,
    url: Url,
    *,
    as_: Annotated[
        str,
        option(
            "--as WORD",
            "What became of it: metered, not_metered or written_off.",
            autocompletion=lambda: ["metered", "not_metered", "written_off"],
        ),
    ],
    note: Note,
    chosen: Chosen,
) -> Exit:
    """Say what became of usage that has ended, once you have found out."""
    count = await _change(
        console,
        url,
        chosen,
        lambda ledger, names: ledger.resolve(names, as_, note=note),  # type: ignore[arg-type]  # it looks
    )
    console.print(f"{are(count)} resolved as {as_}", markup=False)
    return Exit.OK


@app.command(
    'ledger write-off sqlite:///usage.db --state month_over --note "goodwill"', name="write-off"
)
async def write_off(
    console: Console,
    url: Url,
    *,
    note: Note,
    chosen: Chosen,
) -> Exit:
    """Give up usage that has ended: nobody is billed for it."""
    return await resolve(console, url, as_="written_off", note=note, chosen=chosen)


@app.command('ledger reopen sqlite:///usage.db --state too_late --note "the relay was down"')
async def reopen(
    console: Console,
    url: Url,
    *,
    note: Note,
    chosen: Chosen,
) -> Exit:
    """Bill ended usage in the hour that runs, where the service surely does not have it."""
    count = await _change(
        console, url, chosen, lambda ledger, names: ledger.reopen(names, note=note)
    )
    console.print(f"the usage of {count:,} is billed in the hour that runs")
    return Exit.OK


async def _change(
    console: Console,
    url: str,
    chosen: Chosen,
    change: "Callable[[UsageLedger, Sequence[str]], Awaitable[int]]",
) -> int:
    """Change what is chosen, and return how many entries those are."""
    where = asdict(chosen)
    names, states = where.pop("name") or [], where.pop("state") or []
    narrowed = any(value is not None for value in where.values())
    async with open_ledger(url, console, create=False) as ledger:
        if bool(names) == bool(states) or (names and narrowed):
            raise MisuseError("say which: --state (and --month, --account …), or --name alone")
        if states:
            found = ledger.history(states=states_of(states, ended_states()), **where)
            names = [entry.name async for entry in found]
        count = 0
        for start in range(0, len(names) or 1, _AT_ONCE):  # a wrong word is one for none, too
            part = change(ledger, names[start : start + _AT_ONCE])
            try:
                with _misuse_of():
                    count += await part
            except MeteringError:
                if count:
                    console.complain(f"{are(count)} changed; the rest is as it was, because:")
                raise
    return count


@contextmanager
def _misuse_of(option: str = "") -> Iterator[None]:
    """Let what was typed wrongly be misuse, of an *option* where one is at fault."""
    try:
        yield
    except ValueError as error:
        raise MisuseError(f"{option}{as_typed(error)}") from error


@app.command(
    'ledger rebind sqlite:///usage.db --region us-east-1 --taken billed --note "FIPS host"'
)
async def rebind(
    console: Console,
    url: Url,
    *,
    note: Note,
    taken: Annotated[
        str | None,
        option(
            "--taken WORD",
            "What becomes of what the old host has taken: billed, send or written_off.",
        ),
    ] = None,
    settings: Settings,
) -> Exit:
    """Send to another host of the ledger's region from now on."""
    async with (
        open_ledger(url, console, create=False) as ledger,
        settings.client(console) as client,
    ):
        with _misuse_of():
            try:
                count = await ledger.rebind(client, taken=taken, note=note)  # type: ignore[arg-type]
            except CannotResolveError as error:
                if taken is None and "say what becomes" in str(error):
                    raise MisuseError(f"{error}. Give it by --taken.") from error
                raise
        where = (await client.endpoint()).url
    console.print(f"records go to {where}; {are(count)} metered no more", markup=False)
    return Exit.OK


@app.command(
    "ledger un-retire sqlite:///usage.db postgresql://user@host/database", name="un-retire"
)
async def un_retire(
    console: Console,
    url: Url,
    target: Annotated[
        str, typer.Argument(metavar="NEW_URL", help="Where it moved; nothing of it may be there.")
    ],
) -> Exit:
    """Go on with a ledger that moved to another one."""
    async with open_ledger(url, console, create=False) as ledger:
        await ledger.un_retire(target)
    console.print("the ledger takes usage again")
    return Exit.OK


@app.command("ledger explain", "ledger explain probably_metered")
async def explain(
    console: Console,
    state: Annotated[
        str | None,
        typer.Argument(
            metavar="[STATE]", help="One state; by default all.", autocompletion=all_states
        ),
    ] = None,
) -> Exit:
    """Say what a state of usage means, and what to do about it."""
    from marketplace_metering_async.ledger import HourState, UsageLedger  # noqa: PLC0415 - heavy

    if state is not None and state not in [*HourState]:
        raise MisuseError(f"expected one of {', '.join(HourState)}; got {state!r}")
    for one in HourState if state is None else [HourState(state)]:
        meaning, advice = UsageLedger.explain(one)
        console.print(f"{one}: {meaning}", markup=False)
        console.print(f"    {advice}", markup=False)
        print_json_if_piped({"state": one, "meaning": meaning, "advice": advice})
    return Exit.OK
