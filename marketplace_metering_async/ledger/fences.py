"""
What a verdict changes when it comes to its row, whoever has claimed the row since.

A success is a fact about the record: it is written under any fence, and lifts every other state.
All else counts only while the claim is the latest one, and is a line of the history otherwise; so
is whatever was said by a host that the ledger's records no longer go to.
Whether a row is still that record's says its digest: numbers of rows are given again after a
failover that lost commits.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from attrs import evolve

from marketplace_metering_async.ledger.model import HourState, Settlement
from marketplace_metering_async.ledger.sums import Sum, Sums

_STANDS = (HourState.METERED, HourState.REOPENED)
"""States that no verdict changes: the usage is billed, here or in another hour."""


class Standing(NamedTuple):
    """The state of a row, the latest claim on it, its record's digest if it has one, its host."""

    fence: int
    state: HourState
    digest: bytes | None
    host: str


class Writing(NamedTuple):
    """
    What is to be written.

    Attributes:
        rows: A row to what is written into it, the latest one alone.
        attempts: What becomes a line of the history.
        heard: What the relay is to hear of, each with the state of the row that it came to.
        moves: What changes sums, in order.
    """

    rows: dict[int, Settlement]
    attempts: list[Settlement]
    heard: list[Settlement]
    moves: list[Settlement]

    def hour_rows(self, now: int) -> list[tuple[Any, ...]]:
        """Return state, pause, doubt, end, record id and reason of each row, and its id."""
        return [
            (
                one.state,
                one.not_before,
                int(one.in_doubt),
                None if one.state is HourState.FROZEN else now,
                one.metering_record_id,
                one.error or _word_of(one),
                one.claim.hour_id,
            )
            for one in self.rows.values()
        ]

    def attempt_rows(self, now: int) -> list[tuple[Any, ...]]:
        """Return id and fence of each attempt, when it was, and what the service said."""
        return [
            (
                one.claim.hour_id,
                one.claim.fence,
                now,
                one.status,
                one.error,
                one.request_id,
                one.metering_record_id,
            )
            for one in self.attempts
        ]

    def sums(self) -> list[Sum]:
        """Return how the kept sums change."""
        sums = Sums()
        for one in self.moves:
            sums.move(one.claim.of, one.before, one.state, one.claim.quantity)
        return sums.changes()

    @property
    def has_success(self) -> bool:
        """Whether the service has taken one of the records."""
        return any(one.state is HourState.METERED for one in self.moves)


def _word_of(one: Settlement) -> str | None:
    """Return the service's word where it ended a record without an error."""
    return None if one.state in (HourState.METERED, HourState.FROZEN) else one.status


def writing_of(settlements: Sequence[Settlement], rows: Mapping[int, Standing]) -> Writing:
    """Return what *settlements* change in *rows*; what was pruned or lost meanwhile has none."""
    now = dict(rows)
    found = Writing({}, [], [], [])
    for one in settlements:
        row = now.get(one.claim.hour_id)
        if row is None or row.digest != one.claim.digest:
            continue
        came = evolve(one, before=row.state)
        found.attempts.append(one)
        if row.host != one.claim.host:
            continue
        is_latest = row.fence == one.claim.fence
        is_success = one.state is HourState.METERED
        if (is_latest and row.state is HourState.FROZEN) or (
            is_success and row.state not in _STANDS
        ):
            found.rows[one.claim.hour_id] = one
            found.moves.append(came)
            found.heard.append(came)
            now[one.claim.hour_id] = row._replace(state=one.state)
        elif is_latest and row.state is one.state:  # written before, by a try with no answer
            found.heard.append(one)
        elif is_success and row.state is HourState.REOPENED:
            found.heard.append(came)
    return found
