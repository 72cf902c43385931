"""Where all usage is: sums that add up, and what comes next."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Self

from attrs import field, frozen

from marketplace_metering_async.ledger.hours import deadline_of, latest_lost_at
from marketplace_metering_async.ledger.identity import Identity
from marketplace_metering_async.ledger.model import ENDED, HourState
from marketplace_metering_async.ledger.sums import RECORDED, Sum
from marketplace_metering_async.quantities import Quantity, of_millionths
from marketplace_metering_async.records import SECONDS_PER_HOUR, utc_of

_OVERDUE: Final = 2 * SECONDS_PER_HOUR
"""Seconds from which on usage counts as at risk that was due for sealing, or sealed, before."""
_CLOSES_SOON: Final = SECONDS_PER_HOUR
"""Seconds before its window closes from which on all unsent usage does."""


class AtRisk(NamedTuple):
    """
    Which unsettled hours are at risk, in seconds since 1970.

    Attributes:
        hour: None that begins later; no window closes less than six hours after its hour.
        due: Those that were due for sealing, or sealed, by then.
        stamp: And those with this timestamp or an earlier one: their window closes.
    """

    hour: int
    due: int
    stamp: int

    @classmethod
    def at(cls, now: int) -> Self:
        """Return what holds at *now*."""
        due = now - _OVERDUE
        return cls(due - SECONDS_PER_HOUR, due, latest_lost_at(now + _CLOSES_SOON))


@frozen(kw_only=True)
class ProductStatus:
    """
    The units of one product and dimension.

    Attributes:
        product_code: The product; of licenses theirs, or '' where it is not known.
        dimension: The dimension.
        open: Of hours that still take usage.
        frozen: Of records that are sent, or wait to be.
        metered: That the service has taken.
        ended: That are not metered and that nobody sends any more, by their state.
    """

    product_code: str
    dimension: str
    open: Quantity = 0
    frozen: Quantity = 0
    metered: Quantity = 0
    ended: Mapping[HourState, Quantity] = field(factory=dict)


@frozen(kw_only=True)
class LedgerStatus:
    """
    Where all usage is, in units: recorded == open + frozen + metered + sum(ended.values()).

    Units are exact: an int where whole, else a Decimal.

    Attributes:
        recorded: All that was ever added, counted apart from the rest.
        open: In hours that still take usage.
        frozen: In records that are not settled yet, those in flight among them.
        in_flight: In records that a relay holds.
        metered: Taken by the service.
        ended: By named end state, what nobody sends any more.
        products: The same by product and dimension.
        oldest_unsent_seconds: Since the hour of the oldest usage that is not settled was over;
            None where there is none. Hours of zero units count as none, here and below.
        seconds_to_first_loss: Until the service takes the first of it no more; below 0: too late.
        first_loss_at: When that is.
        at_risk: Unsettled units that were due two hours ago, or whose window closes within the
            hour. Where a relay runs and all is well, there are none, at a month's end neither.
        last_success_seconds: Since the service last took a record; None: never. One that is ahead
            of the clock, which was set back since, counts as that old, and so does a relay's note.
        last_relay_seconds: Since a relay last noted that it works, which it does every minute
            unless it is blocked; None: never.
        last_usage_seconds: Since the latest usage in the ledger happened; None: there is none.
        claimed_until: When the last claim of a relay on a frozen record ends, were the relay dead;
            None where there is no claim.
        next_send_at: When a frozen record that no relay holds is due to be sent; None: there is
            none.
        next_seal_at: When an open hour is next due for sealing; None where none is open.
        hours_at_next_seal: How many are due within a minute from then on.
        records: How many records are in each state.
        is_unconfirmed_copy: Whether this is a copy that nobody has adopted yet: open hours wait.
        region_name: Where its records go; None until the first relay.
        host: The service's host; None until the first relay.
    """

    recorded: Quantity
    open: Quantity
    frozen: Quantity
    in_flight: Quantity
    metered: Quantity
    ended: Mapping[HourState, Quantity]
    products: Sequence[ProductStatus]
    oldest_unsent_seconds: float | None
    seconds_to_first_loss: float | None
    first_loss_at: datetime | None
    at_risk: Quantity
    last_success_seconds: float | None
    last_relay_seconds: float | None
    last_usage_seconds: float | None
    claimed_until: datetime | None
    next_send_at: datetime | None
    next_seal_at: datetime | None
    hours_at_next_seal: int
    records: Mapping[HourState, int]
    is_unconfirmed_copy: bool
    region_name: str | None
    host: str | None


@frozen(kw_only=True)
class Figures:
    """
    What a store knows of a whole ledger, without looking at hours that are settled.

    Attributes:
        sums: All that are kept.
        oldest_hour: The oldest hour that is not settled and has units.
        first_stamp: The earliest timestamp in it.
        at_risk: Millionths in hours that are not settled and overdue, or soon too late.
        in_flight: Millionths in records that are claimed.
        claimed_until: When the last claim ends.
        next_send: When a frozen record that nobody claims is due to be sent.
        next_seal: When an open hour is due for sealing.
        hours_at_next_seal: How many are due within a minute from then on.
    """

    ledger: Identity
    sums: Sequence[Sum]
    oldest_hour: int | None
    first_stamp: int | None
    at_risk: int
    in_flight: int
    claimed_until: float | None
    next_send: int | None
    next_seal: int | None
    hours_at_next_seal: int


def status_of(known: Figures, now: int) -> LedgerStatus:
    """Return the status that *known* figures mean; *now* in seconds since 1970."""
    recorded = [one for one in known.sums if one.state == RECORDED]
    deadline = None if known.first_stamp is None else deadline_of(known.first_stamp)
    return LedgerStatus(
        recorded=of_millionths(sum(one.quantity for one in recorded)),
        in_flight=of_millionths(known.in_flight),
        **_by_state(known.sums),
        products=_products(known.sums),
        oldest_unsent_seconds=_seconds(now, known.oldest_hour, SECONDS_PER_HOUR),
        seconds_to_first_loss=None if deadline is None else deadline - now,
        first_loss_at=_when(deadline),
        at_risk=of_millionths(known.at_risk),
        last_success_seconds=_distance(now, known.ledger.last_success_at),
        last_relay_seconds=_distance(now, known.ledger.last_relay_at),
        last_usage_seconds=_seconds(now, max((one.latest for one in recorded), default=None), 0),
        claimed_until=_when(known.claimed_until),
        next_send_at=_when(known.next_send),
        next_seal_at=_when(known.next_seal),
        hours_at_next_seal=known.hours_at_next_seal,
        records=_records(known.sums),
        is_unconfirmed_copy=known.ledger.guarded_since is not None,
        region_name=known.ledger.region_name,
        host=known.ledger.host,
    )


def _seconds(now: int, since: int | None, after: int) -> float | None:
    return None if since is None else max(0, now - since - after)


def _distance(now: int, at: int | None) -> float | None:
    return None if at is None else abs(now - at)


def _when(at: float | None) -> datetime | None:
    return None if at is None else utc_of(at)


def _products(sums: Sequence[Sum]) -> list[ProductStatus]:
    found: dict[tuple[str, str], list[Sum]] = {}
    for one in sums:
        found.setdefault((one.product_code, one.dimension), []).append(one)
    return [
        ProductStatus(product_code=product, dimension=dimension, **_by_state(of_it))
        for (product, dimension), of_it in sorted(found.items())
    ]


def _by_state(sums: Sequence[Sum]) -> dict[str, Any]:
    """Return the units of *sums* under the names that a status has for what became of them."""
    found: dict[HourState, int] = {}
    for one in sums:
        if one.state != RECORDED and (one.quantity or one.records):
            state = HourState(one.state)
            found[state] = found.get(state, 0) + one.quantity
    units = {state: of_millionths(quantity) for state, quantity in found.items()}
    return {
        "open": units.get(HourState.OPEN, 0),
        "frozen": units.get(HourState.FROZEN, 0),
        "metered": units.get(HourState.METERED, 0),
        "ended": {state: units[state] for state in ENDED if state in units},
    }


def _records(sums: Sequence[Sum]) -> dict[HourState, int]:
    found: dict[HourState, int] = {}
    for one in sums:
        if one.state != RECORDED and one.records:
            state = HourState(one.state)
            found[state] = found.get(state, 0) + one.records
    return found
