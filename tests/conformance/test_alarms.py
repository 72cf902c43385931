"""Each alarm fires at its fault, and no other; a healthy week fires none. By Prometheus itself."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.memory import MemoryService, client_of
from support.virtual import VirtualClock, run_virtual

import marketplace_metering_async.ledger
from marketplace_metering_async import RetryPolicy, UsageLedger, UsageRecord
from marketplace_metering_async.sandbox import FaultKind, Refusal

ALARMS = files(marketplace_metering_async.ledger).joinpath("alerts.yml").read_text("utf-8")
FIRED = 'count by (alertname) (max_over_time(ALERTS{alertstate="firing"}[8d]))'
FIRES = 'count by (alertname) (ALERTS{alertstate="firing"})'
DENIED = Refusal("AccessDeniedException", "not authorized", 400)
WRITTEN = 'node_textfile_mtime_seconds{file="/var/lib/node_exporter/metering.prom"}'
MORNING = datetime(2026, 11, 23, 8, tzinfo=UTC)
LAST_EVENING = datetime(2026, 11, 30, 21, tzinfo=UTC)
ACCOUNTS = ("000000000001", "000000000002")


def promtool() -> str | None:
    """Return the path of promtool, by METERING_TEST_PROMTOOL or on PATH."""
    return shutil.which(os.environ.get("METERING_TEST_PROMTOOL", "promtool"))


pytestmark = pytest.mark.skipif(
    promtool() is None,
    reason="no promtool on PATH, nor named by METERING_TEST_PROMTOOL: .ci/run unpacks Debian's",
)


class Run:
    """
    A ledger in use, over virtual time: usage every half hour, a relay and a look every few minutes.

    Attributes:
        fault: What goes wrong with each request from now on.
        is_used: Whether usage comes in.
        is_relayed: Whether a relay runs.
        is_watched: Whether the ledger's metrics can be had.
        is_written: Whether the file is written anew that the node exporter reads, where it does.
    """

    def __init__(self, folder: Path, start: datetime, minutes: int) -> None:
        self.fault: FaultKind | Refusal | None = None
        self.is_used = self.is_relayed = self.is_watched = True
        self.is_written: bool | None = None
        self.clock = VirtualClock(start)
        self.minutes = minutes
        self.file = folder / "usage.db"
        self.looks: list[dict[str, str]] = []
        service = MemoryService(lambda number, body: self.fault, clock=self.clock)
        self.client = client_of(
            service,
            clock=self.clock,
            retry=RetryPolicy(timeout=20.0, attempt_timeout=5.0),
            region_name="us-east-1",
        )
        self.ledger = self._opened()

    def _opened(self) -> UsageLedger:
        return UsageLedger.open(
            f"sqlite:///{self.file}", clock=self.clock, observer=lambda event: None
        )

    @asynccontextmanager
    async def reopened(self) -> AsyncIterator[None]:
        """Let go of the ledger meanwhile."""
        await self.ledger.aclose()
        yield
        self.ledger = self._opened()
        await self.ledger.__aenter__()

    async def go_on(self, **time: float) -> None:
        """Let time pass."""
        end = self.clock.now() + timedelta(**time)
        while self.clock.now() < end:
            now = self.clock.now()
            if self.is_used and now.minute % 30 < self.minutes:
                for account in ACCOUNTS:
                    await self.ledger.add_usage(
                        product_code="p",
                        customer_aws_account_id=account,
                        dimension="requests",
                        quantity="2.5",
                    )
            self.looks.append(await self._seen())
            if self.is_relayed:
                await self.ledger.relay_once(self.client)
            next_at = now + timedelta(minutes=self.minutes)
            await asyncio.sleep(max(0.0, (next_at - self.clock.now()).total_seconds()))

    async def _seen(self) -> dict[str, str]:
        """Return what Prometheus gets: of a file that nobody writes what was in it last."""
        if self.is_written is False:
            return self.looks[-1]
        look = await self._look() if self.is_watched else {}
        if self.is_written:
            look[WRITTEN] = str(len(self.looks) * self.minutes * 60)  # promtool begins at 0
        return look

    async def _look(self) -> dict[str, str]:
        text = await self.ledger.metrics()
        return dict(re.findall(r"^([^#\s]\S*(?:\{.*\})?) (\S+)$", text, re.MULTILINE))

    def series(self) -> list[dict[str, str]]:
        """Return what was looked at as series for promtool."""
        names = sorted({name for look in self.looks for name in look})
        return [
            {"series": _labelled(name), "values": " ".join(_values(name, self.looks))}
            for name in names
        ]


def _labelled(name: str) -> str:
    own = 'instance="ledger:9177",job="metering"'
    metric, brace, labels = name.partition("{")
    return f"{metric}{{{own},{labels}" if brace else f"{metric}{{{own}}}"


def _values(name: str, looks: list[dict[str, str]]) -> list[str]:
    return [look.get(name, "stale") for look in looks]


def judged(run: Run, *expected: str, folder: Path, last: Sequence[str] | None = None) -> str:
    """
    Return what promtool has to say if others than the alarms *expected* have fired.

    In the end those fire yet, or the *last* ones.
    """
    (folder / "alerts.yml").write_text(ALARMS)
    end = f"{(len(run.looks) - 1) * run.minutes}m"
    each = f"{run.minutes}m"
    test = {
        "interval": each,
        "input_series": run.series(),
        "promql_expr_test": [
            {"expr": expr, "eval_time": end, "exp_samples": samples_of(names)}
            for expr, names in ((FIRED, expected), (FIRES, expected if last is None else last))
        ],
    }
    tests = {"rule_files": ["alerts.yml"], "evaluation_interval": each, "tests": [test]}
    return said_by_promtool(tests, folder)


def said_by_promtool(tests: dict[str, Any], folder: Path) -> str:
    """Return what it complains of; nothing where all *tests* of the rules pass."""
    (folder / "tests.yml").write_text(json.dumps(tests))
    done = subprocess.run(  # noqa: S603 - named by the environment
        [str(promtool()), "test", "rules", "tests.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def samples_of(alarms: Iterable[str]) -> list[dict[str, object]]:
    return [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alarms]


def over(folder: Path, start: datetime, story: Callable[[Run], Any], minutes: int = 5) -> Run:
    """Return the run of a *story*."""

    async def work() -> Run:
        run = Run(folder, start, minutes)
        await run.ledger.__aenter__()
        async with run.client:
            await story(run)
        await run.ledger.aclose()
        return run

    return run_virtual(work())


async def no_relay(run: Run) -> None:
    await run.go_on(hours=2)
    run.is_relayed = False
    await run.go_on(minutes=40)


async def never_a_relay(run: Run) -> None:
    run.is_relayed = False
    await run.go_on(hours=2, minutes=20)


async def access_is_denied(run: Run) -> None:
    await run.go_on(hours=2)
    run.fault = DENIED
    await run.go_on(hours=1, minutes=40)


async def the_service_fails(run: Run) -> None:
    await run.go_on(hours=2)
    run.fault = FaultKind.ERROR_500
    await run.go_on(hours=3, minutes=40)


async def the_service_fails_as_a_month_ends(run: Run) -> None:
    await run.go_on(hours=3, minutes=30)
    run.fault = FaultKind.ERROR_500
    await run.go_on(hours=2)


async def somebody_else_meters(run: Run) -> None:
    record = UsageRecord(
        timestamp=run.clock.now(),
        dimension="requests",
        quantity=1,
        customer_aws_account_id=ACCOUNTS[0],
    )
    await run.client.batch_meter_usage([record], product_code="p")
    await run.go_on(hours=1, minutes=30)


async def a_backup_is_put_back(run: Run) -> None:
    await run.go_on(minutes=30)
    await run.ledger.back_up(run.file.with_suffix(".bak"))
    await run.go_on(hours=1)
    async with run.reopened():
        run.file.with_suffix(".bak").replace(run.file)
    await run.go_on(minutes=20)


async def a_copy_waits_for_hours(run: Run) -> None:
    await a_backup_is_put_back(run)
    await run.go_on(hours=5)


async def a_copy_has_ended_its_relay(run: Run) -> None:
    await a_backup_is_put_back(run)
    run.is_relayed = False
    await run.go_on(hours=3)


async def the_clock_was_ahead(run: Run) -> None:
    await run.go_on(hours=1)
    run.clock.start += timedelta(hours=3)
    run.is_used = False
    await run.go_on(minutes=10)
    run.clock.start -= timedelta(hours=3)
    run.is_relayed = False
    await run.go_on(minutes=40)


async def nobody_uses_anything(run: Run) -> None:
    await run.go_on(hours=1)
    run.is_used = False
    await run.go_on(hours=6, minutes=30)


async def nobody_looks(run: Run) -> None:
    await run.go_on(hours=1)
    run.is_watched = False
    await run.go_on(minutes=30)


async def nobody_writes_the_file(run: Run) -> None:
    run.is_written = True
    await run.go_on(hours=1)
    run.is_written = run.is_relayed = False
    await run.go_on(minutes=30)


async def a_ledger_is_new(run: Run) -> None:
    run.is_used = False
    await run.go_on(hours=2)


async def a_ledger_is_new_and_has_no_relay(run: Run) -> None:
    run.is_used = run.is_relayed = False
    await run.go_on(hours=2)


async def usage_comes_late(run: Run) -> None:
    await run.go_on(hours=2)
    for hours in range(1, 20):
        await run.ledger.add_usage(
            product_code="p",
            customer_aws_account_id=ACCOUNTS[0],
            dimension="late",
            quantity=1,
            at=run.clock.now() - timedelta(hours=hours),
        )
    await run.go_on(hours=3)


@pytest.mark.parametrize(
    ("alarm", "start", "story"),
    [
        ("MeteringRelaySilent", MORNING, no_relay),
        ("MeteringRelaySilent", MORNING, never_a_relay),
        ("MeteringRelaySilent", MORNING, access_is_denied),
        ("MeteringRelaySilent", MORNING, the_clock_was_ahead),
        ("MeteringStands", MORNING, the_service_fails),
        ("MeteringLosesSoon", LAST_EVENING, the_service_fails_as_a_month_ends),
        ("MeteringEnded", MORNING, somebody_else_meters),
        ("MeteringCopy", MORNING, a_backup_is_put_back),
        ("MeteringCopy", MORNING, a_copy_waits_for_hours),
        ("MeteringCopy", MORNING, a_copy_has_ended_its_relay),
        ("MeteringSilent", MORNING, nobody_uses_anything),
        ("MeteringUnwatched", MORNING, nobody_looks),
        ("MeteringUnwatched", MORNING, nobody_writes_the_file),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_fault_raises_its_alarm_and_no_other(
    alarm: str, start: datetime, story: Callable[[Run], Any], tmp_path: Path
) -> None:
    """
    It fires in the end, and none other has fired on the way. Issue 26
    """
    run = over(tmp_path, start, story)

    assert "" == judged(run, alarm, folder=tmp_path)


@pytest.mark.parametrize(
    ("alarm", "story", "well"),
    [
        ("MeteringRelaySilent", no_relay, {"is_relayed": True}),
        ("MeteringRelaySilent", access_is_denied, {"fault": None}),
        ("MeteringStands", the_service_fails, {"fault": None}),
        ("MeteringSilent", nobody_uses_anything, {"is_used": True}),
        ("MeteringUnwatched", nobody_looks, {"is_watched": True}),
        (
            "MeteringUnwatched",
            nobody_writes_the_file,
            {"is_written": True, "is_relayed": True},
        ),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_an_alarm_ends_with_its_cause(
    alarm: str, story: Callable[[Run], Any], well: dict[str, Any], tmp_path: Path
) -> None:
    """
    Within the hour, and nobody has to say so.
    """

    async def ends(run: Run) -> None:
        await story(run)
        for name, value in well.items():
            setattr(run, name, value)
        await run.go_on(hours=1)

    assert "" == judged(over(tmp_path, MORNING, ends), alarm, folder=tmp_path, last=())


@pytest.mark.parametrize(
    ("seconds", "when"), [(9_000, " in 2h 30m 0s"), (-9_000, ": it is late by 2h 30m 0s")]
)
def test_a_loss_is_still_to_come_or_has_been(seconds: int, when: str, tmp_path: Path) -> None:
    """
    Nobody has to find out at night what a duration below zero is.
    """
    (tmp_path / "alerts.yml").write_text(ALARMS)
    (group,) = yaml.safe_load(ALARMS)["groups"]
    (rule,) = (one for one in group["rules"] if one["alert"] == "MeteringLosesSoon")
    said = f"The service takes the oldest usage no more{when}"
    expected = {
        "exp_labels": rule["labels"],
        "exp_annotations": {**rule["annotations"], "summary": said},
    }
    series = {
        "series": "marketplace_metering_ledger_time_to_first_loss_seconds",
        "values": f"{seconds}x30",
    }
    at = {"eval_time": "20m", "alertname": "MeteringLosesSoon", "exp_alerts": [expected]}
    test = {"interval": "1m", "input_series": [series], "alert_rule_test": [at]}

    assert "" == said_by_promtool({"rule_files": ["alerts.yml"], "tests": [test]}, tmp_path)


@pytest.mark.parametrize(
    "story", [a_ledger_is_new, a_ledger_is_new_and_has_no_relay, usage_comes_late]
)
def test_what_is_no_fault_raises_none(story: Callable[[Run], Any], tmp_path: Path) -> None:
    """
    Nobody is woken by a ledger that nobody uses yet, nor by usage that is late.
    """
    assert "" == judged(over(tmp_path, MORNING, story), folder=tmp_path)


@pytest.mark.parametrize("days", [1, pytest.param(7, marks=pytest.mark.campaign)])
def test_a_healthy_week_raises_none(tmp_path: Path, days: int) -> None:
    """
    With the end of a month in it; a day of it wherever all tests are run. Issue 26
    """
    start = LAST_EVENING - timedelta(days=days // 2)
    run = over(tmp_path, start, lambda run: run.go_on(days=days), 10)

    assert len(run.looks) == days * 144
    assert "" == judged(run, folder=tmp_path)


def test_every_alarm_is_proven_and_has_a_runbook() -> None:
    """
    One that is added has its fault above. Issue 26
    """
    mark = test_a_fault_raises_its_alarm_and_no_other.pytestmark[0]
    proven = {alarm for alarm, *_ in mark.args[1]}

    assert proven == set(re.findall(r"- alert: (\w+)", ALARMS))
    assert len(proven) == ALARMS.count("runbook:") == ALARMS.count("severity:")
