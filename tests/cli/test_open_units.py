"""Units that are not settled yet: no command that sends ends with 0 while there are any."""

import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from support.commands import Shell, line, pipe, started, target, wait_for
from support.statuses import EMPTY_STATUS

from marketplace_metering_async.cli.commands.ledger_status import print_next, print_unsettled
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.ledger_options import report_to
from marketplace_metering_async.cli.output.console import PLAIN, Console, Log, LogFormat
from marketplace_metering_async.errors import ConfigurationError
from marketplace_metering_async.events import RelayBlocked
from marketplace_metering_async.ledger import HourState
from marketplace_metering_async.sandbox import Fault, FaultKind, Sandbox

ACCESS_DENIED = ConfigurationError("denied")
NOW = datetime(2026, 11, 28, 3, 30, tzinfo=UTC)
SETTLED = evolve(
    EMPTY_STATUS,
    recorded=9,
    metered=9,
    last_success_seconds=60,
    last_relay_seconds=60,
    last_usage_seconds=7200,
    records={HourState.METERED: 2},
    region_name="us-east-1",
    host="localhost",
)


@pytest.fixture
def usage(tmp_path: Path) -> Path:
    path = tmp_path / "usage.jsonl"
    path.write_text("\n".join(line(n) for n in (1, 2, 3)) + "\n")
    return path


