"""
What the page shows, as JSON: the one place where the page's words meet the sandbox's values.

Everything is bounded, whatever the size of the book: the page is for eyes.
"""

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, Protocol

from marketplace_metering_async.sandbox.as_json import as_json
from marketplace_metering_async.sandbox.faults import FaultKind
from marketplace_metering_async.sandbox.figures import (
    call_figures,
    quota_figures,
    refusal_figures,
    rule_figures,
)
from marketplace_metering_async.sandbox.history import Call
from marketplace_metering_async.sandbox.page.products_view import ProductsView
from marketplace_metering_async.sandbox.page.sums import COLUMNS, SumRow, TableSums
from marketplace_metering_async.sandbox.sdks import SDKS
from marketplace_metering_async.sandbox.service.readings import readings
from marketplace_metering_async.sandbox.world import World

_MOST_ROWS: Final = 200
_MOST_UNITS: Final = 12
_MOST_REFUSALS: Final = 30
_MOST_CALLS: Final = 40
_MOST_BUCKETS: Final = 12
_HOURS: Final = 24
_THROTTLED: Final = "ThrottlingException"


class Entrance(Protocol):
    """How a client gets to the sandbox."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...

    def instructions(self) -> str:
        """Return lines to paste in a shell."""
        ...


class View:
    """What there is to see of one world; keeps sums between two looks."""

    def __init__(self, world: World, entrance: Entrance) -> None:
        self._world = world
        self._entrance = entrance
        self._sums = TableSums(world.book)
        self.products = ProductsView(world)

    async def figures(self, *, by: Sequence[str], search: str, monotonic: float) -> dict[str, Any]:
        """
        Return all that the page shows; the event loop has its turns meanwhile.

        Args:
            by: Some of COLUMNS, to break the usage down by.
            search: Only usage whose product, customer or dimension has this in it.
            monotonic: The event loop's time, which the quotas go by.
        """
        world = self._world
        change = world.changes.count
        await self._sums.follow()
        rows, count = await self._sums.rows(by, search, _MOST_ROWS)
        advice = await asyncio.to_thread(world.advice)
        now = world.clock.now()
        hours = self._sums.latest_hours(now, _HOURS)
        units, count_of_units = self._sums.units(hours, _MOST_UNITS)
        calls = list(world.history)[-_MOST_CALLS:]
        refusals = islice(refusal_figures(world).items(), _MOST_REFUSALS)
        return {
            "change": change,
            "url": self._entrance.url,
            "clock": {"now": now.isoformat(), "speed": world.clock.speed},
            "totals": self._totals(),
            "usage": {"by": list(by), "count": count, "rows": [_row(by, row) for row in rows]},
            "units": {
                "hours": as_json(hours),
                "count": count_of_units,
                "units": as_json(units),
            },
            "calls": [_summary(call) for call in reversed(calls)],
            "refusals": [{"code": code, **figures} for code, figures in refusals],
            "advice": as_json(advice),
            "quota": {
                "calls_per_second": world.calls_per_second,
                "buckets": quota_figures(world, monotonic, _MOST_BUCKETS),
            },
            "faults": {
                "kinds": [{"kind": kind.value, "means": kind.means} for kind in FaultKind],
                "in_force": [rule_figures(rule) for rule in world.faults.rules],
                "hits": dict(world.hits),
            },
            "rules": as_json(readings(world.book.rules)),
            "products": self.products.figures(),
            "environment": self._entrance.instructions(),
            "sdks": [
                {
                    "name": sdk.name,
                    "by_environment": sdk.by_environment,
                    "in_code": sdk.in_code_at(self._entrance.url),
                }
                for sdk in SDKS
            ],
        }

    def call(self, number: int) -> dict[str, Any] | None:
        """Return one of the latest calls in full, or None if it is no longer known."""
        calls = (call for call in self._world.history if call.number == number)
        return next((call_figures(call) for call in calls), None)

    def _totals(self) -> dict[str, Any]:
        world = self._world
        refused = sum(world.refusals.values())
        throttled = world.refusals[_THROTTLED]
        return {
            "records": len(self._sums),
            "calls": sum(world.calls.values()),
            "refused": refused - throttled,
            "throttled": throttled,
            "hits": sum(world.hits.values()),
            "statuses": dict(world.book.statuses),
            "regions": sorted(self._sums.regions),
        }


def _row(by: Sequence[str], row: SumRow) -> dict[str, Any]:
    place = dict(zip(by, as_json(row.place), strict=True))
    return {**place, "quantity": as_json(row.quantity), "records": row.records}


def _summary(call: Call) -> dict[str, Any]:
    """Return a call without what it carried, which may be large."""
    figures = call_figures(call)
    return {name: value for name, value in figures.items() if name not in ("request", "results")}


def columns_of(text: str) -> tuple[str, ...]:
    """
    Return the columns that a query names, in their own order; all for an empty one.

    Raises:
        ValueError: for a column that there is not.
    """
    named = {name for name in text.split(",") if name}
    if unknown := named - set(COLUMNS):
        raise ValueError(f"by: expected some of {', '.join(COLUMNS)}, got {min(unknown)!r}")
    return tuple(name for name in COLUMNS if name in named) or COLUMNS
