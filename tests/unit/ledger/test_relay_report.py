"""What a round came to, in figures and in words for people."""

from typing import Any

from support.claims import CLAIM

from marketplace_metering_async.events import UsageEndedUnmetered, WarningIssued
from marketplace_metering_async.ledger.model import HourState, Settlement
from marketplace_metering_async.ledger.relay_report import RelayNews


def heard(state: HourState, before: HourState = HourState.FROZEN) -> Settlement:
    return Settlement(claim=CLAIM, state=state, status=state.value, before=before)


def test_verdicts_are_counted_and_what_ended_is_reported() -> None:
    """
    What stays frozen is returned.
    """
    news, said = RelayNews(), list[Any]()
    report = news.report
    empty = report.is_empty
    for state in (HourState.METERED, HourState.CONFLICT, HourState.FROZEN):
        news.hear(heard(state))
    news.tell(said.append)

    assert (True, False) == (empty, report.is_empty)
    assert (1, 5, 1) == (report.metered, report.units, report.returned)
    assert {HourState.CONFLICT: 1} == report.ended
    assert [UsageEndedUnmetered(state="conflict", records=1)] == said


def test_a_success_that_came_late_is_an_alarm() -> None:
    """
    A person may have billed it otherwise meanwhile. ledger H8
    """
    news, said = RelayNews(), list[Any]()
    news.hear(heard(HourState.METERED, HourState.WRITTEN_OFF))
    news.hear(heard(HourState.METERED, HourState.REOPENED))
    news.tell(said.append)

    assert (1, 5) == (news.report.metered, news.report.units)
    off, reopened = (event.text for event in said if isinstance(event, WarningIssued))
    assert off == (
        "bill none of it again: 1 records that had ended as written_off are metered after all"
    )
    assert reopened.startswith("ask AWS Support for a refund: 1 records are metered")
