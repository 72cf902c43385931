"""Searches: one a lane at a time, what they settle, and what they teach of other records."""

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from support.chunks import PRODUCT, at, chunk_of
from support.memory import usage
from support.virtual import START

from marketplace_metering_async.delivery.backlog import Backlog
from marketplace_metering_async.delivery.decisions import NOT_SENT, Decision, Refusal
from marketplace_metering_async.delivery.model import Chunk, Lane
from marketplace_metering_async.delivery.searches import Findings, Searches
from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.events import Event, Isolated, Isolating
from marketplace_metering_async.flow.pacing import CallEnd
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.service_errors import MODELLED_ERRORS

OTHER = Lane("other")
LICENSES = Lane(None, licensed=True)
TAKEN = Decision(ended=CallEnd.DELIVERED, taken=True)
OPEN = Decision(ended=CallEnd.FAILED)
Refuses = Callable[[Chunk], bool]


def error(code: str = "InvalidTagException") -> MarketplaceMeteringException:
    return MODELLED_ERRORS.get(code, MarketplaceMeteringException)(code, "no words", status=400)


def refused(chunk: Chunk, code: str = "InvalidTagException") -> Decision:
    return Decision(ended=CallEnd.DELIVERED, refusal=Refusal(chunk, error(code)))


def licensed(count: int) -> list[UsageRecord]:
    """Records of licenses of their own, of a product that nobody names."""
    arn = "arn:aws:license-manager::111122223333:license:l-{:032d}"
    return [
        evolve(record, product_code=None, license_arn=arn.format(number))
        for number, record in enumerate(usage(count))
    ]


def void(_: object) -> None:
    """Return nothing."""


def searches_of(events: list[Any] | None = None, held: dict[Lane, float] | None = None) -> Searches:
    """Return searches that know nothing; *events* gets what they say, *held* lanes that wait."""
    backlog = Backlog(at([]))
    lanes: dict[Lane, float] = {} if held is None else held
    backlog.hold = lambda lane, until, moment: lanes.update({lane: until})  # type: ignore[method-assign]
    backlog.release = lambda lane, moment: void(lanes.pop(lane, None))  # type: ignore[method-assign]
    observer = [].append if events is None else events.append
    return Searches(backlog, observer)


def run(searches: Searches, refuses: Refuses, code: str = "InvalidTagException") -> list[Findings]:
    """Try all parts, as a service would that refuses what *refuses* says."""
    found = []
    while searches.parts:
        search, part = searches.parts.popleft()
        decision = refused(part, code) if refuses(part) else TAKEN
        found.append(searches.advance(search, part, decision, 0))
    return found


def settled(findings: list[Findings]) -> list[int]:
    return sorted(p for one in findings for outcome in one.settled for p in outcome.positions)


@given(st.integers(2, 25), st.data())
def test_a_search_settles_who_is_refused_alone_and_ends(size: int, data: st.DataObject) -> None:
    """
    It says that it begins and that it ends, with how many it found, in how many calls.
    """
    bad = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    events: list[Event] = []
    searches = searches_of(events)

    searches.refused(Refusal(chunk_of(usage(size)), error()), 0)
    assert [Isolating(records=size, code="InvalidTagException")] == events
    findings = run(searches, lambda part: bool(bad & set(part.positions)))

    assert sorted(bad) == settled(findings)
    ended = Isolated(code="InvalidTagException", calls=len(findings), refused=len(bad))
    assert [ended] == events[1:]
    assert [] == searches.drop(None, 0)


def test_a_lane_is_held_while_it_is_searched_for_a_member() -> None:
    """
    For a minute: more of it would be refused alike. Any other refusal says nothing of the rest.
    """
    held: dict[Lane, float] = {}
    searches = searches_of(held=held)

    for code, until in (
        ("InvalidTagException", {}),
        ("InvalidUsageDimensionException", {PRODUCT: 67}),
    ):
        searches.refused(Refusal(chunk_of(usage(3)), error(code)), 7)
        assert until == held
        run(searches, lambda part: 0 in part.positions, code)
        assert {} == held


def test_a_lane_is_searched_once_at_a_time() -> None:
    """
    What is refused meanwhile waits, and is searched next; another lane does not wait.
    """
    searches = searches_of()
    for lane, first in ((PRODUCT, 0), (PRODUCT, 10), (OTHER, 20)):
        searches.refused(Refusal(chunk_of(usage(2), lane=lane, first=first), error()), 0)

    assert [PRODUCT, OTHER] == [search.chunk.lane for search, _ in searches.parts]
    assert [2, 2] == sorted(len(search.chunk) for search, _ in searches.parts)
    assert [0, 1, 10, 11, 20, 21] == settled(run(searches, lambda part: True))


