"""
What the page shows, as JSON: the one place where the page's words meet the sandbox's values.

Everything is bounded, whatever the size of the book: the page is for eyes.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs

from marketplace_metering_async.sandbox.faults import Fault, FaultFunction, Kind
from marketplace_metering_async.sandbox.history import Call
from marketplace_metering_async.sandbox.products_view import ProductsView
from marketplace_metering_async.sandbox.sums import COLUMNS, Row, Sums

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox import Sandbox

_MOST_ROWS: Final = 200
_MOST_CALLS: Final = 40
_MOST_BUCKETS: Final = 12
_HOURS: Final = 24
_THROTTLED: Final = "ThrottlingException"


class View:
    """What there is to see of one sandbox; keeps sums between two looks."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox
        self._sums = Sums()
        self.products = ProductsView(sandbox)

    def told(self, *, by: Sequence[str], search: str, monotonic: float) -> dict[str, Any]:
        """
        Return all that the page shows.

        Args:
            by: Some of COLUMNS, to break the usage down by.
            search: Only usage whose product, customer or dimension has this in it.
            monotonic: The event loop's time, which the quotas go by.
        """
        sandbox = self._sandbox
        self._sums.follow(sandbox.book)
        return {
            "change": sandbox.pulse.count,
            "url": sandbox.url,
            "clock": self._clock(),
            "totals": self._totals(),
            "usage": self._usage(by, search),
            "hours": self._hours(),
            "calls": self._calls(),
            "refusals": self._refusals(),
            "quota": self._quota(monotonic),
            "faults": self._faults(),
            "products": self.products.told(),
            "environment": sandbox.instructions(),
        }

    def call(self, number: int) -> dict[str, Any] | None:
        """Return one of the latest calls in full, or None if it is no longer known."""
        calls = (call for call in self._sandbox.history if call.number == number)
        return next((call.to_json() for call in calls), None)

    def _clock(self) -> dict[str, Any]:
        clock = self._sandbox.clock
        return {"now": clock.now().isoformat(), "speed": clock.speed}

    def _totals(self) -> dict[str, Any]:
        sandbox = self._sandbox
        refused = sum(sandbox.refusals.values())
        throttled = sandbox.refusals[_THROTTLED]
        return {
            "quantity": self._sums.quantity,
            "records": len(self._sums),
            "calls": sum(sandbox.calls.values()),
            "refused": refused - throttled,
            "throttled": throttled,
            "struck": sum(sandbox.struck.values()),
            "statuses": dict(sandbox.book.statuses),
            "regions": sorted(self._sums.regions),
        }

    def _usage(self, by: Sequence[str], search: str) -> dict[str, Any]:
        rows, count = self._sums.rows(by, search, _MOST_ROWS)
        return {"by": list(by), "count": count, "rows": [_row(by, row) for row in rows]}

    def _hours(self) -> list[dict[str, Any]]:
        hours = self._sums.hours(self._sandbox.clock.now(), _HOURS)
        return [{"hour": hour.isoformat(), "quantities": sums} for hour, sums in hours]

    def _calls(self) -> list[dict[str, Any]]:
        latest = list(self._sandbox.history)[-_MOST_CALLS:]
        return [_summary(call) for call in reversed(latest)]

    def _refusals(self) -> list[dict[str, Any]]:
        causes = self._sandbox.causes
        return [
            {"code": code, "count": count, **attrs.asdict(causes[code])}
            for code, count in self._sandbox.refusals.most_common()
        ]

    def _quota(self, monotonic: float) -> dict[str, Any]:
        sandbox = self._sandbox
        latest = list(sandbox.quotas.items())[-_MOST_BUCKETS:]
        return {
            "calls_per_second": sandbox.calls_per_second,
            "buckets": [
                {
                    "account": account,
                    "region": region,
                    "operation": operation,
                    "calls_per_second": quota.calls_per_second,
                    "burst": quota.burst,
                    "left": round(quota.left(monotonic), 2),
                }
                for (account, region, operation), quota in latest
            ],
        }

    def _faults(self) -> dict[str, Any]:
        sandbox = self._sandbox
        return {
            "kinds": [{"kind": kind.value, "means": means} for kind, means in MEANINGS.items()],
            "in_force": [_fault(rule) for rule in sandbox.faults.rules],
            "struck": dict(sandbox.struck),
        }


def _row(by: Sequence[str], row: Row) -> dict[str, Any]:
    place = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in zip(by, row.place, strict=True)
    }
    return {**place, "quantity": row.quantity, "records": row.records}


def _summary(call: Call) -> dict[str, Any]:
    """Return a call without what it carried, which may be large."""
    told = call.to_json()
    return {name: value for name, value in told.items() if name not in ("request", "results")}


def _fault(rule: Fault | FaultFunction) -> dict[str, Any]:
    if isinstance(rule, Fault):
        return attrs.asdict(rule)
    return {"function": getattr(rule, "__qualname__", type(rule).__qualname__)}


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


MEANINGS: Final = {
    Kind.THROTTLE: "Refused: too many calls",
    Kind.ERROR_500: "An internal error; nothing was applied",
    Kind.ERROR_500_AFTER: "An internal error, after all was applied",
    Kind.ERROR_503: "A load balancer's page instead of an answer",
    Kind.UNPROCESSED: "Part of the records is left unprocessed",
    Kind.RESET_BEFORE: "The connection breaks before anything is applied",
    Kind.RESET_AFTER: "All is applied, and the answer is lost",
    Kind.TRUNCATED: "All is applied, and the answer is cut short",
    Kind.SLOW: "The answer comes late",
    Kind.STALL: "The answer stops half-way",
    Kind.DRIP: "The answer comes in drops",
    Kind.GARBAGE: "The answer is no JSON",
    Kind.WRONG_CONTENT: "The answer is JSON of another shape",
    Kind.HTML: "A captive portal's page; nothing was applied",
    Kind.EMPTY: "The answer is empty",
    Kind.REDIRECT: "A redirect to another host",
    Kind.SHUFFLE: "Results in another order",
    Kind.DROP: "One result is missing",
    Kind.DUPLICATE: "One result is there twice",
    Kind.ALTER: "One result echoes another quantity",
    Kind.FOREIGN: "A result for a record that nobody sent",
    Kind.DISAGREE: "Two results for one record disagree",
    Kind.UNKNOWN_STATUS: "A status that nobody knows",
    Kind.REFUSE: "Access denied",
}
"""What each kind of fault does, in a line."""
