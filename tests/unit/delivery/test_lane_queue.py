"""The queue of one lane: the oldest minute first, ahead of it what was sent, and no more bytes."""

import time
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.chunks import PRODUCT, at, large_record
from support.memory import usage

from marketplace_metering_async import limits
from marketplace_metering_async.aws import wire
from marketplace_metering_async.delivery.lane_queue import LaneQueue, Minutes
from marketplace_metering_async.delivery.model import NO_ATTEMPTS, AttemptHistory, PendingRecord
from marketplace_metering_async.records import UsageRecord

ROOM = limits.REQUEST_BYTES - 1 - wire.batch_overhead("product")
SENT = AttemptHistory(attempts=1)
PLAIN = usage(1)[0]
LARGE = large_record(250)


class MinutesLife(RuleBasedStateMachine):
    """Positions that come, go from the front, and are taken out: a sorted list of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.minutes = Minutes()
        self.expected: list[tuple[int, int]] = []  # minute, position
        self.position = 0

    @rule(epochs=st.lists(st.integers(0, 299), min_size=1, max_size=9))
    def add(self, epochs: list[int]) -> None:
        positions = range(self.position, self.position + len(epochs))
        self.position += len(epochs)
        self.minutes.add(positions, epochs)
        self.expected += zip([epoch // 60 for epoch in epochs], positions, strict=True)
        self.expected.sort(key=itemgetter(0))

    @precondition(lambda self: self.expected)
    @rule(most=st.integers(1, 9))
    def pop(self, most: int) -> None:
        oldest = self.expected[0][0]
        wanted = [position for minute, position in self.expected if minute == oldest][:most]
        assert oldest == self.minutes.oldest
        assert wanted == self.minutes.peek(most)
        self.minutes.pop(wanted)
        del self.expected[: len(wanted)]

    @rule(position=st.integers(0, 200), epoch=st.integers(0, 299))
    def discard(self, position: int, epoch: int) -> None:
        pair = (epoch // 60, position)
        there = pair in self.expected
        assert there == self.minutes.discard(position, epoch)
        if there:
            self.expected.remove(pair)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def discard_one_that_is_there(self, data: st.DataObject) -> None:
        minute, position = data.draw(st.sampled_from(self.expected[:50]))
        self.discard(position, minute * 60)

    @invariant()
    def counts(self) -> None:
        assert len(self.expected) == self.minutes.size


TestMinutesLife = MinutesLife.TestCase


def test_what_comes_back_is_there_once() -> None:
    """
    As records do whose license was put into a group and forgotten since.
    """
    minutes = Minutes()
    minutes.add([0, 1, 2], [60, 60, 60])
    assert minutes.discard(0, 60)
    assert [1] == minutes.peek(1)
    minutes.pop([1])

    minutes.add([1], [60])

    assert [2, 1] == minutes.peek(5)


def test_minutes_that_were_emptied_begin_anew() -> None:
    """
    What was taken of one before its last position was taken out is not skipped of what comes.
    """
    minutes = Minutes()
    minutes.add([0, 1], [60, 60])
    minutes.pop([0])
    assert minutes.discard(1, 60)

    minutes.add([2], [60])

    assert [2] == minutes.peek(5)


@given(st.permutations(range(9)), st.permutations(range(9)))
def test_the_oldest_minute_is_known_whichever_goes(come: list[int], go: list[int]) -> None:
    """
    Whole minutes are taken out from anywhere.
    """
    minutes = Minutes()
    minutes.add(come, [position * 60 for position in come])
    left = set(come)
    for position in go:
        assert min(left) == minutes.oldest
        assert minutes.discard(position, position * 60)
        left.remove(position)


@pytest.mark.parametrize("step", [1, 25, 4096, 4097])
def test_a_minute_of_thousands_is_taken_in_its_order(step: int) -> None:
    """
    What was taken of it comes no second time, also where more come and some go meanwhile.
    """
    minutes = Minutes()
    minutes.add(range(9_000), [60] * 9_000)
    taken: list[int] = []
    while len(taken) < 5_000:
        part = minutes.peek(step)
        minutes.pop(part)
        taken += part
    minutes.add(range(9_000, 10_000), [60] * 1_000)

    assert not minutes.discard(taken[-1], 60)
    assert minutes.discard(9_500, 60)
    while minutes.size:
        part = minutes.peek(7)
        minutes.pop(part)
        taken += part

    assert [position for position in range(10_000) if position != 9_500] == taken


def queue_of(given_: Sequence[UsageRecord], *, fresh: int | None = None) -> LaneQueue:
    """Return a queue with the first *fresh* of the records, or all."""
    queue = LaneQueue(PRODUCT, ROOM, at(given_))
    added = given_[:fresh]
    if added:
        queue.add(range(len(added)), added, 0.0)
    return queue


def alike(minute: int) -> str:
    return "inside"


def body_size(members: Sequence[wire.Members]) -> int:
    return len(wire.encode_batch("product", members))


def test_a_lane_is_full_by_number_or_by_bytes() -> None:
    """
    25 records; or allocations for a million bytes, whichever is reached first.
    """
    assert [False, True] == [queue_of([PLAIN] * n).is_full for n in (24, 25)]
    assert [False, True] == [queue_of([LARGE] * n).is_full for n in (4, 5)]
    sent = queue_of([LARGE] * 5, fresh=4)
    sent.put_back(PendingRecord(4, LARGE, SENT))
    assert sent.is_full


def test_an_emptied_lane_counts_no_bytes() -> None:
    """
    However its records went: cut, taken out one by one, or drained, all of them or some.
    """
    queue = queue_of([LARGE] * 6, fresh=5)
    queue.put_back(PendingRecord(5, LARGE, SENT))
    for taken in (2, 2, 1):
        assert taken == len(queue.drain(taken))
        assert (queue.size * wire.record_size(LARGE.to_wire())) == queue.bytes

    assert queue.discard(4, LARGE)
    assert not queue.discard(4, LARGE)
    assert (0, 0) == (queue.size, queue.bytes)


def test_what_was_sent_goes_first() -> None:
    """
    Ahead of older records that never were, in the order of its own minutes.
    """
    given_ = usage(3) + [
        usage(1, timestamp=PLAIN.timestamp.replace(minute=minute))[0] for minute in (50, 40, 40)
    ]
    queue = queue_of(given_, fresh=3)
    for position in (3, 4, 5):
        queue.put_back(PendingRecord(position, given_[position], SENT))

    assert given_[4].epoch // 60 == queue.oldest
    cut = queue.cut(alike)

    assert [4, 5, 3, 0, 1, 2] == cut.positions
    assert [SENT] * 3 + [NO_ATTEMPTS] * 3 == cut.histories


@pytest.mark.parametrize("returned", [False, True])
def test_a_record_that_does_not_fit_waits_and_none_overtakes_it(returned: bool) -> None:  # noqa: FBT001
    """
    Under a million bytes, and whoever waits for room goes first in the next request.
    """
    given_ = [LARGE] * 5 + usage(10)
    queue = queue_of(given_, fresh=0 if returned else len(given_))
    if returned:
        for position, record in enumerate(given_):
            queue.put_back(PendingRecord(position, record, SENT))

    first, second = queue.cut(alike), queue.cut(alike)

    assert [0, 1, 2, 3] == first.positions
    assert [4, *range(5, 15)] == second.positions
    assert max(map(body_size, (first.members, second.members))) < limits.REQUEST_BYTES
    assert 0 == queue.bytes == queue.size


@pytest.mark.parametrize(("spare", "taken"), [(0, 2), (-1, 1)])
@pytest.mark.parametrize("returned", [False, True])
def test_room_is_used_to_the_last_byte(spare: int, taken: int, returned: bool) -> None:  # noqa: FBT001
    """
    Two that fit exactly go together.
    """
    record = large_record(1)
    room = 2 * wire.record_size(record.to_wire()) + spare
    queue = LaneQueue(PRODUCT, room, at([record] * 2))
    for position in range(2):
        if returned:
            queue.put_back(PendingRecord(position, record, SENT))
        else:
            queue.add([position], [record], 0.0)

    assert taken == len(queue.cut(alike).positions)


def test_one_that_fits_no_request_goes_alone() -> None:
    """
    It is for others to refuse it; here nothing is lost.
    """
    huge = large_record(1300)
    for returned in (False, True):
        queue = queue_of([huge, *usage(3)], fresh=0 if returned else 4)
        if returned:
            for position, record in enumerate([huge, *usage(3)]):
                queue.put_back(PendingRecord(position, record, SENT))

        assert [[0], [1, 2, 3]] == [queue.cut(alike).positions for _ in range(2)]


LONGEST = "\u0001" * 255
LONG = [
    usage(
        1,
        dimension=LONGEST,
        customer_aws_account_id=None,
        customer_identifier=LONGEST,
        timestamp=PLAIN.timestamp.replace(minute=minute),
    )[0]
    for minute in range(24)
]


@given(
    st.lists(st.sampled_from([LARGE, PLAIN, *LONG]), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_no_request_reaches_a_million_bytes(records: list[UsageRecord], returned: int) -> None:
    """
    Whatever mixture of large, small and long records was sent before or never. Covers: W18
    """
    fresh = max(0, len(records) - returned)
    queue = queue_of(records, fresh=fresh)
    for position in range(fresh, len(records)):
        queue.put_back(PendingRecord(position, records[position], SENT))
    taken: list[int] = []

    while queue.size:
        cut = queue.cut(alike)
        assert 1 <= len(cut.positions) <= 25
        assert body_size(cut.members) < limits.REQUEST_BYTES
        assert [records[position].to_wire() for position in cut.positions] == cut.members
        taken += cut.positions

    assert list(range(len(records))) == sorted(taken)
    assert 0 == queue.bytes


def test_the_bound_of_a_plain_record_holds() -> None:
    """
    Its longest members at six bytes a character, and the longest license.
    """
    arn = "arn:aws:" + "a" * 63 + ":" + "b" * 63 + ":" + "c" * 63 + ":" + "d" * 1024
    (record,) = usage(
        1,
        dimension=LONGEST,
        customer_aws_account_id="1" * 255,
        license_arn=arn,
        quantity=2**31 - 1,
    )

    for one in (record, LONG[0]):
        members = one.to_wire()
        assert len(wire.dumps(members)) + 1 <= wire.record_size(members)


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=9), st.integers(0, 9))
def test_kinds_do_not_share_a_request(kinds: list[str], returned: int) -> None:
    """
    The first one's kind is that of all, whether they were sent before or not.
    """
    given_ = [
        usage(1, timestamp=PLAIN.timestamp.replace(minute=minute))[0]
        for minute in range(len(kinds))
    ]
    fresh = max(0, len(kinds) - returned)
    queue = queue_of(given_, fresh=fresh)
    for position in range(fresh, len(kinds)):
        queue.put_back(PendingRecord(position, given_[position], SENT))
    first = given_[0].epoch // 60
    taken: list[int] = []

    while queue.size:
        cut = queue.cut(lambda minute: kinds[minute - first])
        assert 1 == len({kinds[position] for position in cut.positions})
        taken += cut.positions

    assert list(range(len(kinds))) == sorted(taken)


@given(st.integers(1, 24), st.integers(0, 60), st.integers(0, 60))
def test_a_narrowed_lane_has_smaller_requests(limit: int, fresh: int, returned: int) -> None:
    """
    And is full with fewer records.
    """
    given_ = usage(fresh + returned)
    queue = queue_of(given_, fresh=fresh)
    queue.limit = limit
    for position in range(fresh, len(given_)):
        queue.put_back(PendingRecord(position, given_[position], SENT))

    assert (fresh + returned >= limit) == queue.is_full
    sizes = []
    while queue.size:
        sizes.append(len(queue.cut(alike).positions))
    assert fresh + returned == sum(sizes)
    assert max(sizes, default=0) <= limit
    assert all(size == limit for size, _ in pairwise(sizes))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 20))
def test_draining_takes_at_most_so_many(fresh: int, returned: int, most: int) -> None:
    """
    Each with its history; what is left stays.
    """
    given_ = usage(fresh + returned)
    queue = queue_of(given_, fresh=fresh)
    for position in range(fresh, len(given_)):
        queue.put_back(PendingRecord(position, given_[position], SENT))

    drained = queue.drain(most)

    assert min(most, len(given_)) == len(drained)
    assert len(given_) - len(drained) == queue.size
    rest = queue.drain(100)
    everything = sorted(drained + rest, key=lambda entry: entry.position)
    assert [
        PendingRecord(position, record, NO_ATTEMPTS if position < fresh else SENT)
        for position, record in enumerate(given_)
    ] == everything


def test_what_is_taken_out_leaves_nothing_behind_and_is_not_looked_for() -> None:
    """
    Callers may cancel in any order, by the ten thousand, while one record keeps their minute.
    """
    minutes = Minutes()
    minutes.add([0], [0])
    positions = range(1, 40_001)

    begun = time.process_time()
    minutes.add(positions, [0] * len(positions))
    assert all(minutes.discard(position, 0) for position in reversed(positions))
    took = time.process_time() - begun

    assert took < 1  # to look for each takes five times as long
    tracemalloc.start()
    for position in range(50_000, 60_000):
        minutes.add([position], [0])
        assert minutes.discard(position, 0)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 20_000
    assert [0] == minutes.peek(9)
    assert 1 == minutes.size
