"""Isolation: the good records of a refused chunk are metered in few calls; none is blamed."""

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from random import Random

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from support.chunks import chunk_of
from support.memory import usage

from marketplace_metering_async.delivery.isolation import Search, first_share, named_in
from marketplace_metering_async.delivery.model import (
    NO_ATTEMPTS,
    AttemptHistory,
    Chunk,
    PendingRecord,
)
from marketplace_metering_async.errors import MarketplaceMeteringException

REFUSAL = MarketplaceMeteringException("MoonPhaseException", "no words", status=400)
RECORDS = usage(25)
ARN = "arn:aws:license-manager::123456789012:license:l-{}"


def search_of(
    size: int, hinted: Collection[int] = (), labels: Sequence[object] | None = None
) -> Search:
    """Return the search of a chunk; its refusal names those *hinted* at, *labels* are licenses."""
    records = RECORDS[:size]
    message = " ".join(str(records[index].customer_aws_account_id) for index in hinted)
    if labels is not None:
        arns = map(ARN.format, labels)
        records = [evolve(one, license_arn=arn) for one, arn in zip(records, arns, strict=True)]
    error = MarketplaceMeteringException("X", message, status=400)
    return Search(chunk_of(records), error, by_license=labels is not None)


def find(
    size: int, bad: set[int], hinted: set[int] | None = None, labels: list[object] | None = None
) -> tuple[list[int], int]:
    """Return what was refused alone of a chunk with *bad* records, and the calls after its own."""
    search = search_of(size, hinted or (), labels)
    taken: set[int] = set()
    refused: list[int] = []
    while (part := search.next_part()) is not None:
        if bad & set(part.positions):
            search.refused(part)
            refused += alone(part)
        else:
            search.taken(part)
            assert taken.isdisjoint(part.positions)
            taken.update(part.positions)
    assert taken == set(range(size)) - bad
    assert len(refused) == search.refused_alone
    return sorted(refused), search.tried


def alone(part: Chunk) -> list[int]:
    """Return the only record of a part, if it has but one."""
    return part.positions if len(part) == 1 else []


def next_of(search: Search) -> list[int]:
    """Return the records that are tried next."""
    part = search.next_part()
    return [] if part is None else part.positions


def waiting(search: Search) -> list[int]:
    """Return the records whose part was not tried yet."""
    return [entry.position for entry in search.waiting()]


def remove(search: Search, positions: Iterable[int]) -> None:
    """Settle some records otherwise."""
    search.remove([PendingRecord(one, RECORDS[0], NO_ATTEMPTS) for one in positions])


sizes_with_bad = st.integers(2, 25).flatmap(
    lambda n: st.tuples(
        st.just(n), st.sets(st.integers(0, n - 1), min_size=1), st.sets(st.integers(0, n - 1))
    )
)


@given(sizes_with_bad)
def test_every_bad_record_is_found_and_no_other(case: tuple[int, set[int], set[int]]) -> None:
    """
    Whatever the service's text hinted at; every good one is taken once. Covers: S05, S18
    """
    size, bad, hinted = case

    refused, calls = find(size, bad, hinted)

    assert sorted(bad) == refused
    assert calls <= 2 * size - 2


def test_one_bad_of_25_costs_at_most_eight_calls_and_two_at_most_fourteen() -> None:
    """
    Two where the hint was right, nine where it misled, 48 where all are bad. Covers: S09, S19
    """
    assert 8 == max(find(25, {bad})[1] for bad in range(25))
    assert 14 == max(find(25, set(pair))[1] for pair in combinations(range(25), 2))
    assert 48 == find(25, set(range(25)))[1]
    assert 2 == max(find(25, {bad}, {bad})[1] for bad in range(25))
    assert 9 >= max(find(25, {a}, {b})[1] for a, b in combinations(range(25), 2))


def test_no_division_costs_less() -> None:
    """
    One bad record of any number costs at worst what the best first shares allow.
    """
    least = {1: 1}  # calls by the size of a part that is known to hold one
    for size in range(2, 26):
        least[size] = min(
            max(2 + (least[share] if share > 1 else 0), 1 + least[size - share])
            for share in range(1, size)
        )

    worst = {size: max(find(size, {bad})[1] for bad in range(size)) for size in range(2, 26)}

    assert {1: 1, **worst} == least


@given(st.integers(2, 25), st.integers(0, 2**32), st.booleans())
def test_a_wandering_fault_ends_within_the_bound(
    size: int,
    seed: int,
    labelled: bool,  # noqa: FBT001
) -> None:
    """
    Random answers: all is settled or left open, once.
    Covers: S19
    """
    random = Random(seed)
    labels = [random.randrange(4) for _ in range(size)] if labelled else None
    search = search_of(size, (), labels)
    done: list[int] = []
    while (part := search.next_part()) is not None:
        match random.choice(["taken", "refused", "left open"]):
            case "refused":
                search.refused(part)
                done += alone(part)
            case "taken":
                search.taken(part)
                done += part.positions
            case _:
                done += part.positions

    assert search.tried <= 2 * size - 2
    assert list(range(size)) == sorted(done)


