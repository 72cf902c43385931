"""Isolation, verdicts, admission and merging: the smaller decisions."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import chain, combinations
from random import Random

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from support.memory import usage
from support.strategies import recent, records
from support.virtual import START

from marketplace_metering_async import limits, verdicts
from marketplace_metering_async.clock import Span
from marketplace_metering_async.errors import (
    MODELLED_ERRORS,
    BatchMeterUsageError,
    ConflictingRecordsError,
    InvalidRecordError,
    InvalidUsageDimensionException,
    MarketplaceMeteringException,
    MeteringError,
    OutOfWindowError,
    RecordNotMeteredError,
    ThrottlingException,
    TransportError,
    Violation,
)
from marketplace_metering_async.isolation import Isolation, Offenders, named_in
from marketplace_metering_async.planning import History
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord, key_hashes
from marketplace_metering_async.results import RecordResult, RecordStatus, Verdict, merge
from marketplace_metering_async.retries import RetryPolicy, backoff
from marketplace_metering_async.validation import Admission, Hashes, Repeats

S = RecordStatus
FRESH = History()
DOUBTFUL = History(attempts=1, ambiguous=True, error=TransportError("reset", sent=True))


def search(size: int, bad: set[int], suspects: set[int] = frozenset()) -> tuple[list[int], int]:  # type: ignore[assignment]
    """Return the culprits that a search finds, and all calls with the first refused one."""
    isolation = Isolation(size, suspects)
    while (part := isolation.next_part()) is not None:
        (isolation.refused if bad & set(part) else isolation.taken)()
    return sorted(isolation.culprits), isolation.tried + 1


@given(
    st.integers(1, 25).flatmap(
        lambda n: st.tuples(
            st.just(n), st.sets(st.integers(0, n - 1), min_size=1), st.sets(st.integers(0, n - 1))
        )
    )
)
def test_every_culprit_is_found_and_no_other(case: tuple[int, set[int], set[int]]) -> None:
    """
    Whoever is suspected, in at most 49 calls.
    """
    size, bad, suspects = case

    culprits, calls = search(size, bad, suspects)

    assert sorted(bad) == culprits
    assert calls <= 2 * size - 1 + 2


def test_one_culprit_of_25_costs_at_most_nine_calls_and_two_at_most_fifteen() -> None:
    """
    Also where the service's text misled: one more. Covers: S05, S19
    """
    assert 9 == max(search(25, {culprit})[1] for culprit in range(25))
    assert 3 == max(search(25, {culprit}, {culprit})[1] for culprit in range(25))
    assert 10 >= max(search(25, {a}, {b})[1] for a, b in combinations(range(25), 2))
    assert 15 == max(search(25, set(pair))[1] for pair in combinations(range(25), 2))
    assert 49 == search(25, set(range(25)))[1]


def test_a_search_of_a_passing_fault_blames_nobody() -> None:
    """
    All parts are taken. Covers: S18
    """
    isolation = Isolation(25)
    while isolation.next_part() is not None:
        isolation.taken()

    assert [] == isolation.culprits


@given(st.integers(2, 25), st.integers(0, 2**32))
def test_a_wandering_fault_ends_within_the_bound(size: int, seed: int) -> None:
    """
    Random answers. Covers: S19
    """
    random = Random(seed)
    isolation = Isolation(size)
    while isolation.next_part() is not None:
        random.choice([isolation.taken, isolation.refused, isolation.left_open])()

    assert isolation.tried <= 2 * size - 2
    assert len(set(isolation.culprits)) == len(isolation.culprits)


def test_the_excused_are_tried_no_more() -> None:
    """
    And nothing is inferred of a part that has lost records.
    """
    isolation = Isolation(8)
    first = isolation.next_part()
    assert first is not None
    rest = set(range(8)) - set(first)
    isolation.excuse(list(rest)[:-1])
    isolation.taken()

    assert [*rest][-1:] == isolation.next_part() or set(isolation.next_part() or ()) <= rest
    assert set(isolation.remaining()) <= rest


def test_texts_only_say_where_to_look() -> None:
    """
    Ids are found as whole words; a text that names all names nobody.
    """
    records = usage(3)

    assert {1} == named_in("The customer '000000000001' is not valid.", records)
    assert set() == named_in("requests", records)
    assert set() == named_in("10000000000012", records)


def test_offenders_are_known_by_their_trait() -> None:
    """
    A wrong dimension is wrong for every customer; a broken tag tells nothing of others.
    """
    offenders = Offenders()
    one, other = usage(2)
    (elsewhere,) = usage(1, dimension="another")

    offenders.remember(one, MODELLED_ERRORS["InvalidTagException"]("InvalidTagException"))
    assert not offenders
    refusal = InvalidUsageDimensionException("InvalidUsageDimensionException")
    offenders.remember(one, refusal)

    assert refusal is offenders.refusal(other)
    assert offenders.refusal(elsewhere) is None


@pytest.mark.parametrize(
    ("code", "clean", "doubtful"),
    [
        ("InvalidUsageDimensionException", S.REJECTED, S.REJECTED),
        ("InvalidTagException", S.REJECTED, S.REJECTED),
        ("InvalidUsageAllocationsException", S.REJECTED, S.REJECTED),
        ("InvalidCustomerIdentifierException", S.REJECTED, S.REJECTED),
        ("TimestampOutOfBoundsException", S.REJECTED, S.UNCONFIRMED),
        ("InvalidLicenseException", S.REJECTED, S.UNCONFIRMED),
        ("MoonPhaseException", S.UNPROCESSED, S.UNCONFIRMED),
    ],
)
def test_refusals_after_a_lost_answer(code: str, clean: S, doubtful: S) -> None:
    """
    Content settles the doubt, time and state do not (law 5).
    """
    error = MODELLED_ERRORS.get(code, MarketplaceMeteringException)(code, status=400)

    assert clean is verdicts.refused_alone(error, FRESH).status
    assert doubtful is verdicts.refused_alone(error, DOUBTFUL).status


@pytest.mark.parametrize(
    ("word", "clean", "doubtful", "metered"),
    [
        ("Success", S.SUCCESS, S.SUCCESS, (True, True)),
        ("DuplicateRecord", S.DUPLICATE_RECORD, S.DUPLICATE_RECORD, (False, None)),
        ("CustomerNotSubscribed", S.CUSTOMER_NOT_SUBSCRIBED, S.UNCONFIRMED, (False, None)),
        ("Postponed", S.UNCONFIRMED, S.UNCONFIRMED, (None, None)),
        ("Rejected", S.UNCONFIRMED, S.UNCONFIRMED, (None, None)),
        ("Unprocessed", S.UNCONFIRMED, S.UNCONFIRMED, (None, None)),
    ],
)
def test_answers_after_a_lost_answer(
    word: str, clean: S, doubtful: S, metered: tuple[bool | None, bool | None]
) -> None:
    """
    The service's words, ours in its mouth, and words nobody knows. Covers: R09, S14, S15, S16
    """
    results = [
        RecordResult(0, None, verdicts.answered(word, history, "r"))
        for history in (FRESH, DOUBTFUL)
    ]

    assert (clean, doubtful) == tuple(result.status for result in results)
    assert metered == tuple(result.metered for result in results)
    assert all(word == result.service_status for result in results)
    assert all(result.advice for result in results)


def test_giving_up() -> None:
    """
    Unprocessed where nothing can have happened, unconfirmed where it may have.
    """
    assert S.UNPROCESSED is verdicts.gave_up(None, FRESH).status
    assert S.UNCONFIRMED is verdicts.gave_up(None, DOUBTFUL).status
    late = OutOfWindowError([Violation("timestamp", "a time of today", "1970")])
    assert S.REJECTED is verdicts.out_of_window(late, FRESH).status
    assert S.UNCONFIRMED is verdicts.out_of_window(late, DOUBTFUL).status


def test_repairs_count_in_a_row() -> None:
    """
    A record that waits through an outage may outlive several steps of the clock and sets of keys.
    """
    twice = FRESH.after(0, None, repaired=True).after(1, None, repaired=True)

    assert 2 == twice.repairs
    assert 0 == twice.after(2, None, failed=True).repairs


@pytest.mark.parametrize(
    "error",
    [
        OutOfWindowError([Violation("timestamp", "a time of today", "1970")]),
        MODELLED_ERRORS["TimestampOutOfBoundsException"]("TimestampOutOfBoundsException", "late"),
    ],
)
def test_what_may_be_metered_is_not_to_be_metered_in_another_hour(error: MeteringError) -> None:
    """
    Its window has closed on a doubt: advice that suits a rejected record would bill it twice.
    """
    doubtful = Verdict(status=S.UNCONFIRMED, error=error, attempts=2, ambiguous=True)
    refused = Verdict(status=S.REJECTED, error=error, attempts=2)

    assert "in the current hour" in RecordResult(0, None, refused).advice
    assert "in the current hour" not in RecordResult(0, None, doubtful).advice
    assert "nothing was sent" not in RecordResult(0, None, doubtful).advice
    assert "CloudTrail" in RecordResult(0, None, doubtful).advice


MONTHS = st.integers(2024 * 12, 2028 * 12).map(
    lambda n: datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC)
)


@given(MONTHS, st.integers(-3 * 86400, 2 * 86400))
def test_deadline_and_oldest_open_agree(month: datetime, offset: int) -> None:
    """
    Over every month's end, leap years too. Covers: H06, H07
    """
    stamp = month + timedelta(seconds=offset)
    closes = limits.deadline(stamp)

    assert closes <= stamp + timedelta(hours=24)
    assert limits.oldest_open(closes) <= stamp
    assert limits.oldest_open(closes + timedelta(seconds=1)) > stamp
    if stamp < month and stamp + timedelta(hours=24) > month + timedelta(hours=6):
        assert month + timedelta(hours=6) == closes


@pytest.mark.parametrize("hours", [1, 6, 24])
@pytest.mark.parametrize("month_end", [None, timedelta(hours=6)])
def test_windows_are_data(hours: int, month_end: timedelta | None) -> None:
    """
    Another rule is another value, and no other code. Covers: S22
    """
    window = limits.MeteringWindow(age=timedelta(hours=hours), month_end=month_end)
    admission = Admission(Span.at(START), window=window)
    edge = START - timedelta(hours=hours, minutes=5)

    assert admission.admit(0, usage(1, timestamp=edge)[0]).timestamp == edge
    with pytest.raises(OutOfWindowError, match=r"records\[3\]\.timestamp: expected a time from"):
        admission.admit(3, usage(1, timestamp=edge - timedelta(seconds=1))[0])


def test_a_record_that_cannot_fit_alone_is_rejected_with_its_size() -> None:
    """
    No request could carry it. Covers: W18, V07
    """
    tags = [Tag(f"{n}" * 100, "v" * 256) for n in range(1, 5)]
    parts = [UsageAllocation(0, [*tags, Tag("n", str(n))]) for n in range(1000)]
    (record,) = usage(1, quantity=0, usage_allocations=parts)

    with pytest.raises(InvalidRecordError, match=r"fewer than 1000000 bytes, got 1\d{6} bytes"):
        Admission(Span.at(START)).admit(0, record)


@given(
    st.lists(st.integers(-30, 5), min_size=1, max_size=6),
    st.sampled_from(["p", None]),
    st.sampled_from(["p", "q", None]),
)
def test_what_is_admitted_at_a_glance_is_admitted(
    hours: list[int], product_code: str | None, of_all: str | None
) -> None:
    """
    The quick look at a step lets nothing through that the look at each record would refuse.
    """
    given_ = [
        usage(1, timestamp=START + timedelta(hours=h), product_code=product_code)[0] for h in hours
    ]
    admission = Admission(Span.at(START), product_code=of_all)

    if (alike := admission.alike(given_)) is not None:
        assert given_ == [admission.admit(n, record) for n, record in enumerate(given_)]
        assert given_ == alike.records
        assert [record.epoch for record in given_] == alike.epochs
    else:
        with pytest.raises(InvalidRecordError):
            [admission.admit(n, record) for n, record in enumerate(given_)]


def test_a_glance_trusts_nobody() -> None:
    """
    Whatever somebody hands in is asked for nothing before it is known to be a record.
    """

    class Odd:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    admission = Admission(Span.at(START), product_code="p")

    assert admission.alike([Odd()]) is None
    assert admission.alike([*usage(1), Odd()]) is None


def test_repeats() -> None:
    """
    Identical ones follow the first; one that differs puts all of them in conflict.
    """
    a, b = usage(2)
    (changed,) = usage(1, quantity=9)
    given_ = [a, b, a]
    repeats = Repeats(None, given_.__getitem__)

    assert [False, False, True] == [repeats.note(n, record) for n, record in enumerate(given_)]
    assert {0: [2]} == repeats.followers
    assert not repeats.conflicts()
    assert repeats.note(3, changed)
    (conflict,) = repeats.conflicts()
    assert (0, 2, 3) == conflict.positions
    assert isinstance(repeats.conflict(a), ConflictingRecordsError)
    assert repeats.conflict(b) is None


@given(st.lists(st.lists(st.integers(-200, 200), max_size=9), max_size=30))
def test_hashes_that_come_twice(steps: list[list[int]]) -> None:
    """
    Those, and no others, whichever tables they are in; and in the end all are forgotten.
    """
    hashes = Hashes()
    for step in steps:
        hashes.note(step)

    counts = Counter(chain.from_iterable(steps))
    twice = {number for number, times in counts.items() if times > 1}
    assert twice == hashes.repeated
    assert len(list(hashes.forget())) == len({number & 63 for number in counts})
    hashes.note(counts)
    assert twice == hashes.repeated


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2)), max_size=30))
def test_repeats_beside_a_plain_table(given_: list[tuple[str, int]]) -> None:
    """
    All but the first of a key are repeats, and all of a key whose records differ are in conflict.
    """
    records = [
        usage(1, dimension=dimension, quantity=quantity)[0] for dimension, quantity in given_
    ]
    first: dict[str, int] = {}
    wanted = [p for p, (dimension, _) in enumerate(given_) if first.setdefault(dimension, p) != p]
    differing = {p for p, (d, q) in enumerate(given_) if q != given_[first[d]][1]}
    repeats = Repeats(None, records.__getitem__)

    assert wanted == [p for p, record in enumerate(records) if repeats.note(p, record)]
    told = {p for conflict in repeats.conflicts() for p in conflict.positions}
    in_conflict = {given_[p][0] for p in differing}
    assert {p for p, (dimension, _) in enumerate(given_) if dimension in in_conflict} == told


@given(records(recent))
def test_equal_keys_have_equal_hashes(record: UsageRecord) -> None:
    """
    So that no repeat is overlooked, whoever names the product, and whatever else differs.
    """
    ours = record.product_code or "product"
    alike = [
        record,
        evolve(record, product_code=ours),
        evolve(record, usage_allocations=(), quantity=7),
        evolve(record, timestamp=record.timestamp.replace(minute=59, second=59)),
    ]

    assert {record.key(ours)} == {one.key(ours) for one in alike}
    assert 1 == len(set(key_hashes(alike, ours)))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_forgotten_keys_may_come_again(steps: list[tuple[str, bool]]) -> None:
    """
    A record that has its verdict is no repeat's leader any more.
    """
    sent: dict[int, UsageRecord] = {}
    repeats = Repeats(None, sent.get)
    flying: dict[str, int] = {}
    for position, (dimension, ends) in enumerate(steps):
        (record,) = usage(1, dimension=dimension)
        is_repeat = repeats.note(position, record)
        assert (dimension in flying) == is_repeat
        if not is_repeat:
            flying[dimension], sent[position] = position, record
        if ends:
            leader = flying.pop(dimension)
            followers = repeats.forget(leader, sent.pop(leader))
            assert all(steps[follower][0] == dimension for follower in followers)


@given(st.permutations(range(30)), st.integers(1, 30))
def test_merge_brings_results_in_order(order: list[int], size: int) -> None:
    """
    Whatever parts they come in; gaps, doubles and strangers are refused.
    """
    done = Verdict(status=S.SUCCESS)
    results = [RecordResult(position, None, done) for position in order]
    parts = [results[i : i + size] for i in range(0, 30, size)]

    assert list(range(30)) == [result.position for result in merge(30, parts)]
    with pytest.raises(ValueError, match="have no result"):
        merge(31, parts)
    with pytest.raises(ValueError, match="a second result"):
        merge(30, [*parts, results[:1]])
    with pytest.raises(ValueError, match="a foreign result"):
        merge(29, parts)


def test_raise_for_failures() -> None:
    """
    A group with an error for each record that is not metered for certain, its cause with it.
    """
    refusal = InvalidUsageDimensionException("InvalidUsageDimensionException")
    verdict_of = [Verdict(status=S.SUCCESS), Verdict(status=S.REJECTED, error=refusal)]
    records = usage(2)
    result = merge(2, [[RecordResult(n, records[n], v) for n, v in enumerate(verdict_of)]])

    with pytest.raises(BatchMeterUsageError, match="1 of 2 records") as caught:
        result.raise_for_failures()

    (only,) = caught.value.exceptions
    assert isinstance(only, RecordNotMeteredError)
    assert 1 == only.position
    assert refusal is only.__cause__
    assert [records[1]] == [failed.record for failed in result.failed]
    assert merge(0, []).raise_for_failures() is None  # type: ignore[func-returns-value]


@given(st.integers(1, 200), st.integers())
def test_delays_are_jittered_within_bounds(failures: int, seed: int) -> None:
    """
    Between nothing and a bound that doubles up to the longest delay. Covers: T01
    """
    policy = RetryPolicy(base_delay=0.1, max_delay=20.0)

    delay = backoff(policy, failures, Random(seed).random())

    assert 0 <= delay <= min(20.0, 0.1 * 2.0 ** min(failures - 1, 30))
    assert math.isfinite(delay)


def test_the_bound_of_delays_doubles() -> None:
    """
    From the base delay after the first failure to the longest. Covers: T01
    """
    policy = RetryPolicy(base_delay=0.1, max_delay=2.0)

    assert [0.1, 0.2, 0.4, 0.8, 1.6, 2.0] == [backoff(policy, n, 1.0) for n in range(1, 7)]
    assert 1.0 == backoff(policy, 10**6, 0.5)


@pytest.mark.parametrize(
    ("hint", "low", "high"), [(3.0, 3.0, 3.0), (900.0, 5.0, 5.2), (0.0, 0, 0.2)]
)
def test_hints_of_the_service_are_honoured_within_bounds(
    hint: float, low: float, high: float
) -> None:
    """
    At least as long as asked, but no more than five seconds longer than our own. Covers: T02
    """
    error = ThrottlingException("ThrottlingException", retry_after=hint)

    delay = backoff(RetryPolicy(), 1, Random(1).random(), error)

    assert low <= delay <= high


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"base_delay": -1}, {"max_attempts": 0}, {"max_delay": 0}]
)
def test_policies_are_checked(wrong: dict[str, float]) -> None:
    """
    Times are above zero, attempts at least one.
    """
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
