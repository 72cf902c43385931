"""Search: a refused chunk, part by part, with what each of its records has been through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chunks import chunk_of
from support.memory import usage

from marketplace_metering_async.delivery.model import AttemptHistory, Chunk, PendingRecord
from marketplace_metering_async.delivery.search import Search
from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.records import UsageRecord

REFUSAL = MarketplaceMeteringException("MoonPhaseException", "no words", status=400)


def refused(part: Chunk) -> list[PendingRecord]:
    """Return the entries of *part* after one more attempt."""
    return [
        entry._replace(history=AttemptHistory(attempts=entry.history.attempts + 1))
        for entry in part.entries
    ]


@given(st.integers(2, 25), st.data())
def test_every_record_is_taken_or_refused_alone(size: int, data: st.DataObject) -> None:
    """
    Once each; and each refusal that a record met is counted in its history.
    """
    bad = data.draw(st.sets(st.integers(100, 99 + size)))
    search = Search(chunk_of(usage(size), first=100), REFUSAL, by_license=False)
    refusals = dict.fromkeys(range(100, 100 + size), 0)
    alone: list[int] = []
    parts = 0

    while (part := search.next_part()) is not None:
        parts += 1
        positions = list(part.positions)
        assert set(positions).isdisjoint(entry.position for entry in search.waiting())
        assert [refusals[p] for p in positions] == [h.attempts for h in part.histories]
        if not bad & set(positions):
            search.taken(part)
            continue
        for position in positions:
            refusals[position] += 1
        entry = search.refused(refused(part))
        assert (entry is not None) == (len(part) == 1)
        if entry is not None:
            alone.append(entry.position)
            assert refusals[entry.position] == entry.history.attempts

    assert sorted(bad) == sorted(alone)
    assert len(bad) == search.refused_alone
    taken = [position for part in search.parts_taken for position in part.positions]
    assert sorted(set(refusals) - bad) == sorted(taken)
    assert parts == search.tried
    assert [] == search.waiting()


def test_what_is_removed_or_left_open_is_tried_no_more() -> None:
    """
    Its verdict, or its next attempt, comes from elsewhere.
    """
    search = Search(chunk_of(usage(8), first=10), REFUSAL, by_license=False)
    part = search.next_part()
    assert part is not None
    waiting = search.waiting()
    assert set(range(10, 18)) - set(part.positions) == {entry.position for entry in waiting}

    search.remove(waiting[1:])

    last = search.next_part()
    assert last is not None
    assert waiting[:1] == last.entries
    assert search.next_part() is None
    assert 0 == search.refused_alone
    assert [] == search.parts_taken


def licensed(name: str) -> UsageRecord:
    arn = f"arn:aws:license-manager::123456789012:license:l-{name}"
    return usage(1, license_arn=arn)[0]


@pytest.mark.parametrize("by_license", [True, False])
def test_records_of_one_license_are_tried_together_where_asked(by_license: bool) -> None:  # noqa: FBT001
    """
    They are of one product, so that they are taken or refused as one.
    """
    records = [licensed(name) for name in "abababab"]
    search = Search(chunk_of(records), REFUSAL, by_license=by_license)

    part = search.next_part()

    assert part is not None
    assert (1 if by_license else 2) == len({record.license_arn for record in part.records})


def test_whom_the_refusal_names_is_tried_first() -> None:
    """
    A text only orders the search: the others are tried as well.
    """
    error = MarketplaceMeteringException("X", "customer 000000000005 is not valid", status=400)
    search = Search(chunk_of(usage(8)), error, by_license=False)

    part = search.next_part()

    assert part is not None
    assert [5] == list(part.positions)
    assert [*range(5), 6, 7] == sorted(entry.position for entry in search.waiting())
