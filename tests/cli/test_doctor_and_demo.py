"""`doctor` and `demo`, and the progress of what takes long."""

import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.commands import Shell, line, target

from marketplace_metering_async.aws.transport import Response
from marketplace_metering_async.cli.commands import demo, doctor
from marketplace_metering_async.cli.output import progress
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.sandbox import AccessKey, Book, Fault, FaultKind, Sandbox


def found(run_lines: list[dict[str, str]]) -> dict[str, str]:
    return {entry["check"]: entry["found"] for entry in run_lines}


def test_a_doctor_finds_all_well(
    sandbox: Sandbox, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Versions, credentials, region, endpoint, proxy, clock; and never calls BatchMeterUsage.
    """
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.51.3")
    done = shell("doctor", "--endpoint-url", sandbox.url)

    assert 0 == done.code, done.err
    assert {"ok"} == set(found(done.lines).values())
    assert {"python", "aiohttp", "credentials", "region", "endpoint", "proxy", "clock"} <= set(
        found(done.lines)
    )
    assert {"ResolveCustomer": 1} == dict(sandbox.calls)
    assert "…dbox" in done.err
    assert "access key sandbox" not in done.err


@pytest.mark.parametrize(
    ("release", "mark"),
    [
        ("3.40.1", "?"),
        ("3.44.5", "?"),
        ("3.44.6", "ok"),
        ("3.45.0", "?"),
        ("3.50.7", "ok"),
        ("3.51.2", "?"),
        ("3.51.3", "ok"),
        ("3.53.0", "ok"),
    ],
)
def test_a_doctor_knows_a_sqlite_that_may_damage_files(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, release: str, mark: str
) -> None:
    """
    The race in resetting the log was in it from 3.7.0 on. ledger M11. Covers: D14
    """
    monkeypatch.setattr(sqlite3, "sqlite_version", release)
    monkeypatch.delenv("AWS_REGION")
    (found,) = [one for one in shell("doctor").lines if one["check"] == "SQLite"]

    assert mark == found["found"]
    assert release in found["text"]


def test_a_doctor_tells_what_is_missing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No region: nothing more can be known.
    """
    monkeypatch.delenv("AWS_REGION")

    done = shell("doctor")

    assert (4, "no") == (done.code, found(done.lines)["configuration"])
    assert "no region" in done.err


def test_a_doctor_cannot_reach_a_dead_endpoint(shell: Shell) -> None:
    """
    And says why.
    """
    done = shell("doctor", "--endpoint-url", "http://127.0.0.1:9")

    assert (4, "no") == (done.code, found(done.lines)["network"])
    assert "127.0.0.1:9" in done.err


@pytest.mark.parametrize(
    ("code", "status", "ends"),
    [
        ("UnrecognizedClientException", 403, (4, "no")),
        ("AccessDeniedException", 403, (0, "?")),
        ("DisabledApiException", 400, (4, "no")),
        ("ThrottlingException", 400, (0, "?")),
        ("ExpiredTokenException", 403, (4, "no")),
        ("ExpiredTokenException", 400, (4, "no")),
    ],
)
def test_a_doctor_reads_how_the_service_says_no(
    sandbox: Sandbox, shell: Shell, code: str, status: int, ends: tuple[int, str]
) -> None:
    """
    Credentials that are refused are bad; a permission that is missing may be meant so.
    """
    fault = Fault(kind=FaultKind.REFUSE, operation="ResolveCustomer", code=code, status=status)
    sandbox.inject(fault)

    done = shell("doctor", "--endpoint-url", sandbox.url)

    assert ends == (done.code, found(done.lines)["access"])


def test_a_doctor_finds_wrong_keys(sandbox: Sandbox, shell: Shell) -> None:
    """
    The signature is verified, not only the id of the key.
    """
    sandbox.access_keys["sandbox"] = AccessKey("another")
    try:
        done = shell("doctor", "--endpoint-url", sandbox.url)
    finally:
        sandbox.access_keys.clear()

    assert (4, "no") == (done.code, found(done.lines)["access"])
    assert "Signature" in done.err


def test_a_doctor_finds_a_wrong_clock(
    sandbox: Sandbox, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    By the `Date` of an answer: hours are held until they are over by this machine's clock.
    """

    class Late(SystemClock):
        def now(self) -> datetime:
            return super().now() - timedelta(minutes=3)

    monkeypatch.setattr("marketplace_metering_async.cli.commands.doctor._CLOCK", Late())

    done = shell("doctor", "--endpoint-url", sandbox.url)

    assert (4, "no") == (done.code, found(done.lines)["clock"])
    assert re.search(r"-1(79|80|81) s from the endpoint's", done.err)


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 -1200", "now", "0"])
def test_a_date_that_is_none_is_no_clock(date: str) -> None:
    """
    What answers in the service's place may say anything.
    """
    response = Response(status=200, headers={"Date": date}, body=b"")

    assert "the endpoint does not tell the time" == doctor._clock(response).text


def test_hostile_text_is_shown_and_not_obeyed(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """
    Names of files and dimensions go to the terminal as text. Covers: A11, A17
    """
    evil = "\x1b[2J[red]"
    file = tmp_path / f"{evil}.jsonl"
    now = datetime.now(UTC).isoformat()
    file.write_text(f"{{\n{line(1, timestamp=now, dimension=evil)}")

    done = shell("send", "--coalesce", *target(sandbox), file)

    assert ["Rejected", "Held"] == done.statuses
    assert "\x1b[2J" not in done.err
    assert r"\x1b[2J[red].jsonl:1: expected" in done.err
    assert r":00Z           \x1b[2J[red]" in done.err


def test_the_demo_ends_equal(shell: Shell) -> None:
    """
    Twelve thousand records through faults, and the book is equal to the input.
    """
    done = shell("demo", "--seed", 7)

    assert 0 == done.code, done.err
    assert "12,000 records" in done.err
    assert "Equal to the last unit" in done.err
    (summary,) = done.lines
    assert (True, 12_000) == (summary["equal"], summary["records"])
    assert 12_000 == sum(summary["verdicts"].values())
    assert summary["seconds"] < 30
    assert {"Success", "Rejected", "CustomerNotSubscribed"} <= set(summary["verdicts"])
    for word in ("calls", "throttled", "retries", "isolated"):
        assert re.search(rf"^{word} +[1-9]", done.err, re.MULTILINE), word


def test_a_demo_that_differs_says_so(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One unit is enough.
    """

    class Thief(Book):
        def differences(self, *_: Any, **__: Any) -> list[str]:
            return ["000000000001 seats 2026-11-23T10:00Z: expected 5, metered 4"]

    monkeypatch.setattr("marketplace_metering_async.sandbox.world.Book", Thief)
    monkeypatch.setattr(demo, "_RECORDS", 200)

    done = shell("demo")

    assert (1, False) == (done.code, done.lines[0]["equal"])
    assert "expected 5, metered 4" in done.err
    assert "Not equal: 1 differences" in done.err


@pytest.mark.parametrize(
    "now",
    [
        datetime(2026, 11, 23, 12, 30, tzinfo=UTC),
        datetime(2026, 12, 1, 0, 10, tzinfo=UTC),
        datetime(2026, 12, 1, 5, 49, tzinfo=UTC),
        datetime(2026, 12, 1, 5, 51, tzinfo=UTC),
        datetime(2026, 12, 1, 6, 10, tzinfo=UTC),
    ],
)
def test_the_demo_has_its_records_at_any_time(now: datetime) -> None:
    """
    Also on the first of a month, when the service takes little of the days before.
    """
    usage = demo.usage(3, now)

    assert 12_000 == len(usage.records)
    assert 12_000 == len({record.key("p") for record in usage.records})
    assert all(now - timedelta(hours=21) < record.timestamp < now for record in usage.records)
    closed = now.replace(day=1, hour=6, minute=0) - timedelta(minutes=5)
    if now > closed:
        assert {now.month} == {record.timestamp.month for record in usage.records}
    assert usage.records == demo.usage(3, now).records


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    sandbox: Sandbox, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Every few seconds, with what holds it up, also while nothing moves.
    """
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.2)
    sandbox.inject(
        Fault(kind=FaultKind.ERROR_500, max_hits=3),
        Fault(kind=FaultKind.SLOW, seconds=1.5, max_hits=1),
    )

    done = shell("send", *target(sandbox), "-", stdin=line())

    assert 0 == done.code
    assert re.search(r"^metering: 0 records, 0/s \(trying again: Internal", done.err, re.MULTILINE)
