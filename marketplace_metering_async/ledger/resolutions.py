"""What a person may say of usage that has ended, and what only the service may."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from attrs import frozen

from marketplace_metering_async.errors import CannotResolveError
from marketplace_metering_async.ledger.frozen_record import is_whole
from marketplace_metering_async.ledger.model import (
    ENDED,
    HourState,
    SealedHour,
    key_of,
    name_of_hour,
)
from marketplace_metering_async.limits import is_of_service
from marketplace_metering_async.quantities import Quantity
from marketplace_metering_async.rules import text

ResolvedAs = Literal["metered", "not_metered", "written_off"]
Taken = Literal["billed", "send", "written_off"]

_REFUSED: Final = (
    HourState.NOT_SUBSCRIBED,
    HourState.CONFLICT,
    HourState.REJECTED,
    HourState.TOO_LATE,
)
"""The states of records that the service surely does not have, where no attempt is in doubt."""
_MOST_NOTE: Final = 1_000


@frozen(kw_only=True)
class EndedHour(SealedHour):
    """An hour that a person speaks of, as its row says."""

    hour: int
    state: HourState
    events: int

    @property
    def name(self) -> str:
        """What history calls it."""
        return name_of_hour(self.hour_id)


def ended_hours(asked: Sequence[int], rows: Iterable[dict[str, Any]]) -> list[EndedHour]:
    """
    Return the hours that a person speaks of, by the columns of their rows.

    Raises:
        CannotResolveError: a row is not there (any more), or was never sealed.
    """
    found = list(rows)
    require_all(asked, [row["hour_id"] for row in found], "hour")
    hours = []
    for row in found:
        key, state = key_of(row.pop("name")), HourState(row.pop("state"))
        if row["digest"] is None:
            require_ended(name_of_hour(row["hour_id"]), state)
        hours.append(EndedHour(key=key, state=state, **row))
    return hours


def rows_of(names: Iterable[str]) -> tuple[list[int], list[int]]:
    """
    Return the hours and the rows of stranded usage that *names* stand for, each once, in order.

    Raises:
        ValueError: for what is no such name.
    """
    hours, stranded = set[int](), set[int]()
    for name in names:
        kind, _, number = name.partition("-")
        into = {"hour": hours, "stranded": stranded}.get(kind)
        if into is None or not (number.isascii() and number.isdigit()):
            raise ValueError(f"hours: expected entries of history(), or their names, got {name!r}")
        into.add(int(number))
    return sorted(hours), sorted(stranded)


def state_resolved(as_: str) -> HourState:
    """
    Return the state of usage that is resolved *as_* that.

    Raises:
        ValueError: for another word.
    """
    if as_ not in get_args(ResolvedAs):
        raise ValueError(f"as_: expected one of {', '.join(get_args(ResolvedAs))}, got {as_!r}")
    return HourState(as_)


_OF_TAKEN: Final[Mapping[str, HourState | None]] = {
    "billed": None,
    "send": HourState.FROZEN,
    "written_off": HourState.WRITTEN_OFF,
}


def state_of_taken(taken: str | None, old_host: str | None, units: Quantity) -> HourState | None:
    """
    Return what becomes of records that a host has taken which is left now; None: nothing.

    Raises:
        CannotResolveError: *taken* is None, and the host is not the service's: it may bill nobody.
        ValueError: for another word.
    """
    if taken is None:
        if units and old_host is not None and not is_of_service(old_host):
            raise CannotResolveError(
                f"say what becomes of {units:,} units that {old_host} has taken, which may be a "
                "sandbox: billed (all is well), send (again, to the new host) or written_off"
            )
        return None
    if taken not in _OF_TAKEN:
        raise ValueError(f"taken: expected one of {', '.join(_OF_TAKEN)}, got {taken!r}")
    return _OF_TAKEN[taken]


def fates_of_taken(
    after: HourState, taken: Iterable[tuple[int, int]], now: int
) -> dict[HourState, list[int]]:
    """
    Return which hours come to which state, of those that a host has *taken* which is left now.

    Those that cannot be sent again, for their window is closed, are not metered.
    """
    fates: dict[HourState, list[int]] = {}
    for hour_id, deadline in taken:
        is_late = after is HourState.FROZEN and deadline <= now
        fates.setdefault(HourState.NOT_METERED if is_late else after, []).append(hour_id)
    return fates


def require_note(note: str) -> str:
    """
    Return *note* as it is kept.

    Raises:
        ValueError: it says nothing, too much, or what no database keeps.
    """
    kept = note.strip()
    if "\0" in kept or text("note", kept, longest=_MOST_NOTE):
        raise ValueError(f"note: expected 1 to {_MOST_NOTE} characters, say why")
    return kept


def require_all(asked: Sequence[int], found: Sequence[int], name: str) -> None:
    """
    Refuse where a row is not there (any more).

    Raises:
        CannotResolveError: with the first one.
    """
    missing = sorted({*asked} - {*found})
    if missing:
        raise CannotResolveError(f"{name}-{missing[0]} is not in the ledger, or was pruned")


def require_ended(name: str, state: HourState) -> None:
    """
    Refuse what has not ended: a relay may have it in its hands, or the service has taken it.

    Raises:
        CannotResolveError: it has not.
    """
    if state not in ENDED:
        raise CannotResolveError(f"{name} is {state}: only usage that has ended can be resolved")


def require_no_claim(has_claim: bool) -> None:  # noqa: FBT001
    """
    Refuse while a relay has records in its hands, which it sends to the old host.

    Raises:
        CannotResolveError: one has.
    """
    if has_claim:
        raise CannotResolveError("stop all relays first: records are on their way to the old host")


def require_stranded(name: str, before: HourState, after: HourState) -> None:
    """
    Refuse to say of usage that was never sent what became of it.

    What was UNCONFIRMED may have been sent by the ledger that this is a copy of.

    Raises:
        CannotResolveError: *after* is not what may be said of it.
    """
    require_ended(name, before)
    may_be_sent = before in (HourState.UNCONFIRMED, HourState.NOT_METERED)
    if after is not HourState.WRITTEN_OFF and not may_be_sent:
        raise CannotResolveError(
            f"{name} was never sent, since no hour carries it: write it off, or move it to the "
            "hour that runs with retry()"
        )


def require_unbilled(hour: EndedHour) -> None:
    """
    Refuse to bill usage in another hour unless the service surely does not have it.

    Raises:
        CannotResolveError: it may have it, or the row is damaged.
    """
    if hour.state is not HourState.NOT_METERED and (hour.in_doubt or hour.state not in _REFUSED):
        raise CannotResolveError(
            f"{hour.name} is {hour.state}{' in doubt' if hour.in_doubt else ''}, and may be billed "
            "already: find out, and resolve it as not metered before you bill its usage again"
        )
    if not is_whole(hour):
        raise CannotResolveError(
            f"{hour.name} does not match its digest, so that its quantity may be wrong: write it "
            "off, and add the usage anew from your own records"
        )
