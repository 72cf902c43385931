"""What a person may say of usage that has ended, without a store."""

from typing import Any

import pytest
from attrs import evolve, fields_dict

from marketplace_metering_async import CannotResolveError, HourState
from marketplace_metering_async.ledger.frozen_record import QUANTITY, digest
from marketplace_metering_async.ledger.model import ENDED, STRANDED, UsageKey, name_of
from marketplace_metering_async.ledger.resolutions import (
    EndedHour,
    ended_hours,
    fates_of_taken,
    require_all,
    require_ended,
    require_no_claim,
    require_note,
    require_stranded,
    require_unbilled,
    rows_of,
    state_of_taken,
    state_resolved,
)

KEY = UsageKey("product", "111122223333", "", "", "requests")
STAMP = 1_795_435_200
HOUR = EndedHour(
    hour_id=4,
    hour=STAMP,
    state=HourState.REJECTED,
    key=KEY,
    license_product="",
    stamp=STAMP,
    quantity=5_000_000,
    events=1,
    member=QUANTITY,
    region_name="us-east-1",
    digest=digest("us-east-1", KEY, STAMP, 5_000_000, QUANTITY, license_product=""),
    in_doubt=False,
)
REFUSED = (
    HourState.NOT_SUBSCRIBED,
    HourState.CONFLICT,
    HourState.REJECTED,
    HourState.TOO_LATE,
)


def test_names_are_those_of_history() -> None:
    """
    Each counts once, in the order in which rows are locked.
    """
    assert ([2, 10], [3]) == rows_of(["hour-10", "stranded-3", "hour-2", "hour-10"])
    for wrong in ("10", "hour-", "hour-x", "day-3", "hour-²"):
        with pytest.raises(ValueError, match="expected entries of history"):
            rows_of([wrong])


def test_a_note_says_something() -> None:
    """
    For those who read the history later.
    """
    assert "seen in CloudTrail" == require_note("  seen in CloudTrail\n")
    for wrong in ("", "  ", "x" * 1001, "a\0b", "a\udcff"):
        with pytest.raises(ValueError, match="note: expected 1 to 1000 characters"):
            require_note(wrong)


@pytest.mark.parametrize("state", list(HourState))
def test_only_what_has_ended_is_resolved(state: HourState) -> None:
    """
    What is open, frozen (a relay may hold it), metered or billed elsewhere is not. ledger H8
    """
    if state in ENDED:
        require_ended("hour-4", state)
    else:
        with pytest.raises(CannotResolveError, match=f"hour-4 is {state}: only usage that has"):
            require_ended("hour-4", state)


@pytest.mark.parametrize("in_doubt", [False, True])
@pytest.mark.parametrize("state", [state for state in HourState if state not in STRANDED])
def test_only_what_the_service_surely_does_not_have_is_billed_again(
    state: HourState, *, in_doubt: bool
) -> None:
    """
    By a person's word, or refused while no attempt was in doubt.
    """
    hour = evolve(HOUR, state=state, in_doubt=in_doubt)
    if state is HourState.NOT_METERED or (state in REFUSED and not in_doubt):
        require_unbilled(hour)
    else:
        with pytest.raises(CannotResolveError, match="may be billed already"):
            require_unbilled(hour)


def test_what_was_damaged_is_not_billed_again() -> None:
    """
    Its quantity may be wrong.
    """
    with pytest.raises(CannotResolveError, match="does not match its digest"):
        require_unbilled(evolve(HOUR, state=HourState.NOT_METERED, quantity=6_000_000))


def test_what_is_not_there_is_named() -> None:
    """
    It may have been pruned.
    """
    require_all([1, 2], [2, 1], "hour")
    with pytest.raises(CannotResolveError, match="hour-2 is not in the ledger"):
        require_all([1, 2, 3], [1], "hour")