@pytest.mark.parametrize("which", [PRODUCT, None])
def test_what_a_dropped_search_holds_is_returned(which: Lane | None) -> None:
    """
    Its parts, what waits for them, and the chunks that wait for the search.
    """
    held: dict[Lane, float] = {}
    searches = searches_of(held=held)
    for lane, first in ((PRODUCT, 0), (PRODUCT, 5), (OTHER, 10)):
        refusal = error("InvalidUsageDimensionException")
        searches.refused(Refusal(chunk_of(usage(5), lane=lane, first=first), refusal), 0)

    entries = searches.drop(which, 1)

    left = set(range(10, 15)) if which else set()
    assert set(range(15)) - left == {entry.position for entry in entries}
    assert ({OTHER} if which else set()) == set(held)
    assert ([OTHER] if which else []) == [search.chunk.lane for search, _ in searches.parts]
    assert left == {entry.position for entry in searches.drop(None, 1)}


@pytest.mark.parametrize(
    ("decision", "left"), [(TAKEN, []), (OPEN, []), ("refused", [0, 1]), ("refused alone", [])]
)
def test_a_part_of_a_dropped_search_ends_as_any_chunk(decision: Any, left: list[int]) -> None:
    """
    Refused whole it is sent again; a record refused alone is settled.
    """
    searches = searches_of()
    searches.refused(Refusal(chunk_of(usage(4)), error()), 0)
    search, _ = searches.parts.popleft()
    searches.drop(PRODUCT, 0)
    part = chunk_of(usage(1 if decision == "refused alone" else 2))
    if isinstance(decision, str):
        alone, decision = decision == "refused alone", refused(part)
    else:
        alone = False

    findings = searches.advance(search, part, decision, 0)

    assert left == [entry.position for entry in findings.returned]
    assert ([0] if alone else []) == settled([findings])
    assert not searches.parts


def test_a_part_that_was_not_sent_is_left_out_of_the_search() -> None:
    """
    And the search goes on with the rest.
    """
    searches = searches_of()
    searches.refused(Refusal(chunk_of(usage(4)), error()), 0)
    search, part = searches.parts.popleft()

    searches.advance(search, part, NOT_SENT, 0)
    run(searches, lambda part: True)

    assert part.positions
    assert [] == searches.drop(None, 0)
    assert not searches.parts


def test_similar_records_of_a_search_are_settled_with_the_first() -> None:
    """
    A wrong dimension is looked for once.
    """
    code = "InvalidUsageDimensionException"
    events: list[Event] = []
    searches = searches_of(events)
    wrong = [evolve(record, dimension="wrong") for record in usage(24)]
    searches.refused(Refusal(chunk_of([*wrong, *usage(1)]), error(code)), 0)

    findings = run(searches, lambda part: any(r.dimension == "wrong" for r in part.records), code)

    assert list(range(24)) == settled(findings)
    assert len(findings) <= 6
    assert 24 == sum(event.refused for event in events if isinstance(event, Isolated))


def test_a_chunk_with_a_similar_record_is_looked_at_before_it_is_searched() -> None:
    """
    It comes back, for what is similar to be held back.
    """
    searches = searches_of()
    first = usage(1, dimension="wrong")
    searches.refused(Refusal(chunk_of(first), error("InvalidUsageDimensionException")), 0)

    findings = searches.refused(
        Refusal(chunk_of([*first, *usage(2)]), error("InvalidUsageDimensionException")), 1
    )

    assert (3, False) == (len(findings.returned), bool(searches.parts))


def whole_refusals(searches: Searches, chunks: list[list[UsageRecord]], code: str) -> list[bool]:
    """Whether the lane stops after each of *chunks*, refused to the last record."""
    stops = []
    for records in chunks:
        found = [searches.refused(Refusal(chunk_of(records), error(code)), 0)]
        found += run(searches, lambda part: True, code)
        stops.append(any(one.stop is not None for one in found))
    return stops


def test_three_chunks_of_an_unknown_refusal_stop_their_lane() -> None:
    """
    Of different customers; nothing that is known, and nobody who was asked before, counts.
    """
    many = usage(40)
    customers = [many[:3], many[3:6], many[:2], many[6:7]]

    assert [False, False, False, True] == whole_refusals(searches_of(), customers, "Moon")
    assert [False] * 4 == whole_refusals(searches_of(), customers, "InvalidTagException")


def test_what_the_service_takes_ends_the_count() -> None:
    """
    It is no refusal of all.
    """
    searches, many = searches_of(), usage(9)

    assert [False, False] == whole_refusals(searches, [many[:2], many[2:4]], "Moon")
    searches.note_taken(PRODUCT)
    assert [False, False, True] == whole_refusals(
        searches, [many[4:6], many[6:8], many[8:]], "Moon"
    )


def test_a_chunk_that_is_taken_in_part_does_not_count() -> None:
    """
    However often its like is refused.
    """
    searches, many = searches_of(), usage(12)
    for first in range(0, 12, 2):
        searches.refused(Refusal(chunk_of(many[first : first + 2], first=first), error("Moon")), 0)
        bad = {first}
        findings = run(searches, lambda part: not bad.isdisjoint(part.positions), "Moon")  # noqa: B023
        assert not any(one.stop for one in findings)