@given(
    sizes_with_bad,
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from([0.1, 0.5]),
)
def test_what_is_settled_otherwise_is_left_out(
    case: tuple[int, set[int], set[int]],
    seed: int,
    labelled: bool,  # noqa: FBT001
    share: float,
) -> None:
    """
    Removed at any time, also while a part is tried; nothing is inferred of what lost records.

    Everything good is taken, each bad record is refused alone or removed, and nothing twice.
    House 5.2: each line of the removal has its mutant killed here.
    """
    size, bad, hinted = case
    random = Random(seed)
    labels = [random.randrange(4) for _ in range(size)] if labelled else None
    search = search_of(size, () if labelled else hinted, labels)
    taken: list[int] = []
    removed: list[int] = []
    refused: list[int] = []

    def remove_some() -> None:
        gone = [index for index in waiting(search) if random.random() < share]
        remove(search, gone)
        removed.extend(gone)
        assert set(gone).isdisjoint(waiting(search))

    if random.random() < share:
        remove_some()
    while (part := search.next_part()) is not None:
        assert part.positions
        assert set(part.positions).isdisjoint(waiting(search))
        assert set(part.positions).isdisjoint([*taken, *removed, *refused])
        if random.random() < share:
            remove_some()
        if bad & set(part.positions):
            search.refused(part)
            refused += alone(part)
        else:
            search.taken(part)
            taken += part.positions
        if random.random() < share:
            remove_some()

    assert [] == waiting(search)
    assert set(refused) <= bad
    assert set(taken).isdisjoint(bad)
    assert list(range(size)) == sorted(taken + removed + refused)
    assert search.tried <= max(2 * size - 2, 0)


def test_a_part_that_lost_the_bad_one_proves_nothing_of_the_rest() -> None:
    """
    The first share is taken, but it was refused for whom it lost: the rest is tried, not divided.
    """
    search = search_of(8)
    rest = waiting(search)[: -first_share(8)]
    remove(search, [waiting(search)[-1]])

    first = search.next_part()
    assert first is not None
    assert first_share(8) - 1 == len(first.positions)
    search.taken(first)

    assert rest == next_of(search)


def test_a_rest_that_lost_records_is_tried_whole() -> None:
    """
    The one that it was refused for may be gone, before the first share is taken or after it.
    """
    for before in (True, False):
        search = search_of(8)
        first = search.next_part()
        assert first is not None
        rest = waiting(search)
        if before:
            remove(search, rest[:1])
        search.taken(first)
        if not before:
            remove(search, rest[:1])

        assert rest[1:] == next_of(search)


def test_what_was_taken_whole_says_where_the_bad_one_is() -> None:
    """
    The rest is divided without a call of its own, unless others were removed elsewhere.
    """
    search = search_of(8)
    first = search.next_part()
    assert first is not None
    remove(search, [])
    remove(search, [99])
    search.taken(first)

    assert 0 < len(next_of(search)) < 8 - first_share(8)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=25), st.data())
def test_records_of_one_label_stay_together(labels: list[int], data: st.DataObject) -> None:
    """
    As long as others are there: a part holds all of its labels, or records of one alone.
    """
    size = len(labels)
    bad = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    search = search_of(size, (), labels)
    refused: list[int] = []
    while (part := search.next_part()) is not None:
        indices = set(part.positions)
        found = {labels[index] for index in indices}
        if len(found) > 1:
            assert {index for index in range(size) if labels[index] in found} == indices
        (search.refused if bad & indices else search.taken)(part)
        refused += alone(part) if bad & indices else ()

    assert sorted(bad) == sorted(refused)


def test_labels_are_divided_nearest_to_the_cheapest_place() -> None:
    """
    25 labels of one record each cost no more than none; one label costs as many.
    """
    for labels in (list(range(25)), [0] * 25):
        assert 8 == max(find(25, {bad}, None, list(labels))[1] for bad in range(25))
    search = search_of(25, (), [*"a" * 3, *"b" * 8, *"c" * 14])
    assert [*range(11)] == next_of(search)


def test_texts_only_say_where_to_look() -> None:
    """
    Ids are found as whole words; a text that names all names nobody.
    """
    arn = "arn:aws:license-manager::123456789012:license:l-1"
    records = [
        *usage(2),
        usage(1, dimension="api")[0],
        usage(1, dimension="calls", license_arn=arn)[0],
        usage(1, customer_aws_account_id=None, customer_identifier="cust-7")[0],
    ]

    assert {1} == named_in("The customer '000000000001' is not valid.", records)
    assert {1} == named_in("000000000001.", records)
    assert {3} == named_in(f"License: {arn}", records)
    assert {3, 4} == named_in("[cust-7] and (calls);", records)
    assert {0, 1, 4} == named_in("the dimension requests:", records)
    assert set() == named_in("requests", records[:2])
    assert set() == named_in("10000000000012", records)
    assert set() == named_in("api", records)  # too short for a name
    assert set() == named_in("", records)


def attempted(part: Chunk) -> Chunk:
    """Return *part* after one more attempt."""
    return part.after(lambda history: AttemptHistory(attempts=history.attempts + 1))


@given(st.integers(2, 25), st.data())
def test_every_record_is_taken_or_refused_alone(size: int, data: st.DataObject) -> None:
    """
    Once each; and each refusal that a record met is counted in its history.
    """
    bad = data.draw(st.sets(st.integers(100, 99 + size)))
    search = Search(chunk_of(usage(size), first=100), REFUSAL, by_license=False)
    refusals = dict.fromkeys(range(100, 100 + size), 0)
    refused: list[int] = []
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
        search.refused(attempted(part))
        refused += alone(part)

    assert sorted(bad) == sorted(refused)
    assert len(bad) == search.refused_alone
    taken = [position for part in search.parts_taken for position in part.positions]
    assert sorted(set(refusals) - bad) == sorted(taken)
    assert parts == search.tried
    assert [] == search.waiting()
