"""
What a verdict changes when it comes to its row, whoever has claimed the row since.

A success is a fact about the record: it is written under any fence, and lifts every other state.
All else counts only while the claim is the latest one, and is a line of the history otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from attrs import evolve

from marketplace_metering_async.ledger.model import HourState, Settlement

_STANDS = (HourState.METERED, HourState.REOPENED)
"""States that no verdict changes: the usage is billed, here or in another hour."""


class Standing(NamedTuple):
    """The state of a row, and the latest claim on it."""

    fence: int
    state: HourState


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


def writing_of(settlements: Sequence[Settlement], rows: Mapping[int, Standing]) -> Writing:
    """Return what *settlements* change in *rows*; what was pruned meanwhile has none."""
    now = dict(rows)
    found = Writing({}, [], [], [])
    for one in settlements:
        row = now.get(one.hour_id)
        if row is None:
            continue
        came = evolve(one, before=row.state)
        found.attempts.append(one)
        is_latest = row.fence == one.fence
        is_success = one.state is HourState.METERED
        if (is_latest and row.state is HourState.FROZEN) or (
            is_success and row.state not in _STANDS
        ):
            found.rows[one.hour_id] = one
            found.moves.append(came)
            found.heard.append(came)
            now[one.hour_id] = row._replace(state=one.state)
        elif is_latest and row.state is one.state:  # written before, by a try with no answer
            found.heard.append(one)
        elif is_success and row.state is HourState.REOPENED:
            found.heard.append(came)
    return found
