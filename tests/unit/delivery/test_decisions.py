"""Decisions: one table of what follows from a call, and laws that hold for all of it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st
from support.chunks import chunk_of
from support.memory import usage
from support.virtual import START

from marketplace_metering_async.aws import wire
from marketplace_metering_async.delivery import decisions, verdicts
from marketplace_metering_async.delivery.decisions import Decision
from marketplace_metering_async.delivery.model import AttemptHistory, Chunk, PendingRecord
from marketplace_metering_async.error_kinds import classify, may_have_been_applied
from marketplace_metering_async.errors import (
    InvalidResponseError,
    MarketplaceMeteringException,
    MeteringError,
    NoCredentialsError,
    NotProcessedError,
    OutOfWindowError,
    TransportError,
    UnexpectedError,
)
from marketplace_metering_async.flow.pacing import CallEnd
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.results import RecordResult, RecordStatus, Verdict
from marketplace_metering_async.service_codes import ErrorKind
from marketplace_metering_async.service_errors import MODELLED_ERRORS, TimestampOutOfBoundsException

S = RecordStatus
MOMENT: Final = 1_000.0
POLICY: Final = RetryPolicy()
BEFORE: Final = AttemptHistory(
    attempts=3,
    failures=2,
    repairs=1,
    first_attempt_at=950.0,
    error=NoCredentialsError(),
    request_id="before",
)
FIRST: Final = AttemptHistory()


def refusal(code: str, status: int = 400) -> MarketplaceMeteringException:
    kind = MODELLED_ERRORS.get(code, MarketplaceMeteringException)
    return kind(code, "text", status=status, request_id="now")


class Row(NamedTuple):
    """
    What follows from an error where the request left.

    Attributes:
        clean: The verdict on records without doubt; None: they have none yet.
        doubtful: The verdict on records in doubt.
        then: `returned` at once, `backs_off`, `refused` (to be searched), or `settled`.
        stops: What starts nothing new: its `lane`, or `all`.
        doubt: Whether the attempt leaves a doubt of its own.
        failure: Whether it counts as a failure of the service.
        begins: Whether a record's own time begins with it.
    """

    ended: CallEnd
    then: str
    clean: S | None = None
    doubtful: S | None = None
    stops: str = ""
    doubt: bool = False
    failure: bool = False
    begins: bool = True


_LANE: Final = Row(CallEnd.DELIVERED, "settled", S.UNPROCESSED, S.UNCONFIRMED, "lane")
_ALL: Final = _LANE._replace(stops="all")
_REFUSED: Final = Row(CallEnd.DELIVERED, "refused")
_THROTTLED: Final = Row(CallEnd.THROTTLED, "returned", begins=False)
_FAILED: Final = Row(CallEnd.FAILED, "backs_off", doubt=True, failure=True)

TABLE: Final[list[tuple[ErrorKind, MeteringError, Row]]] = [
    (ErrorKind.CONTENT, refusal("InvalidUsageDimensionException"), _REFUSED),
    (ErrorKind.CONTENT, refusal("RequestEntityTooLargeException", 413), _REFUSED),
    (ErrorKind.STATE, refusal("InvalidLicenseException"), _REFUSED),
    (ErrorKind.STATE, refusal("TimestampOutOfBoundsException"), _REFUSED),
    (ErrorKind.UNKNOWN, refusal("MoonPhaseException"), _REFUSED),
    (ErrorKind.PRODUCT, refusal("InvalidProductCodeException"), _LANE),
    (ErrorKind.ACCOUNT, refusal("AccessDeniedException", 403), _ALL),
    (ErrorKind.ACCOUNT, refusal("DisabledApiException"), _ALL),
    (ErrorKind.ACCOUNT, NoCredentialsError(), _ALL),
    (ErrorKind.CREDENTIALS, refusal("ExpiredTokenException", 403), _ALL),
    (ErrorKind.CLOCK, refusal("InvalidSignatureException", 403), _ALL),
    (ErrorKind.THROTTLE, refusal("ThrottlingException"), _THROTTLED),
    (ErrorKind.THROTTLE, refusal("TooManyRequestsException", 429), _THROTTLED),
    (ErrorKind.SERVICE, refusal("InternalServiceErrorException", 500), _FAILED),
    (ErrorKind.SERVICE, InvalidResponseError("HTML", 200), _FAILED),
    (ErrorKind.SERVICE, InvalidResponseError("HTML", 502), _FAILED),
    (ErrorKind.SERVICE, TransportError("reset", sent=True), _FAILED),
    (ErrorKind.SERVICE, TransportError("refused", sent=False), _FAILED._replace(doubt=False)),
]


def test_every_kind_of_error_is_in_the_table() -> None:
    """
    And each error in it is of the kind that it stands for.
    """
    assert set(ErrorKind) == {fault for fault, _, _ in TABLE}
    assert all(fault is classify(error) for fault, error, _ in TABLE)


def settled_positions(decision: Decision) -> list[int]:
    return [position for outcome in decision.settled for position in outcome.positions]


def returned_entries(decision: Decision) -> list[PendingRecord]:
    return [entry for part in decision.returned for entry in part.entries]


def open_entries(decision: Decision) -> list[PendingRecord]:
    refused = decision.refusal.chunk.entries if decision.refusal else []
    return returned_entries(decision) + refused


@pytest.mark.parametrize("before", [FIRST, BEFORE], ids=["first", "later"])
@pytest.mark.parametrize("doubt", [False, True], ids=["clean", "doubt"])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]!r}"[:60])
def test_what_follows_from_an_error(
    row: tuple[ErrorKind, MeteringError, Row],
    doubt: bool,  # noqa: FBT001
    before: AttemptHistory,
) -> None:
    """
    Every kind, with and without an earlier doubt, at the first attempt and at a later one.
    """
    _, error, expected = row
    history = evolve(before, doubt=doubt)
    chunk = chunk_of(usage(3), [history] * 3, first=10)

    decision = decisions.on_error(chunk, error, MOMENT, POLICY)

    after = AttemptHistory(
        attempts=before.attempts + 1,
        failures=before.failures + expected.failure,
        repairs=0,
        doubt=doubt or expected.doubt,
        first_attempt_at=before.first_attempt_at
        if before.first_attempt_at is not None or not expected.begins
        else MOMENT,
        error=error,
        request_id=getattr(error, "request_id", None),
    )
    status = expected.doubtful if doubt else expected.clean
    assert expected.ended is decision.ended
    assert error is decision.error
    stops = {"": None, "lane": (chunk.lane.whole, error), "all": (None, error)}
    assert stops[expected.stops] == decision.stop
    assert expected.failure is decision.failed
    assert (expected.then == "refused") is decision.progress
    assert not decision.taken
    assert decision.narrow is None
    if status is None:
        assert [] == settled_positions(decision)
        assert [after] * 3 == [entry.history for entry in open_entries(decision)]
        assert [10, 11, 12] == [entry.position for entry in open_entries(decision)]
    else:
        assert [10, 11, 12] == settled_positions(decision)
        assert {
            Verdict(
                status=status,
                error=error,
                attempts=after.attempts,
                request_id=after.request_id,
                ambiguous=doubt,
            )
        } == {outcome.verdict for outcome in decision.settled}
    assert (expected.then == "refused") == (decision.refusal is not None)
    if decision.refusal is not None:
        assert error is decision.refusal.error
        assert chunk.body == decision.refusal.chunk.body
    assert (expected.then == "backs_off") == decision.failed
    assert (expected.then in ("returned", "backs_off")) == (len(decision.returned) == 1)
    assert {0.0} >= {part.seconds for part in decision.returned}


@pytest.mark.parametrize("doubt", [False, True], ids=["clean", "doubt"])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]!r}"[:60])
def test_what_never_left_is_no_attempt(
    row: tuple[ErrorKind, MeteringError, Row],
    doubt: bool,  # noqa: FBT001
) -> None:
    """
    Whatever kept the request back (no keys, say) stops everything and adds no doubt.
    """
    error = row[1]
    history = evolve(BEFORE, doubt=doubt)

    decision = decisions.on_error(
        chunk_of(usage(2), [history] * 2), error, MOMENT, POLICY, sent=False, service_time=0.0
    )

    status = S.UNCONFIRMED if doubt else S.UNPROCESSED
    verdict = Verdict(status=status, error=error, attempts=3, request_id="before", ambiguous=doubt)
    assert [verdict, verdict] == [outcome.verdict for outcome in decision.settled]
    assert [0, 1] == settled_positions(decision)
    assert (
        Decision(ended=CallEnd.ABANDONED, settled=decision.settled, stop=(None, error), error=error)
        == decision
    )


@pytest.mark.parametrize("status", [302, 401, 403, 404, 413])
@pytest.mark.parametrize("size", [1, 2, 25])
def test_a_proxys_response_says_nothing_of_the_records(status: int, size: int) -> None:
    """
    It leaves a doubt, blames nobody, stops nothing; a request too large for it is halved. Core F9
    """
    error = InvalidResponseError("HTML", status)

    decision = decisions.on_error(chunk_of(usage(size)), error, MOMENT, POLICY)

    assert all(entry.history.doubt for entry in returned_entries(decision))
    assert size == len(returned_entries(decision))
    assert decision.stop is None
    assert decision.refusal is None
    assert (max(1, size // 2) if status == 413 else None) == decision.narrow


# What the service responded.

WORDS: Final = {
    # word: the verdict without and with an earlier doubt; None: it is sent again
    "Success": (S.SUCCESS, S.SUCCESS),
    "DuplicateRecord": (S.DUPLICATE_RECORD, S.DUPLICATE_RECORD),
    "CustomerNotSubscribed": (S.CUSTOMER_NOT_SUBSCRIBED, S.UNCONFIRMED),
    "Postponed": (S.UNCONFIRMED, S.UNCONFIRMED),
    wire.UNPROCESSED: (None, None),
    None: (None, None),
}


def reply_of(statuses: Sequence[str | None]) -> wire.Reply:
    ids = [f"id {n}" if status == "Success" else None for n, status in enumerate(statuses)]
    oddities = ["no answer for some of the records"] if None in statuses else []
    return wire.Reply(list(statuses), ids, oddities)


@pytest.mark.parametrize("before", [FIRST, BEFORE], ids=["first", "later"])
@pytest.mark.parametrize("doubt", [False, True], ids=["clean", "doubt"])
@pytest.mark.parametrize("word", WORDS)
def test_what_follows_from_a_response(
    word: str | None,
    doubt: bool,  # noqa: FBT001
    before: AttemptHistory,
) -> None:
    """
    Each word for all of a chunk; a record without one is sent again in doubt. Covers: R01
    """
    history = evolve(before, doubt=doubt)
    chunk = chunk_of(usage(3), [history] * 3, first=10)

    decision = decisions.on_reply(chunk, reply_of([word] * 3), "now", MOMENT, POLICY)

    status = WORDS[word][doubt]
    if status is not None:
        assert [10, 11, 12] == settled_positions(decision)
        (outcome,) = decision.settled
        assert (status, word, "now", before.attempts + 1, doubt) == (
            outcome.verdict.status,
            outcome.verdict.service_status,
            outcome.verdict.request_id,
            outcome.verdict.attempts,
            outcome.verdict.ambiguous,
        )
        assert reply_of([word] * 3).record_ids == list(outcome.record_ids)
        assert (
            Decision(ended=CallEnd.DELIVERED, settled=decision.settled, taken=True, progress=True)
            == decision
        )
        return
    assert [] == settled_positions(decision)
    (again,) = decision.returned
    (after,) = {entry.history for entry in again.entries}
    assert (
        AttemptHistory(
            attempts=before.attempts + 1,
            failures=before.failures + 1,
            doubt=doubt or word is None,
            first_attempt_at=MOMENT if before.first_attempt_at is None else before.first_attempt_at,
            error=after.error,
            request_id="now",
        )
        == after
    )
    assert (InvalidResponseError if word is None else NotProcessedError) is type(after.error)
    assert 0.0 == again.seconds
    assert (
        Decision(
            ended=CallEnd.FAILED,
            settled=decision.settled,
            returned=decision.returned,
            taken=word is not None,
            failed=True,
            error=after.error,
        )
        == decision
    )


def test_a_response_of_several_words_settles_what_it_answers() -> None:
    """
    What it leaves open is sent again, with the failures of the one that failed most often.
    """
    words = ["Success", wire.UNPROCESSED, None, "DuplicateRecord", "Success"]
    histories = [FIRST, BEFORE, FIRST, FIRST, evolve(FIRST, doubt=True)]
    chunk = chunk_of(usage(5), histories, first=10)

    decision = decisions.on_reply(chunk, reply_of(words), "now", MOMENT, POLICY)

    assert [10, 13, 14] == sorted(settled_positions(decision))
    assert {10: "id 0", 13: None, 14: "id 4"} == {
        position: record_id
        for outcome in decision.settled
        for position, record_id in zip(outcome.positions, outcome.record_ids, strict=True)
    }
    assert {10: False, 13: False, 14: True} == {
        position: outcome.verdict.ambiguous
        for outcome in decision.settled
        for position in outcome.positions
    }
    (again,) = decision.returned
    assert {11: (4, 3, False), 12: (1, 1, True)} == {
        entry.position: (entry.history.attempts, entry.history.failures, entry.history.doubt)
        for entry in again.entries
    }
    assert 3 == max(entry.history.failures for entry in again.entries)
    assert (CallEnd.DELIVERED, True, True, True) == (
        decision.ended,
        decision.taken,
        decision.progress,
        decision.failed,
    )
    assert decision.error is not None


# When it is over.


@pytest.mark.parametrize("kind", ["error", "unprocessed"])
@pytest.mark.parametrize(
    ("failures", "first_attempt_at", "policy", "over"),
    [
        (0, None, RetryPolicy(max_attempts=1), True),
        (0, None, RetryPolicy(max_attempts=2), False),
        (1, 999.0, RetryPolicy(max_attempts=2), True),
        (4, 100.0, RetryPolicy(timeout=900.0), True),
        (4, 100.1, RetryPolicy(timeout=900.0), False),
        (3, 0.0, RetryPolicy(timeout=900.0), False),
        (90, 999.0, RetryPolicy(), False),
    ],
)
def test_a_record_ends_after_its_attempts_or_its_own_time(
    kind: str,
    failures: int,
    first_attempt_at: float | None,
    policy: RetryPolicy,
    over: bool,  # noqa: FBT001
) -> None:
    """
    That many failures; or the time since its first attempt, and five failures at least. Core F11
    """
    history = AttemptHistory(attempts=9, failures=failures, first_attempt_at=first_attempt_at)
    chunk = chunk_of(usage(2), [history] * 2)
    error = refusal("InternalServiceErrorException", 500)

    if kind == "error":
        decision = decisions.on_error(chunk, error, MOMENT, policy)
    else:
        reply = reply_of([wire.UNPROCESSED] * 2)
        decision = decisions.on_reply(chunk, reply, "now", MOMENT, policy)

    assert decision.failed
    assert ([0, 1] if over else []) == settled_positions(decision)
    assert ([] if over else [0, 1]) == [entry.position for entry in returned_entries(decision)]
    status = S.UNCONFIRMED if kind == "error" else S.UNPROCESSED
    for outcome in decision.settled:
        assert (status, 10) == (outcome.verdict.status, outcome.verdict.attempts)
        assert outcome.verdict.error is decision.error


def test_throttles_end_no_record() -> None:
    """
    However many there were, and however long they took. Core F11
    """
    history = AttemptHistory(attempts=900, failures=99, first_attempt_at=0.0)
    policy = RetryPolicy(timeout=1.0, max_attempts=1)

    decision = decisions.on_error(
        chunk_of(usage(1), [history]), refusal("ThrottlingException"), MOMENT, policy
    )

    assert () == tuple(decision.settled)
    (entry,) = returned_entries(decision)
    assert (901, 99, 0.0) == (
        entry.history.attempts,
        entry.history.failures,
        entry.history.first_attempt_at,
    )


# Credentials and clock that were corrected, and bugs.


def test_repairs_count_in_a_row() -> None:
    """
    Two are sent again at once, the third stops everything; another end of a call begins anew.
    """
    error = refusal("ExpiredTokenException", 403)
    chunk = chunk_of(usage(2))
    for repairs in (1, 2):
        decision = decisions.on_repaired(chunk, error, MOMENT)
        (again,) = decision.returned
        assert {repairs} == {entry.history.repairs for entry in again.entries}
        assert 0.0 == again.seconds
        assert (
            Decision(ended=CallEnd.DELIVERED, returned=decision.returned, error=error) == decision
        )
        chunk = evolve(chunk, histories=[entry.history for entry in again.entries])
    throttled = decisions.on_error(chunk, refusal("ThrottlingException"), MOMENT, POLICY)
    assert {0} == {entry.history.repairs for entry in returned_entries(throttled)}

    third = decisions.on_repaired(chunk, error, MOMENT)

    assert (
        Decision(ended=CallEnd.DELIVERED, settled=third.settled, stop=(None, error), error=error)
        == third
    )
    assert [(S.UNPROCESSED, 3)] * 2 == [
        (outcome.verdict.status, outcome.verdict.attempts) for outcome in third.settled
    ]


def test_one_record_that_was_repaired_for_too_often_stops_all() -> None:
    """
    Whoever travels with it would be refused for the same keys.
    """
    chunk = chunk_of(usage(2), [evolve(FIRST, repairs=2), FIRST])

    decision = decisions.on_repaired(chunk, refusal("ExpiredTokenException", 403), MOMENT)

    assert (None, decision.error) == decision.stop
    assert [0, 1] == settled_positions(decision)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("doubt", [False, True])
def test_a_bug_ends_the_records_that_it_touched(left: bool, doubt: bool) -> None:  # noqa: FBT001
    """
    With the exception as the cause and their true doubt, and stops nothing else. Core F9
    """
    cause = KeyError("a secret")
    chunk = chunk_of(usage(2), [evolve(BEFORE, doubt=doubt)] * 2)

    decision = decisions.on_bug(chunk, cause, sent=left)

    assert isinstance(decision.error, UnexpectedError)
    assert cause is decision.error.__cause__
    assert "secret" not in f"{decision.error}{decision.error!r}"
    assert (
        Decision(ended=CallEnd.FAILED, settled=decision.settled, error=decision.error) == decision
    )
    status = S.UNCONFIRMED if left or doubt else S.UNPROCESSED
    assert [(status, 3 + left, left or doubt)] * 2 == [
        (outcome.verdict.status, outcome.verdict.attempts, outcome.verdict.ambiguous)
        for outcome in decision.settled
    ]


# Records that are ahead of the service's clock.

NOW: Final = START.timestamp()
OUT_OF_BOUNDS: Final = TimestampOutOfBoundsException(
    "TimestampOutOfBoundsException", "", status=400, request_id="now"
)


def ahead_by(seconds: float) -> PendingRecord:
    stamp = START.fromtimestamp(NOW + seconds, START.tzinfo)
    return PendingRecord(0, usage(1, timestamp=stamp)[0], FIRST)


@given(
    st.lists(
        st.tuples(st.integers(-3600, 1200) | st.integers(890, 910), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    st.floats(0, 0.99),
)
@example([(15 * 60, False)], 0.0)
def test_records_ahead_of_the_services_clock_rest_once(
    stamps: list[tuple[int, bool]], fraction: float
) -> None:
    """
    By at most 15 minutes until they are valid, and less than a minute longer; those further ahead
    are rejected; the others are sent at once; those that rested are searched. Core F6
    """
    entries = [
        ahead_by(seconds)._replace(position=n, history=evolve(BEFORE, rested=rested))
        for n, (seconds, rested) in enumerate(stamps)
    ]
    chunk = chunk_of([entry.record for entry in entries], [entry.history for entry in entries])
    time = NOW + fraction

    decision = decisions.on_error(chunk, OUT_OF_BOUNDS, MOMENT, POLICY, service_time=time)

    early = {n for n, (seconds, rested) in enumerate(stamps) if seconds > fraction and not rested}
    assert (CallEnd.DELIVERED, True, False, None, OUT_OF_BOUNDS) == (
        decision.ended,
        decision.progress,
        decision.failed,
        decision.stop,
        decision.error,
    )
    assert (not early) == (decision.refusal is not None)
    if not early:
        assert len(stamps) == len(open_entries(decision))
        return
    too_early = {n for n in early if stamps[n][0] > 15 * 60 + fraction}
    assert too_early == set(settled_positions(decision))
    for outcome in decision.settled:
        assert S.REJECTED is outcome.verdict.status
        assert isinstance(outcome.verdict.error, OutOfWindowError)
    resting = {}
    for part in decision.returned:
        for entry in part.entries:
            resting[entry.position] = part.seconds
            assert stamps[entry.position][1] or entry.position in early or not entry.history.rested
            assert entry.history.attempts == BEFORE.attempts + 1
            if entry.position in early:
                assert entry.history.rested
    assert set(range(len(stamps))) - too_early == set(resting)
    for position, seconds in resting.items():
        needed = entries[position].record.epoch - time
        if position in early:
            assert needed + 1 <= seconds < needed + 61
        else:
            assert 0 == seconds


def test_records_of_one_minute_rest_together() -> None:
    """
    Few calls carry them then; nobody rests for a later one. Core F6
    """
    seconds = [1, 29, 59, 31, 60]  # the clock shows half past twelve
    chunk = chunk_of([ahead_by(s).record for s in seconds])

    decision = decisions.on_error(chunk, OUT_OF_BOUNDS, MOMENT, POLICY, service_time=NOW)

    assert [([0, 1, 2, 3], 60.0), ([4], 61.0)] == [
        ([entry.position for entry in part.entries], part.seconds) for part in decision.returned
    ]
    assert 1 == len({id(entry.history) for entry in returned_entries(decision)})


@pytest.mark.parametrize("error", [OUT_OF_BOUNDS, refusal("InvalidLicenseException")])
def test_only_a_refusal_of_time_with_the_services_time_lets_rest(
    error: MarketplaceMeteringException,
) -> None:
    """
    Any other is searched at once.
    """
    chunk = chunk_of([ahead_by(60).record])
    time = None if error is OUT_OF_BOUNDS else NOW

    decision = decisions.on_error(chunk, error, MOMENT, POLICY, service_time=time)

    assert decision.refusal is not None
    assert () == tuple(decision.returned)


# Laws of all of them.

histories_before = st.builds(
    AttemptHistory,
    attempts=st.integers(0, 9),
    failures=st.integers(0, 6),
    repairs=st.integers(0, 3),
    doubt=st.booleans(),
    rested=st.booleans(),
    first_attempt_at=st.none() | st.floats(0, MOMENT),
)
policies = st.builds(
    RetryPolicy,
    timeout=st.sampled_from([1.0, 900.0]),
    max_attempts=st.none() | st.integers(1, 9),
)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    """A chunk whose records share histories, as they do after they travelled together."""
    shared = draw(st.lists(histories_before, min_size=1, max_size=4))
    size = draw(st.integers(1, 25))
    chosen = draw(st.lists(st.sampled_from(shared), min_size=size, max_size=size))
    records = [
        ahead_by(draw(st.integers(-9000, 1200)))._replace(position=n).record for n in range(size)
    ]
    return chunk_of(records, chosen, first=draw(st.integers(0, 1000)))


@st.composite
def calls(draw: st.DrawFn) -> tuple[Chunk, Decision, bool, bool]:
    """A chunk, what was decided on it, whether it left, and whether that attempt is in doubt."""
    chunk, policy = draw(chunks()), draw(policies)
    kind = draw(st.sampled_from(["error", "reply", "repaired", "bug"]))
    left = draw(st.booleans()) if kind in ("error", "bug") else True
    if kind == "reply":
        size = len(chunk)
        words = draw(st.lists(st.sampled_from(list(WORDS)), min_size=size, max_size=size))
        decision = decisions.on_reply(chunk, reply_of(words), "now", MOMENT, policy)
        return chunk, decision, left, False
    if kind == "bug":
        return chunk, decisions.on_bug(chunk, KeyError(), sent=left), left, left
    _, error, _ = draw(st.sampled_from(TABLE))
    if kind == "repaired":
        return chunk, decisions.on_repaired(chunk, error, MOMENT), left, False
    time = draw(st.none() | st.just(NOW))
    decision = decisions.on_error(chunk, error, MOMENT, policy, sent=left, service_time=time)
    return chunk, decision, left, left and may_have_been_applied(error)


@given(calls())
def test_every_record_is_settled_returned_or_searched(
    call: tuple[Chunk, Decision, bool, bool],
) -> None:
    """
    Once, and as itself. Covers: S19
    """
    chunk, decision, _, _ = call
    still_open = open_entries(decision)

    places = settled_positions(decision) + [entry.position for entry in still_open]

    assert list(chunk.positions) == sorted(places)
    record_at = dict(zip(chunk.positions, chunk.records, strict=True))
    assert all(entry.record is record_at[entry.position] for entry in still_open)
    assert all(part.entries for part in decision.returned)
    assert all(len(outcome.positions) == len(outcome.record_ids) for outcome in decision.settled)


@given(calls())
def test_doubt_is_never_forgotten(call: tuple[Chunk, Decision, bool, bool]) -> None:
    """
    What may have been applied, now or before, is never called not metered.
    """
    chunk, decision, _, doubt = call
    before = dict(zip(chunk.positions, chunk.histories, strict=True))

    for entry in open_entries(decision):
        if before[entry.position].doubt or doubt:
            assert entry.history.doubt
    for outcome in decision.settled:
        for position in outcome.positions:
            if before[position].doubt or doubt:
                assert outcome.verdict.ambiguous
                assert RecordResult(position, None, outcome.verdict).metered is not False


@given(calls())
def test_attempts_rise_by_one_where_the_request_left(
    call: tuple[Chunk, Decision, bool, bool],
) -> None:
    """
    And nowhere else; a throttle is no failure, nor does a record's own time begin with it.
    """
    chunk, decision, left, _ = call
    before = dict(zip(chunk.positions, chunk.histories, strict=True))

    for outcome in decision.settled:
        assert {before[position].attempts + left for position in outcome.positions} == {
            outcome.verdict.attempts
        }
    for position, _, history in open_entries(decision):
        old = before[position]
        assert old.attempts + 1 == history.attempts
        assert old.failures + decision.failed == history.failures
        assert history.rested or not old.rested
        if decision.ended is CallEnd.THROTTLED or old.first_attempt_at is not None:
            assert old.first_attempt_at == history.first_attempt_at
        else:
            assert MOMENT == history.first_attempt_at


@given(calls())
def test_histories_stay_shared(call: tuple[Chunk, Decision, bool, bool]) -> None:
    """
    Records that went the same way hold one object, for there may be millions of them.
    """
    chunk, decision, _, _ = call
    before = dict(zip(chunk.positions, map(id, chunk.histories), strict=True))
    after: dict[tuple[object, ...], set[int]] = {}

    for position, _, history in open_entries(decision):
        way = (before[position], history.rested, type(history.error))
        after.setdefault(way, set()).add(id(history))

    assert all(1 == len(objects) for objects in after.values())


@given(calls())
def test_what_stops_says_why_and_returns_nothing(
    call: tuple[Chunk, Decision, bool, bool],
) -> None:
    """
    A stop has its error; whoever is left open for the service's fault backs off.
    """
    _, decision, _, _ = call

    if decision.stop is not None:
        assert decision.error is not None
        assert [] == open_entries(decision)
    if decision.failed:
        assert all(
            max(entry.history.failures for entry in part.entries) > 0 for part in decision.returned
        )
    if decision.ended in (CallEnd.THROTTLED, CallEnd.ABANDONED):
        assert not decision.progress


@given(histories_before, st.sampled_from([row for row in TABLE if row[2].then == "refused"]))
def test_only_content_met_alone_settles_a_doubt(
    history: AttemptHistory, row: tuple[ErrorKind, MeteringError, Row]
) -> None:
    """
    Time, state and codes that nobody has heard of do not.
    """
    fault, error, _ = row
    assert isinstance(error, MarketplaceMeteringException)
    entry = ahead_by(0)._replace(position=7, history=history)

    outcome = verdicts.outcome(entry, verdicts.refused_alone(error, history))

    result = RecordResult(7, None, outcome.verdict)
    assert [7] == list(outcome.positions)
    assert history.doubt is outcome.verdict.ambiguous
    assert history.attempts == outcome.verdict.attempts
    if history.doubt:
        assert (result.metered is False) == (fault is ErrorKind.CONTENT)
    else:
        assert result.metered is False
        assert (result.status is S.REJECTED) == (fault is not ErrorKind.UNKNOWN)
