"""The tables of TELEMETRY.md: every event, metric and attribute, and no others."""

import re
from importlib.resources import files
from pathlib import Path
from typing import get_args

import marketplace_metering_async
from marketplace_metering_async import UsageLedger, events, measured
from marketplace_metering_async.ledger.metrics import measures_of

TEXT = files(marketplace_metering_async).joinpath("TELEMETRY.md").read_text(encoding="utf-8")


def named_in(heading: str) -> set[str]:
    """Return what stands in backticks in the first column of the table below a heading."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`([^`]+)`", "".join(rows)))


def test_every_event_is_in_the_table_and_can_be_imported() -> None:
    """
    From the package itself. Issue 26
    """
    known = {event.__name__ for event in get_args(events.Event)}

    assert known == named_in("Events")
    assert known <= set(marketplace_metering_async.__all__)


def test_every_metric_of_clients_is_in_the_table() -> None:
    """
    By the name that it is made with. Issue 26
    """
    made = {
        *measured.COUNTERS,
        *measured.HISTOGRAMS,
        *measured.GAUGES,
        "relay.is_working",  # made where a relay says something
    }

    assert made == named_in("Metrics of clients, batchers and relays")


async def test_every_metric_of_the_ledger_is_in_the_table(tmp_path: Path) -> None:
    """
    Without the prefix that they share. Issue 26
    """
    async with UsageLedger.open(f"sqlite:///{tmp_path}/u.db") as ledger:
        made = {one.prometheus_name for one in measures_of(await ledger.status())}

    named = named_in("Metrics of the ledger")
    assert made == {f"marketplace_metering_ledger_{name}" for name in named}


def test_every_alarm_is_in_the_table() -> None:
    """
    By its name in the rules. Issue 26
    """
    rules = files(marketplace_metering_async).joinpath("ledger", "alerts.yml").read_text("utf-8")

    assert set(re.findall(r"- alert: (\w+)", rules)) == named_in("Alarms")
