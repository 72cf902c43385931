"""What was really used, and what an audit makes of what was billed for it."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from attrs import frozen

from marketplace_metering_async.ledger import HourState, LedgerStatus
from marketplace_metering_async.quantities import Quantity, kept, millionths, of_millionths

Event = dict[str, Any]
Bill = tuple[str, str]
"""A customer and a month."""

_NAMED_EVER = frozenset(
    {
        HourState.PROBABLY_METERED,
        HourState.CONFLICT,
        HourState.QUARANTINED,
        HourState.MONTH_OVER,
    }
)
"""End states that a clock or a killed relay brings about."""
_NAMED_OF_DELAY = frozenset({HourState.UNCONFIRMED, HourState.TOO_LATE})
_UNBILLED = (HourState.UNCONFIRMED, HourState.MONTH_OVER, HourState.TOO_LATE)


class Said(NamedTuple):
    """What a ledger says of a record."""

    customer: str
    at: int
    quantity: Quantity
    state: HourState


_NOT_BILLED = (HourState.REJECTED, HourState.NOT_SUBSCRIBED, HourState.TOO_LATE)


class Truth:
    """
    Every event that was meant, and what its caller knows of it.

    Attributes:
        events: All that are used, by name, or may be.
        doubtful: Those to be given again, since nobody was told that they are stored.
        unsure: Those that cannot be given again, and may be stored.
    """

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self.doubtful: dict[str, Event] = {}
        self.unsure: dict[str, Event] = {}
        self._distrusted: set[str] = set()  # whoever says that they are stored speaks of the past
        self._repeated: set[str] = set()  # by another process than the one that drops them

    def hear(self, line: bytes) -> None:
        word, event = json.loads(line)
        name = event["id"]
        if word == "means":
            self.events[name] = event
            self._distrusted.discard(name)
            (self.doubtful if event["named"] else self.unsure)[name] = event
        elif word == "stored" and name not in self._distrusted:
            self.doubtful.pop(name, None)
            self.unsure.pop(name, None)
        elif word == "dropped" and name not in self._repeated:
            for known in (self.events, self.doubtful, self.unsure):
                known.pop(name, None)
        elif word == "unsure" and self.doubtful.pop(name, None):
            self.unsure[name] = event

    def to_repeat(self) -> list[Event]:
        """Return what the next producer gives again."""
        self._repeated |= self.doubtful.keys()
        return list(self.doubtful.values())

    def stored(self) -> set[str]:
        """Return the events that are on the disk by now."""
        return self.events.keys() - self.doubtful.keys() - self.unsure.keys()

    def repeat_all_but(self, known: set[str]) -> None:
        """Let the next producer repeat all events that are not *known*."""
        self.doubtful = {
            name: event
            for name, event in self.events.items()
            if name not in known and event["named"]
        }
        self._distrusted = set(self.doubtful)

    def older_than(self, moment: float) -> list[Event]:
        """Return the events on the disk that happened before, in seconds since 1970."""
        return [self.events[name] for name in self.stored() if self.events[name]["at"] < moment]

    def used(self) -> Counter[Bill]:
        """Return each bill in millionths, of all events that are sure."""
        return _added_up(self.events[name] for name in self.events.keys() - self.unsure.keys())

    def maybe_used(self) -> Counter[Bill]:
        """Return the same, of all others."""
        return _added_up(self.unsure.values())


def _added_up(events: Iterable[Event]) -> Counter[Bill]:
    found: Counter[Bill] = Counter()
    for event in events:
        found[event["customer"], month_of(event["at"])] += millionths(kept(event["quantity"]))
    return found


def month_of(epoch: float) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m}"


@frozen(kw_only=True)
class Audit:
    """
    What was billed against what was used, in units, each customer's month apart.

    Attributes:
        stuck: Records that have ended and that nobody can write off.
        setbacks: How often the ledger was put back to what it had been.
        miscalled: Called metered and not billed, or called not metered and billed.
        lost: Used and not billed, to the last millionth, but for what the ledger names as lost.
        doubled: Billed and not used.
        conflicting: Refused, since something else was billed for the hour.
        ended: What the ledger says ended otherwise, by state. Some is quarantined where leases run
            out at once, as on this fast clock, and relay after relay takes over; it is billed. Some
            comes too late for its month, by a clock that is ahead. Where the ledger was put back or
            the month's window closes, some is unconfirmed: billed, or not.
    """

    kills: int
    stuck: int
    setbacks: int
    is_month_over: bool
    events: int
    unsure: int
    miscalled: Quantity
    lost: Quantity
    doubled: Quantity
    conflicting: Quantity
    ended: dict[str, Quantity]
    balanced: bool

    @property
    def is_clean(self) -> bool:
        is_late = self.setbacks or self.is_month_over
        others = set(self.ended) - _NAMED_EVER - (_NAMED_OF_DELAY if is_late else set())
        return self.balanced and not (
            self.stuck or self.miscalled or self.lost or self.doubled or self.conflicting or others
        )


def audited(
    truth: Truth,
    status: LedgerStatus,
    said: Iterable[Said],
    book: list[dict[str, Any]],
    *,
    kills: int,
    stuck: int,
    setbacks: int,
    is_month_over: bool,
) -> Audit:
    used, maybe, billed = truth.used(), truth.maybe_used(), Counter[Bill]()
    on_file = set()
    for record in book:
        at = int(datetime.fromisoformat(record["timestamp"]).timestamp())
        customer, units = record["customer_aws_account_id"], millionths(kept(record["quantity"]))
        billed[customer, month_of(at)] += units
        on_file.add((customer, at, units))
    miscalled = 0
    for one in said:
        units = millionths(one.quantity)
        is_billed = (one.customer, one.at, units) in on_file
        if (one.state is HourState.METERED and not is_billed) or (
            one.state in _NOT_BILLED and is_billed
        ):
            miscalled += units
    places = (status.open, status.frozen, status.metered, *status.ended.values())
    recorded = millionths(status.recorded)
    named = sum(millionths(status.ended.get(state, 0)) for state in _UNBILLED)
    return Audit(
        kills=kills,
        stuck=stuck,
        setbacks=setbacks,
        is_month_over=is_month_over,
        events=len(truth.events),
        unsure=len(truth.unsure),
        miscalled=of_millionths(miscalled),
        lost=of_millionths(max(0, (used - billed).total() - named)),
        doubled=of_millionths((billed - used - maybe).total()),
        conflicting=status.ended.get(HourState.CONFLICT, 0),
        ended={str(state): units for state, units in status.ended.items()},
        balanced=recorded == sum(map(millionths, places))
        and 0 <= recorded - used.total() <= maybe.total(),
    )
