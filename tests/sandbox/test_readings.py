"""What the service's pages leave open: a row for each switch, presets, and how it is turned."""

import subprocess
import sys
from datetime import timedelta
from typing import Any

import aiohttp
import attrs
import pytest

from marketplace_metering_async import MarketplaceMeteringClient, RetryPolicy, UsageRecord
from marketplace_metering_async.sandbox import Fault, FaultKind, Rules, Sandbox
from marketplace_metering_async.sandbox.service.readings import PRESETS, each_reading, readings

FIGURES = {"age", "month_end", "workload_age", "closing"}
REGIONS = {"regions", "workload_regions", "eks_regions"}


def test_a_switch_needs_no_documentation() -> None:
    """
    `python -OO` takes it away; markers, page and controls have their rows all the same.
    """
    code = "from marketplace_metering_async.sandbox.service import readings as r; r.each_reading()"

    done = subprocess.run([sys.executable, "-OO", "-c", code], check=False)  # noqa: S603

    assert 0 == done.returncode


def test_every_switch_has_a_row() -> None:
    """
    Its meaning by the documentation of Rules, its source, and what it may be.
    """
    rows = readings(Rules(key_by="timestamp", regions=[]))
    by_name = {one.switch: one for one in rows}

    assert [field.name for field in attrs.fields(Rules)] == [one.switch for one in rows]
    assert all(len(one.means) > 20 for one in rows)
    assert all(12 < len(one.source) < 100 for one in rows)
    assert FIGURES | REGIONS == {one.switch for one in rows if not one.open}
    assert ("hour", "timestamp") == by_name["key_by"].choices == by_name["key_by"].choices
    assert ("timestamp", "hour") == (by_name["key_by"].value, by_name["key_by"].usual)
    assert (409,) == by_name["idempotency_conflict_status"].others
    assert ("seconds", timedelta(days=1)) == (by_name["age"].form, by_name["age"].value)
    assert ("texts", frozenset()) == (by_name["regions"].form, by_name["regions"].value)


def test_presets_are_readings() -> None:
    """
    Strict and kind turn open switches only, and together with the default they use every switch
    that refuses or takes.
    """
    by_name = {one.switch: one for one in readings(Rules())}
    assert Rules() == PRESETS["usual"]
    for preset in (Rules.strict(), Rules.kind()):
        for name, one in by_name.items():
            value = getattr(preset, name)
            assert value == one.usual or (one.open and value in one.others), name
    same_for_all = {name for name, one in by_name.items() if one.strict == one.kind == one.usual}
    neither_refuses_nor_takes = {"key_memory", "same_instant", "idempotency_conflict_status"}
    assert FIGURES | REGIONS | neither_refuses_nor_takes == same_for_all


def test_each_reading_turns_one_switch() -> None:
    """
    Beside the presets, each under its name.
    """
    found = each_reading()
    assert ["usual", "strict", "kind"] == list(found)[:3]
    assert 30 <= len(found) == len(set(found.values()))
    assert Rules(identical_resend="success") == found["identical_resend=success"]
    assert Rules(future=timedelta(minutes=5)) == found["future=300s"]


async def test_they_are_told_and_turned_over_http() -> None:
    """
    A preset first, then the switches beside it; an unknown one turns nothing.
    """
    async with Sandbox() as place, aiohttp.ClientSession(f"{place.url}/_sandbox/") as web:

        async def turn(**order: Any) -> int:
            async with web.post("rules", json=order) as answer:
                return answer.status

        assert 200 == await turn(preset="strict", age=3600)
        assert place.book.rules == Rules.strict().changed({"age": 3600})
        async with web.get("readings") as answer:
            rows = {one["switch"]: one for one in (await answer.json())["readings"]}
        assert ("instant", "hour") == (rows["begins_from"]["value"], rows["begins_from"]["usual"])
        assert 3600 == rows["age"]["value"]
        assert 400 == await turn(preset="lenient", age=5)
        assert 400 == await turn(preset="kind", age="x")
        assert timedelta(hours=1) == place.book.rules.age
        assert 200 == await turn(preset="usual")
        assert Rules() == place.book.rules


@pytest.mark.metering_readings
async def test_this_package_is_right_under_each(metering_sandbox: Sandbox) -> None:
    """
    Through a lost answer, records left and an error of the service: all is on file once, nothing is
    said not to be, and nothing is left to advise.
    """
    place = metering_sandbox
    place.declare_product("p", dimensions=["requests"])
    hour = place.clock.now().replace(minute=0, second=0, microsecond=0)
    for number in range(30):
        place.subscribe("p", f"{number:012d}", begins=hour)
    kinds = [FaultKind.UNPROCESSED, FaultKind.RESET_AFTER, FaultKind.ERROR_500]
    place.inject(*(Fault(kind=kind, max_hits=1) for kind in kinds))
    records = [
        UsageRecord(
            timestamp=hour,
            dimension="requests",
            quantity=number,
            customer_aws_account_id=f"{number:012d}",
            product_code="p",
        )
        for number in range(30)
    ]

    async with MarketplaceMeteringClient(retry=RetryPolicy(max_delay=0.01)) as client:
        result = await client.batch_meter_usage(records)

    place.book.assert_metered({(f"{n:012d}", "requests", hour): n for n in range(30)})
    assert {True} >= {one.metered for one in result.results} - {None}
    assert [] == place.advice()