@pytest.mark.parametrize(("size", "most"), [(2, 1), (4, 2)])
def test_licenses_that_do_not_mix_are_separated(size: int, most: int) -> None:
    """
    Refused together and taken apart: they share no request any more, and nobody is blamed.
    """
    code, records = "InvalidLicenseException", licensed(size)
    searches = searches_of()
    searches.refused(Refusal(chunk_of(records, lane=LICENSES), error(code)), 0)

    findings = run(searches, lambda part: len(part) > most, code)

    assert [] == settled(findings)
    groups = [searches.licenses.group_of(record) for record in records]
    assert len(set(groups)) >= 2
    assert None not in groups

    again = searches.refused(Refusal(chunk_of(records, lane=LICENSES), error(code)), 0)
    assert (size, False) == (len(again.returned), bool(searches.parts))


@pytest.mark.parametrize(
    ("code", "lane"),
    [
        ("InvalidLicenseException", Lane("product", licensed=True)),
        ("InvalidTagException", LICENSES),
    ],
)
def test_no_other_refusal_separates_licenses(code: str, lane: Lane) -> None:
    """
    Those of one product mix, and another refusal that has passed says nothing of them.
    """
    records = licensed(4)
    searches = searches_of()
    searches.refused(Refusal(chunk_of(records, lane=lane), error(code)), 0)

    run(searches, lambda part: len(part) > 1, code)
    again = searches.refused(Refusal(chunk_of(records, lane=lane), error(code)), 0)

    assert {None} == {searches.licenses.group_of(record) for record in records}
    assert ([], 1) == (again.returned, len(searches.parts))


def test_licenses_that_were_separated_share_no_chunk() -> None:
    """
    Not even where they had come before.
    """
    code, records = "InvalidLicenseException", licensed(4)
    backlog = Backlog(at(records))
    searches = Searches(backlog, lambda event: None)
    backlog.add(range(4), records, 0)
    searches.refused(Refusal(chunk_of(records, lane=LICENSES), error(code)), 0)
    run(searches, lambda part: len(part) > 1, code)

    chunks = [backlog.take(START.timestamp(), 1) for _ in records]

    assert [1, 1, 1, 1] == [len(chunk) for chunk in chunks if chunk is not None]


def test_a_license_that_is_refused_alone_explains_it() -> None:
    """
    Then the others were not mixed, and may travel together.
    """
    code, records = "InvalidLicenseException", licensed(4)
    searches = searches_of()
    searches.refused(Refusal(chunk_of(records, lane=LICENSES), error(code)), 0)

    assert [2] == settled(run(searches, lambda part: 2 in part.positions, code))
    assert {None} == {searches.licenses.group_of(record) for record in records}


def mixed(code: str, records: list[UsageRecord]) -> Searches:
    """Searches that know of licenses that do not mix."""
    searches = searches_of()
    searches.refused(Refusal(chunk_of(records, lane=LICENSES), error(code)), 0)
    run(searches, lambda part: len(part) > 2, code)
    return searches


def test_unknown_licenses_of_a_mixed_lane_travel_alone() -> None:
    """
    Refused together, without a group that explains it, each gets a group of its own.
    """
    code, records = "InvalidLicenseException", licensed(8)
    searches = mixed(code, records[:4])
    known = {searches.licenses.group_of(record) for record in records[:4]}

    searches.refused(Refusal(chunk_of(records[4:], lane=LICENSES), error(code)), 0)
    assert 4 == len({searches.licenses.group_of(record) for record in records[4:]} - known)

    before = [searches.licenses.group_of(record) for record in records]
    searches.refused(
        Refusal(chunk_of([*records[3:5], *licensed(9)[8:]], lane=LICENSES), error(code)), 0
    )
    assert before == [searches.licenses.group_of(record) for record in records]
    assert None is searches.licenses.group_of(licensed(9)[8])


def test_a_license_refused_alone_ends_the_suspicion_of_a_mixture() -> None:
    """
    The next chunk that is refused is searched.
    """
    code, records = "InvalidLicenseException", licensed(6)
    searches = mixed(code, records[:4])
    searches.refused(Refusal(chunk_of(records[4:5], lane=LICENSES), error(code)), 0)

    findings = searches.refused(Refusal(chunk_of(records[4:], lane=LICENSES), error(code)), 0)

    assert (1, []) == (len(searches.parts), findings.returned)


def test_records_of_one_license_are_tried_together() -> None:
    """
    And refused with no other license about, they are no mixture.
    """
    code = "InvalidLicenseException"
    first, second = licensed(2)
    records = [evolve(one, dimension=f"d{n}") for n in range(4) for one in (first, second)]
    searches = searches_of()
    searches.refused(Refusal(chunk_of(records, lane=LICENSES), error(code)), 0)
    _, part = searches.parts[0]
    assert 1 == len({record.license_arn for record in part.records})

    searches = mixed(code, licensed(4))
    searches.refused(Refusal(chunk_of(records[::2], lane=LICENSES), error(code)), 0)
    assert 1 == len(searches.parts)