def test_hours_are_read_from_their_rows() -> None:
    """
    All that are asked for, or none; one that was never sealed has no record to speak of.
    """
    row = {name: getattr(HOUR, name) for name in fields_dict(EndedHour) if name != "key"}
    row |= {"name": name_of(KEY), "state": "rejected"}

    assert [HOUR] == ended_hours([4], [dict(row)])
    with pytest.raises(CannotResolveError, match="hour-5 is not in the ledger"):
        ended_hours([4, 5], [dict(row)])
    with pytest.raises(CannotResolveError, match="hour-4 is open"):
        ended_hours([4], [row | {"state": "open", "digest": None}])


def test_what_was_never_sent_can_only_be_written_off() -> None:
    """
    Nobody can have found it with the service, unless another ledger may have sent it. What is
    metered is so.
    """
    require_stranded("stranded-1", HourState.MONTH_OVER, HourState.WRITTEN_OFF)
    for after in (HourState.METERED, HourState.NOT_METERED, HourState.WRITTEN_OFF):
        require_stranded("stranded-1", HourState.UNCONFIRMED, after)
    with pytest.raises(CannotResolveError, match="was never sent"):
        require_stranded("stranded-1", HourState.MONTH_OVER, HourState.METERED)
    with pytest.raises(CannotResolveError, match="stranded-1 is metered"):
        require_stranded("stranded-1", HourState.METERED, HourState.NOT_METERED)


def test_nothing_is_rebound_while_a_relay_sends() -> None:
    """
    Its answers would be of the old host.
    """
    require_no_claim(has_claim=False)
    with pytest.raises(CannotResolveError, match="stop all relays first"):
        require_no_claim(has_claim=True)


def test_words_are_known_ones() -> None:
    """
    And name a state.
    """
    words: dict[str, Any] = {"metered": "metered", "not_metered": "not_metered"}
    assert words == {word: state_resolved(word) for word in words}
    with pytest.raises(ValueError, match="as_: expected one of metered, not_metered, written_off"):
        state_resolved("rejected")
    with pytest.raises(ValueError, match="taken: expected one of billed, send, written_off"):
        state_of_taken("keep", "127.0.0.1", 3)


@pytest.mark.parametrize(
    ("host", "units", "asks"),
    [
        ("127.0.0.1", 3, True),
        ("127.0.0.1", 0, False),
        ("metering.marketplace.us-east-1.amazonaws.com", 3, False),
        ("metering.marketplace.cn-north-1.amazonaws.com.cn", 3, False),
        ("metering-marketplace.eusc-de-east-1.amazonaws.eu", 3, False),
        ("metering.marketplace.us-iso-east-1.c2s.ic.gov", 3, False),
        ("vpce-0a1-b2.metering-marketplace.us-east-1.vpce.amazonaws.com", 3, False),
        ("metering.evil-amazonaws.com", 3, True),
        ("metering.marketplace.evil-amazonaws.com", 3, True),
        ("ec2-203-0-113-9.compute-1.amazonaws.com:8765", 3, True),
        ("sandbox-1234.us-east-1.elb.amazonaws.com", 3, True),
        (None, 0, False),
    ],
)
def test_what_a_sandbox_has_taken_is_asked_for(host: str | None, units: int, *, asks: bool) -> None:
    """
    It has billed nobody, also where it runs on a machine at AWS. In every partition, the service
    itself has.
    """
    assert HourState.FROZEN is state_of_taken("send", host, units)
    if asks:
        with pytest.raises(CannotResolveError, match=r"say what becomes of 3 units that"):
            state_of_taken(None, host, units)
    else:
        assert None is state_of_taken(None, host, units)


def test_what_is_too_late_to_be_sent_again_is_not_metered() -> None:
    """
    And may be billed in another hour.
    """
    taken = [(1, 100), (2, 101)]

    assert {HourState.WRITTEN_OFF: [1, 2]} == fates_of_taken(HourState.WRITTEN_OFF, taken, 100)
    assert {HourState.NOT_METERED: [1], HourState.FROZEN: [2]} == fates_of_taken(
        HourState.FROZEN, taken, 100
    )
