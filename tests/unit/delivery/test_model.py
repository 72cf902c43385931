"""Chunks: columns that stay beside each other, and the lanes whose they are."""

import json

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from support.chunks import chunk_of
from support.memory import usage

from marketplace_metering_async.delivery.model import (
    NO_ATTEMPTS,
    AttemptHistory,
    Lane,
    PendingRecord,
)


def test_a_license_goes_without_the_product_code() -> None:
    """
    The service refuses both in one request.
    """
    assert "p" == Lane("p").sent_product_code
    assert Lane("p", licensed=True).sent_product_code is None
    assert Lane(None, licensed=True).sent_product_code is None


def test_a_lane_is_known_by_product_scheme_and_group() -> None:
    """
    And with all its groups it is one whole.
    """
    lanes = [Lane("p"), Lane("p", licensed=True), Lane(None, licensed=True)]
    groups = [Lane(None, licensed=True, group=group) for group in (0, 1)]

    assert 5 == len({*lanes, *groups})
    assert [*lanes, lanes[2], lanes[2]] == [lane.whole for lane in [*lanes, *groups]]


@pytest.mark.parametrize(("code", "licensed"), [("product", False), (None, True)])
def test_the_body_carries_the_records_in_their_order(code: str | None, licensed: bool) -> None:  # noqa: FBT001
    """
    With the product code, unless they name licenses.
    """
    chunk = chunk_of(usage(3), lane=Lane("product", licensed))

    body = json.loads(chunk.body)

    assert code == body.get("ProductCode")
    assert [1, 2, 3] == [members["Quantity"] for members in body["UsageRecords"]]
    assert 3 == len(chunk)


@given(st.lists(st.integers(0, 9), max_size=10))
def test_a_part_has_the_chosen_records_in_every_column(chosen: list[int]) -> None:
    """
    With position, history and members of each, in the order in which they were chosen.
    """
    histories = [AttemptHistory(attempts=n) for n in range(10)]
    chunk = chunk_of(usage(10), histories, first=100)

    part = chunk.part(iter(chosen))

    assert chunk.lane == part.lane
    assert [100 + n for n in chosen] == list(part.positions)
    assert [chunk.records[n] for n in chosen] == list(part.records)
    assert chosen == [history.attempts for history in part.histories]
    assert [chunk.members[n] for n in chosen] == list(part.members)
    assert [PendingRecord(100 + n, chunk.records[n], histories[n]) for n in chosen] == part.entries


def test_a_step_changes_the_histories_alone() -> None:
    """
    Once each, so that they are shared as before. The request is the same, byte for byte.
    """
    old = AttemptHistory(attempts=7)
    chunk = chunk_of(usage(3), [NO_ATTEMPTS, old, NO_ATTEMPTS])

    after = chunk.after(lambda history: evolve(history, attempts=history.attempts + 1))

    assert [1, 8, 1] == [history.attempts for history in after.histories]
    assert after.histories[0] is after.histories[2]
    assert [NO_ATTEMPTS, old, NO_ATTEMPTS] == chunk.histories
    assert chunk == evolve(after, histories=chunk.histories)
    assert chunk.body == after.body
