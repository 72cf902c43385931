"""What the operator's commands do: what became of usage that has ended, and where it goes."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Self

from attrs import frozen

from marketplace_metering_async.cli.commands.ledger_actions import open_ledger, states_of
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.options import Settings
from marketplace_metering_async.cli.output.console import Console, print_json_if_piped
from marketplace_metering_async.ledger import HourState, UsageLedger
from marketplace_metering_async.ledger.model import ENDED

_AT_ONCE: Final = 1_000
"""Entries that are changed together, all or none."""


@contextmanager
def _worded() -> Iterator[None]:
    """Let what was typed wrongly be misuse."""
    try:
        yield
    except ValueError as error:
        raise MisuseError(str(error)) from None


@frozen(kw_only=True)
class Selection:
    """
    Which entries of the history are meant.

    Attributes:
        names: These; or those below.
        states: In one of these states.
        where: Of this month and customer.
    """

    names: Sequence[str]
    states: Sequence[str]
    where: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        names: Sequence[str] | None,
        states: Sequence[str] | None,
        month: datetime | None,
        ids: Mapping[str, str | None],
    ) -> Self:
        """Return what the options of a command select."""
        where = {"month": month, **ids}
        given = {name: value for name, value in where.items() if value is not None}
        return cls(names=names or (), states=states or (), where=given)

    async def names_in(self, ledger: UsageLedger) -> list[str]:
        """
        Return the names of the entries that are meant.

        Raises:
            MisuseError: nobody says which.
        """
        if bool(self.names) == bool(self.states) or (self.names and self.where):
            raise MisuseError("say which: --state (and --month, --account …), or --name alone")
        if self.names:
            return list(self.names)
        states = states_of(self.states, *ENDED)
        return [entry.name async for entry in ledger.history(states=states, **self.where)]


async def resolve(url: str, selection: Selection, as_: str, note: str, console: Console) -> Exit:
    """Say what became of usage."""

    async def change(ledger: UsageLedger, names: Sequence[str]) -> int:
        return await ledger.resolve(names, as_, note=note)  # type: ignore[arg-type]  # it looks

    count = await _change(url, selection, change, console)
    console.print(f"{count:,} are resolved as {as_}", markup=False)
    return Exit.OK


async def reopen(url: str, selection: Selection, note: str, console: Console) -> Exit:
    """Bill usage in the hour that runs."""

    async def change(ledger: UsageLedger, names: Sequence[str]) -> int:
        return await ledger.reopen(names, note=note)

    count = await _change(url, selection, change, console)
    console.print(f"the usage of {count:,} is billed in the hour that runs")
    return Exit.OK


async def _change(
    url: str,
    selection: Selection,
    change: Callable[[UsageLedger, Sequence[str]], Awaitable[int]],
    console: Console,
) -> int:
    async with open_ledger(url, console, create=False) as ledger:
        names, count = await selection.names_in(ledger), 0
        for start in range(0, len(names) or 1, _AT_ONCE):  # a wrong word is one for none, too
            with _worded():
                count += await change(ledger, names[start : start + _AT_ONCE])
    return count


async def rebind(
    url: str, settings: Settings, taken: str | None, note: str, console: Console
) -> Exit:
    """Send to another host of the region."""
    async with (
        open_ledger(url, console, create=False) as ledger,
        settings.client(console) as client,
    ):
        with _worded():
            count = await ledger.rebind(client, taken=taken, note=note)  # type: ignore[arg-type]
        where = (await client.endpoint()).url
    console.print(f"records go to {where}; {count:,} are metered no more", markup=False)
    return Exit.OK


async def un_retire(url: str, target: str, console: Console) -> Exit:
    """Go on with a ledger that moved, where the other one has nothing of it."""
    async with open_ledger(url, console, create=False) as ledger:
        await ledger.un_retire(target)
    console.print("the ledger takes usage again")
    return Exit.OK


async def explain(name: str | None, console: Console) -> Exit:
    """Say what a state means and what to do; of all of them, where none is named."""
    if name is not None and name not in [*HourState]:
        raise MisuseError(f"expected one of {', '.join(HourState)}; got {name!r}")
    for state in HourState if name is None else [HourState(name)]:
        meaning, advice = UsageLedger.explain(state)
        console.print(f"{state}: {meaning}", markup=False)
        console.print(f"    {advice}", markup=False)
        print_json_if_piped({"state": state, "meaning": meaning, "advice": advice})
    return Exit.OK