def end_claims(path: Path) -> None:
    """Let the time pass for which a dead relay holds its claims."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE hour SET lease_until = 0 WHERE lease_until IS NOT NULL")


def test_what_a_dead_relay_holds_is_not_all_metered(
    sandbox: Sandbox, shell: Shell, tmp_path: Path, url: str, usage: Path
) -> None:
    """
    Killed and started again it ends with 3 until its claims are over. Newcomer H4.
    """
    sandbox.inject(Fault(kind=FaultKind.SLOW, seconds=600, max_hits=1))
    with started("send", "--ledger", url, *target(sandbox), usage) as running:
        wait_for(lambda: sandbox.calls["BatchMeterUsage"] > 0)
        running.kill()
        pipe(running.stderr).read()

    soon = shell("send", "--ledger", url, *target(sandbox), usage)
    relayed = shell("ledger", "relay", "--once", url, *target(sandbox)[:2])
    status = shell("ledger", "status", url, "--json").lines[0]
    shown = shell("ledger", "status", url)
    end_claims(tmp_path / "ledger.db")
    later = shell("send", "--ledger", url, *target(sandbox), usage)

    until = datetime.fromisoformat(status["claimed_until"])
    assert timedelta(0) < until - datetime.now(UTC) < timedelta(minutes=5)
    for done in (soon, relayed):
        assert Exit.UNDELIVERED == done.code
        assert "Run this again after " in done.err
        assert ": 15 units are claimed until then by a relay that may be dead." in done.err
    assert "what is in flight is claimed by a relay until" in shown.out
    assert "probably_metered" in later.out  # the service had acted, and the answer came to nobody
    assert "Run this again" not in later.err
    assert {"requests": 15} == sandbox.book.totals()


def test_what_is_not_sealed_yet_is_shown_with_its_time(
    sandbox: Sandbox, shell: Shell, url: str, usage: Path
) -> None:
    """
    An hour that is over, too, is sealed ten minutes after its first usage. Newcomer H4, M5.
    """
    imported = shell("ledger", "import", url, usage, "--product-code", "p")
    relayed = shell("ledger", "relay", "--once", url, *target(sandbox)[:2])
    shown = shell("ledger", "status", url)

    assert Exit.OK == imported.code  # what it is for is done: the usage is recorded
    assert "The next hours are sealed at " in imported.err
    assert Exit.UNDELIVERED == relayed.code
    assert "or let `ledger relay` run: 15 units are open" in relayed.err
    assert re.search(
        r"3 hours are sealed at ([\d-]+ )?\d\d:\d\d UTC, sent by ([\d-]+ )?\d\d:\d\d UTC, "
        "if a relay runs",  # with the date, late in the evening
        shown.out,
    )


def test_what_the_service_left_open_is_shown(
    sandbox: Sandbox, shell: Shell, url: str, usage: Path
) -> None:
    """
    A refusal of the account comes before what is open, and hides it from nobody. Newcomer H4.
    """
    sandbox.inject(
        Fault(kind=FaultKind.REFUSE, code="AccessDeniedException", status=403, max_hits=1)
    )

    refused = shell("send", "--ledger", url, *target(sandbox), usage)
    again = shell("send", "--ledger", url, *target(sandbox), usage)

    assert Exit.ACCOUNT == refused.code
    assert "Run this again: 15 units are frozen and wait to be sent." in refused.err
    assert Exit.OK == again.code


CLAIMED = (
    "Run this again after 03:33 UTC: 30,586 units are claimed until then by a relay that may be "
    "dead."
)
OPEN = (
    "Run this again at {}, or let `ledger relay` run: {} units are open, and the next of their "
    "hours are sealed then."
)


def test_a_relay_that_is_stopped_says_so(
    sandbox: Sandbox, shell: Shell, url: str, usage: Path
) -> None:
    """
    Also with --once: what it did not get to is open, and it was interrupted. Newcomer H4.
    """
    sandbox.inject(
        Fault(kind=FaultKind.REFUSE, code="AccessDeniedException", status=403, max_hits=1)
    )
    assert Exit.ACCOUNT == shell("send", "--ledger", url, *target(sandbox), usage).code
    sandbox.inject(Fault(kind=FaultKind.SLOW, seconds=2, max_hits=1))
    with started("ledger", "relay", "--once", url, *target(sandbox)[:2]) as running:
        wait_for(lambda: sandbox.calls["BatchMeterUsage"] > 1)
        running.terminate()
        running.communicate(timeout=30)

    assert Exit.INTERRUPTED == running.returncode
    assert {"requests": 15} == sandbox.book.totals()


LEFT: list[tuple[str, dict[str, Any]]] = [
    (
        CLAIMED,
        {
            "frozen": 30_586,
            "in_flight": 30_586,
            "claimed_until": NOW + timedelta(minutes=2, microseconds=1),
            "records": {HourState.FROZEN: 1025},
        },
    ),
    (
        "Run this again: 5 units are left over from a relay that is dead.",
        {"frozen": 5, "in_flight": 5, "claimed_until": NOW, "records": {HourState.FROZEN: 1}},
    ),
    (
        "Run this again at 03:35 UTC: 2 units are frozen and wait to be sent.",
        {
            "frozen": 7,
            "in_flight": 5,
            "next_send_at": NOW + timedelta(minutes=5),
            "records": {HourState.FROZEN: 2},
        },
    ),
    (
        "Run this again: 7 units are frozen and wait to be sent.",
        {"frozen": 7, "next_send_at": datetime(1970, 1, 1, tzinfo=UTC), "records": {"frozen": 1}},
    ),
    (
        OPEN.format("03:40 UTC", 785),
        {"open": 785, "next_seal_at": NOW + timedelta(minutes=10), "records": {"open": 12}},
    ),
    (
        OPEN.format("2026-11-29 00:30 UTC", 0),
        {"open": 0, "next_seal_at": NOW + timedelta(hours=21), "records": {"open": 120}},
    ),
    (
        "A copy: open hours wait for `ledger adopt-copy`.",
        {"open": 3, "next_seal_at": NOW, "is_unconfirmed_copy": True, "records": {"open": 1}},
    ),
]


@pytest.mark.parametrize(("text", "changes"), LEFT)
def test_each_kind_of_open_units_says_what_to_do(
    capsys: pytest.CaptureFixture[str], text: str, changes: dict[str, Any]
) -> None:
    """
    And when; a minute is rounded up, for then it is surely over. Zeros raise no alarm: newcomer M14
    """
    status = evolve(SETTLED, **changes)
    code = print_unsettled(status, NOW, Console(PLAIN))

    expected = Exit.UNDELIVERED if status.open or status.frozen else Exit.OK
    assert (expected, f"{text}\n") == (code, capsys.readouterr().err)


def test_nothing_open_is_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    """
    What has ended unmetered is not open: other codes speak of it.
    """
    over = evolve(SETTLED, ended={HourState.CONFLICT: 3}, records={HourState.CONFLICT: 1})

    assert Exit.OK == print_unsettled(SETTLED, NOW, Console(PLAIN))
    assert Exit.OK == print_unsettled(over, NOW, Console(PLAIN))
    assert "" == capsys.readouterr().err


NEXT: list[tuple[str, dict[str, Any]]] = [
    (
        "12 hours are sealed at 04:10 UTC, sent by 04:11 UTC, if a relay runs",
        {"next_seal_at": NOW + timedelta(minutes=40), "hours_at_next_seal": 12},
    ),
    (
        "1 hour is sealed at once, sent by 03:31 UTC, if a relay runs",
        {"next_seal_at": NOW - timedelta(minutes=40), "hours_at_next_seal": 1},
    ),
    (
        "90,000 hours are sealed at 04:10 UTC, sent by 04:17 UTC, if a relay runs",
        {"next_seal_at": NOW + timedelta(minutes=40), "hours_at_next_seal": 90_000},
    ),
    (
        "2 units are frozen and sent at 03:35 UTC, if a relay runs",
        {"frozen": 7, "in_flight": 5, "next_send_at": NOW + timedelta(minutes=5)},
    ),
    (
        "2 units are frozen and sent at 03:35 UTC, if a relay runs",
        {
            "frozen": Decimal("2.5"),
            "in_flight": Decimal("0.5"),
            "next_send_at": NOW + timedelta(minutes=5),
        },
    ),
]


@pytest.mark.parametrize(("text", "changes"), NEXT)
def test_status_says_what_happens_next(
    capsys: pytest.CaptureFixture[str], text: str, changes: dict[str, Any]
) -> None:
    """
    And when. Newcomer M5
    """
    print_next(evolve(SETTLED, **changes), NOW, Console(PLAIN))

    assert f"{text}\n" == capsys.readouterr().err


def test_zeros_are_all_metered(sandbox: Sandbox, shell: Shell, url: str, usage: Path) -> None:
    """
    Their hours stay open for a while, and raise no alarm. Newcomer M14
    """
    usage.write_text("\n".join(line(n, quantity=0) for n in (1, 2)) + "\n")

    sent = shell("send", "--ledger", url, *target(sandbox), usage)
    status = shell("ledger", "status", url)

    assert (Exit.OK, Exit.OK) == (sent.code, status.code)
    assert "oldest unsent" not in status.out
    assert "is lost" not in status.out


def test_the_status_says_when_a_relay_last_worked(sandbox: Sandbox, shell: Shell, url: str) -> None:
    """
    For whoever was woken by the alarm that none does.
    """
    add = ("--product-code", "p", "--account", "000000000001", "--dimension", "d")
    shell("ledger", "add", url, *add, "--quantity", "1")
    never = shell("ledger", "status", url).out
    shell("ledger", "relay", "--once", url, *target(sandbox)[:2])
    once = shell("ledger", "status", url).out

    assert "no relay has worked yet" in never
    assert "a relay last worked 0 min ago" in once


def test_a_relay_that_is_blocked_is_an_error_of_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    For whoever looks for errors, as the runbook says; with what is at stake as members.
    """
    denied = RelayBlocked(error=ACCESS_DENIED, seconds=60.0, units=7, first_loss_at=NOW)
    report_to(Console(Log(format=LogFormat.JSON)))(denied)
    in_json = json.loads(capsys.readouterr().err)
    report_to(Console(PLAIN))(denied)
    text = capsys.readouterr().err

    assert ("error", "RelayBlocked") == (in_json["level"], in_json["event"])
    assert in_json["message"].startswith("the relay is blocked, and goes on trying: ")
    assert (60.0, 7, NOW.isoformat()) == (
        in_json["seconds"],
        in_json["units"],
        in_json["first_loss_at"],
    )
    assert text.startswith("ERROR: the relay is blocked, and goes on trying: ")
    assert "7 units are unsent; the first is lost at 2026-11-28 03:30 UTC" in " ".join(text.split())
