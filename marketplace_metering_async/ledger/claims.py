"""Which frozen records a relay may take: those that are whole, fewer where relays have died."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from attrs import evolve

from marketplace_metering_async.ledger.frozen_record import is_whole
from marketplace_metering_async.ledger.hours import hour_of
from marketplace_metering_async.ledger.model import FrozenHour, HourState, Settlement

FIRST_PAUSE: Final = 5
LONGEST_PAUSE: Final = 300
"""
Seconds between two tries of a record: the first pause, doubled with each try, and the longest. One
that has longer to wait was put off by a clock that was wrong at that moment, and goes at once.
"""
MOST_CRASHES: Final = 25
"""
Claims in a row that ended with their relay: then the record is put aside, if others are sent
meanwhile. Relays that die of something else send nothing, and no record is to blame.
"""


def choose(
    candidates: Sequence[FrozenHour], limit: int, step: int
) -> tuple[list[FrozenHour], list[Settlement]]:
    """
    Return what is claimed, and what is put aside, of *candidates* in the order of their deadlines.

    What does not match its digest is put aside, and so is what relay after relay has died with.
    Fences rise by a *step* that no other claim has: one that was lost in a failover has another
    fence than the claim after it.
    """
    claimed, aside = [], []
    last_hours = [one for one in candidates if one.urgent]  # alone: nothing may go before them
    for one in _fewer_after_crashes(last_hours or candidates, limit):
        why = _reason_to_hold(one)
        if why is None:
            claimed.append(_claim_on(one, step))
        else:
            in_doubt = one.in_doubt or one.lapsed
            aside.append(Settlement(claim=one, state=why, in_doubt=in_doubt, status=why.value))
    return claimed, aside


def _fewer_after_crashes(candidates: Sequence[FrozenHour], limit: int) -> Iterator[FrozenHour]:
    """
    Yield fewer of *candidates* the more often relays have died with the next one in their hands.

    So a record that kills its relay is soon alone, and costs the others nothing.
    """
    for taken, one in enumerate(candidates):
        if taken >= max(1, limit >> (2 * one.crashes)):
            return
        yield one


def _reason_to_hold(one: FrozenHour) -> HourState | None:
    if not is_whole(one):
        return HourState.DAMAGED
    kills = one.crashes >= MOST_CRASHES and one.others_sent
    return HourState.QUARANTINED if kills else None


def _claim_on(one: FrozenHour, step: int) -> FrozenHour:
    return evolve(one, fence=one.fence + step, in_doubt=one.in_doubt or one.lapsed)


def mixed_identifiers(claimed: Iterable[FrozenHour]) -> set[str]:
    """
    Return the products with an hour of a dimension by legacy identifier and by account.

    Nobody but the service knows whether both are of one customer.
    """
    kinds: dict[tuple[str, str, int], set[bool]] = {}
    for claim in claimed:
        product, dimension = claim.of
        place = (product, dimension, hour_of(claim.stamp))
        kinds.setdefault(place, set()).add(bool(claim.key.customer_identifier))
    return {product for (product, _, _), found in kinds.items() if len(found) > 1}
