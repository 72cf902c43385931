"""The hours of a key that usage adds to: what is in them, and when they are due for sealing."""

from collections.abc import Iterable
from typing import Any, Final, Literal

from attrs import define, field, frozen

from marketplace_metering_async.ledger.hours import hour_of, last_hour_of_month
from marketplace_metering_async.ledger.model import HourState, ProductDimension, key_of
from marketplace_metering_async.records import SECONDS_PER_HOUR

LONGEST_GRACE: Final = 4 * SECONDS_PER_HOUR
"""With the time to send, usage of a month's last second is out before its window closes."""
_ZERO_WAITS: Final = 4 * SECONDS_PER_HOUR
"""Seconds for which an hour of nothing but zeros stays open: a zero locks its hour at zero."""

Late = Literal["carry", "refuse"]


@frozen
class PostingRules:
    """
    What whoever opens a ledger chooses.

    Attributes:
        grace: Seconds between an hour's end, or its first usage, and its sealing.
        month_end_grace: Seconds from the end of a month until its last hour is sealed, if more.
        late: Whether late usage is carried to another hour or refused.
    """

    grace: int = 600
    month_end_grace: int = 3600
    late: Late = "carry"


@define
class OpenHour:
    """
    An hour of a key, as far as usage is concerned.

    Attributes:
        hour: Its start, in seconds since 1970.
        is_open: Whether it takes usage.
        quantity: Millionths in it.
        events: How many pieces of usage are in it.
        stamp: The latest moment of usage in it: the timestamp of its record to be.
        opened_at: When its first usage was added.
        seal_at: When it is due for sealing.
        urgent: Whether it goes out before all others, for the subscription has ended.
        hour_id: Its row; None while it has none.
        changed: Whether it is to be written.
        carried: Origin to millionths and pieces, of what was added and happened in another hour.
        carried_before: The same of what was added before, where somebody asked for it.
        added: Millionths that were added now.
        removed: Whether all was taken out of it again.
    """

    hour: int
    is_open: bool = True
    quantity: int = 0
    events: int = 0
    stamp: int = 0
    opened_at: int = 0
    seal_at: int = 0
    urgent: bool = False
    hour_id: int | None = None
    changed: bool = False
    carried: dict[int, tuple[int, int]] = field(factory=dict)
    carried_before: dict[int, tuple[int, int]] = field(factory=dict)
    added: int = 0
    removed: bool = False

    def add(
        self,
        at: int,
        quantity: int,
        now: int,
        rules: PostingRules,
        *,
        events: int = 1,
        closed_at: int | None = None,
    ) -> None:
        """Add millionths used at *at*, in this hour or in another one, by a subscription's end."""
        if not self.events:
            self.opened_at = now
        self.quantity += quantity
        self.added += quantity
        self.events += events
        origin = hour_of(at)
        if origin != self.hour:
            amount, pieces = self.carried.get(origin, (0, 0))
            self.carried[origin] = (amount + quantity, pieces + events)
        self.stamp = max(self.stamp, self.moment_of(at, now, closed_at))
        self.seal_at = self.seal_time(rules)
        if closed_at is not None:
            self.end(closed_at, now)
        self.changed = True

    def moment_of(self, at: int, now: int, closed_at: int | None) -> int:
        """Return when usage of *at* counts as used: of another hour, once it was known."""
        if hour_of(at) == self.hour:
            return at
        moment = min(max(now, self.hour), self.hour + SECONDS_PER_HOUR - 1)
        return moment if closed_at is None else min(moment, closed_at)

    def end(self, closed_at: int, now: int) -> None:
        """Seal it when the subscription ends, or at once; nothing in it is stamped later."""
        self.stamp = min(self.stamp, closed_at)
        if self.seal_at > closed_at:
            self.seal_at = max(now, closed_at)
            self.urgent = True
        self.changed = True

    def go_on(self, rules: PostingRules) -> None:
        """Take back what `end` has done: seal it when its time comes."""
        self.seal_at, self.urgent = self.seal_time(rules), False
        self.changed = True

    def take_out(self) -> dict[int, tuple[int, int]]:
        """Remove all that is in it; return it by the hour in which it happened."""
        carried = self.carried_before
        quantity = self.quantity - sum(amount for amount, _ in carried.values())
        events = self.events - sum(pieces for _, pieces in carried.values())
        self.added -= self.quantity
        self.changed = self.removed = True
        return {**carried, self.hour: (quantity, events)} if quantity or events else carried

    def seal_time(self, rules: PostingRules) -> int:
        """Return when what is in it makes it due for sealing, unless the subscription ends."""
        over = self.hour + SECONDS_PER_HOUR
        due = max(over, self.opened_at) + rules.grace
        if self.hour == last_hour_of_month(self.hour):
            due = max(due, over + rules.month_end_grace)
        if not self.quantity:
            due = max(due, over + _ZERO_WAITS)
        return due


@define
class KeyState:
    """
    A key and its hours from the earliest that usage may touch on.

    Attributes:
        key_id: Its row.
        of: Where its usage is summed up.
        closed_at: When the customer's subscription ended, or None.
        hours: Hour to what is in it.
        recorded: Millionths that were added to the key.
        billed_as: What it has in common with keys of another scheme; None where there are none.
        has_license: Which scheme it is of.
        rivals: Those keys: what is in an hour of theirs would be billed twice.
        stranded: (origin, state) to millionths and pieces that no hour carries.
        held_through: Usage up to then may be metered already; None in a ledger that is no copy.
    """

    key_id: int
    of: ProductDimension
    closed_at: int | None = None
    hours: dict[int, OpenHour] = field(factory=dict)
    recorded: int = 0
    billed_as: str | None = None
    has_license: bool = False
    rivals: list["KeyState"] = field(factory=list, eq=False, repr=False)
    stranded: dict[tuple[int, HourState], tuple[int, int]] = field(factory=dict)
    held_through: int | None = None


def key_state(row: Iterable[Any]) -> KeyState:
    """
    Return the state of a key, with no hours yet.

    Its *row* is: name, key_id, closed_at, license_product, billed_as, held_through.
    """
    name, key_id, closed_at, license_product, billed_as, held_through = row
    key = key_of(name)
    return KeyState(
        key_id,
        key.summed_under(license_product),
        closed_at,
        billed_as=billed_as,
        held_through=held_through,
        has_license=bool(key.license_arn),
    )
