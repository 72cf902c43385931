"""The controls: a wrong order is refused whole, whatever is wrong with it, and breaks no view."""

import json
import re
from datetime import datetime
from typing import Any

import aiohttp
import pytest
from support.unsigned import request_of

from marketplace_metering_async.sandbox import Metered, Sandbox
from marketplace_metering_async.sandbox.as_json import as_json, from_json
from marketplace_metering_async.sandbox.service.memory import Copy, book_of, copy_of

BUYER = "111122223333"
RIGHT: dict[str, dict[str, Any]] = {
    "clock": {"now": "2026-11-23T12:00:00+00:00", "advance": 60, "speed": 0, "reset": True},
    "faults": {"faults": [{"kind": "throttle", "operation": None}], "add": True},
    "rules": {"age": 3600, "key_by": "hour", "regions": ["us-east-1"]},
    "quota": {"calls_per_second": 5, "burst": 7},
    "products": {
        "product_code": "q",
        "dimensions": ["requests"],
        "customers": {"1": True},
        "licenses": {"arn:aws:x": "1"},
        "public_key_version": 2,
        "title": "Q",
        "registration_url": "http://127.0.0.1:9/",
        "concurrent_agreements": False,
        "seller": "9",
    },
    "buyers": {"product_code": "p", "customer": "1", "subscribed": True},
    "rotate-key": {"product_code": "p"},
    "subscribe": {
        "product_code": "p",
        "customer_aws_account_id": "2",
        "customer_identifier": "two",
        "license_arn": "arn:aws:two",
        "begins": "2026-11-23T12:00:00+00:00",
        "ends": "2027-11-23T12:00:00+00:00",
        "free_trial": 3600,
    },
    "cancel": {"agreement_id": "of BUYER"},
    "expire": {"agreement_id": "of BUYER"},
    "suspend": {"customer_aws_account_id": BUYER},
    "restore": {"customer_aws_account_id": BUYER},
    "set-up-account": {"agreement_id": "of BUYER", "post": False},
    "tokens": {
        "product_code": "p",
        "customer_aws_account_id": "1",
        "customer_identifier": "one",
        "license_arn": "arn:aws:one",
        "agreement_id": "agmt-1",
    },
    "reset": {"everything": False},
}
WRONG: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**11,
    10**30,
    1e300,
    "",
    "x",
    "\ud800",
    "0001-01-01T00:00:00+00:00",
    "9999-12-31T23:59:59+00:00",
    "2026-11-23T12:00:00",
    [],
    [1, "a"],
    [None],
    {},
    {"a": 1},
    {"kind": 5},
    [{"kind": "throttle", "seconds": "1"}],
]
VIEWS = ["state", "book?records=1", "memory", "calls", "marketplace", "page/view"]


def made_anew(place: Sandbox) -> str:
    """Bring the sandbox into one state, and return the agreement in it."""
    place.reset(everything=True)
    place.declare_product("p", dimensions=["requests"], registration_url="http://127.0.0.1:9/")
    return place.subscribe("p", BUYER).agreement_id


def all_of(place: Sandbox) -> str:
    """Return all that an order can change, but for the time that goes by."""
    return json.dumps(
        [
            as_json(copy_of(place.book)),
            as_json(place.clock.setting and place.clock.speed),
            [repr(rule) for rule in place.faults.rules],
            place.calls_per_second,
        ]
    )


async def test_an_order_that_is_no_json_by_its_header_says_so(place: Sandbox) -> None:
    """
    As curl sends it by itself.
    """
    async with aiohttp.ClientSession(f"{place.url}/_sandbox/") as browser:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with browser.post("reset", data="{}", headers=headers) as answer:
            assert 415 == answer.status
            assert "Content-Type: expected application/json" in await answer.text()


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("calls?since=yesterday", "since: expected the number of a call"),
        ("public-key?version=0", "version: expected 1 or more, got 0"),
        ("public-key?version=one", "version: invalid literal"),
    ],
)
async def test_a_question_that_is_none_is_refused(place: Sandbox, question: str, text: str) -> None:
    """
    With the name of what cannot be.
    """
    async with (
        aiohttp.ClientSession(f"{place.url}/_sandbox/") as browser,
        browser.get(question) as answer,
    ):
        assert (400, True) == (answer.status, text in await answer.text())


@pytest.mark.parametrize("path", list(RIGHT))
async def test_an_order_is_carried_out_whole_or_refused(place: Sandbox, path: str) -> None:
    """
    For each member and each value of a wrong type or size: a 200, or a 400 that leaves all as it
    was; and afterwards every view and the service still answer. P7
    """
    async with aiohttp.ClientSession(f"{place.url}/_sandbox/") as browser:

        async def order(members: dict[str, Any]) -> int:
            body = json.dumps(members)
            headers = {"Content-Type": "application/json"}
            async with browser.post(path, data=body, headers=headers) as answer:
                return answer.status

        def filled(members: dict[str, Any], agreement: str) -> dict[str, Any]:
            return {n: agreement if v == "of BUYER" else v for n, v in members.items()}

        assert 200 == await order(filled(RIGHT[path], made_anew(place)))
        cases = [({name: value}, name) for name in RIGHT[path] for value in WRONG]
        cases += [({"no_such_member": 1}, "no_such_member")]
        for change, _ in cases:
            right = filled(RIGHT[path], made_anew(place))
            before = all_of(place)
            status = await order(right | change)
            nobody = change == {"post": True}  # listens at the registration page
            assert status in (200, 502 if nobody else 400), (change, status)
            assert status == 200 or nobody or before == all_of(place), change
            for view in VIEWS:
                async with browser.get(view) as answer:
                    assert 200 == answer.status, (change, view, await answer.text())
                    json.loads(await answer.text(), parse_constant=pytest.fail)
            record = {"Timestamp": place.clock.now().timestamp(), "Dimension": "requests"}
            request = {"ProductCode": "p", "UsageRecords": [record | {"CustomerAWSAccountId": "1"}]}
            reply = await place.transport().send(request_of(place.url, request), timeout=5)
            assert reply.status < 500, (change, reply.body)
        assert 400 == await order(filled(RIGHT[path], made_anew(place)) | {"no_such_member": 1})


@pytest.mark.parametrize("path", [path for path in RIGHT if path not in ("clock", "reset")])
async def test_an_empty_order_says_what_is_missing(place: Sandbox, path: str) -> None:
    """
    By name; but for rules, where nothing changes nothing.
    """
    async with (
        aiohttp.ClientSession() as browser,
        browser.post(f"{place.url}/_sandbox/{path}", json={}) as answer,
    ):
        text = await answer.text()
    if path == "rules":
        assert 200 == answer.status
    else:
        assert (400, True) == (answer.status, "missing: " in text or "expected " in text), text


@pytest.mark.parametrize("now", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"])
async def test_the_clock_keeps_away_from_the_ends_of_time(place: Sandbox, now: str) -> None:
    """
    Where sums with it have no dates; and it does not run there either.
    """
    with pytest.raises(ValueError, match="1970 to 9000"):
        place.clock.set(datetime.fromisoformat(now))
    place.clock.set(datetime.fromisoformat("8999-12-31T23:59:59+00:00"))
    for days in (400, -4_000_000, 400_000):
        with pytest.raises((ValueError, OverflowError)):
            place.advance(days=days)
    place.clock.run(999_999)
    place.clock._since -= 10**6
    assert 9000 == place.clock.now().year


async def test_records_come_piece_by_piece(place: Sandbox) -> None:
    """
    All of them, once and in order, for a reader of the book and for a copy of it. S5
    """
    now = place.clock.now()
    for number in range(1234):
        key = ("us-east-1", "p", None, f"{number:012d}", None, "requests", float(number))
        one = Metered(*key[:5], None, "requests", now, number, (), str(number), now)
        place.book.metered.add(key, one)
    async with aiohttp.ClientSession(f"{place.url}/_sandbox/") as browser:
        async with browser.get("book?records=1") as answer:
            book = await answer.json()
            assert "no-store" == answer.headers["Cache-Control"]
        async with browser.get("memory") as answer:
            copy = book_of(from_json(Copy, await answer.json()))

    assert list(range(1234)) == [record["quantity"] for record in book["records"]]
    assert {"requests": sum(range(1234))} == book["totals"]
    assert place.book.records == copy.records


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ({"ages": 1}, "expected some of identical_resend, .*, age, .*; got ages"),
        ({"age": "long"}, "age: expected a timedelta or seconds, got 'long'$"),
        ({"age": 1e30}, "age: "),
        ({"key_by": "week"}, "key_by: expected 'hour' or 'timestamp', got 'week'$"),
        ({"regions": [1]}, "regions: expected several texts"),
    ],
)
def test_a_rule_that_is_none_is_named(order: dict[str, Any], says: str) -> None:
    """
    In words of the sandbox's, beside those that there are.
    """
    with pytest.raises((TypeError, ValueError), match=f"^{says}"):
        Sandbox().change_rules(**order)


@pytest.mark.parametrize("wrong", [0, -1, "ten", float("nan"), [], "1"])
def test_a_quota_that_is_none_is_refused_at_every_door(wrong: Any) -> None:
    """
    A bucket that holds less than one call would throttle every call.
    """
    for quota in ({"calls_per_second": wrong}, {"burst": wrong}):
        said = f"^{next(iter(quota))}: expected .*, got {re.escape(repr(wrong))}$"
        with pytest.raises(ValueError, match=said):
            Sandbox(**quota)
        with pytest.raises(ValueError, match=said):
            Sandbox().set_quota(**{"calls_per_second": 1.0, **quota})


def test_one_text_is_not_several() -> None:
    """
    Taken by its letters, it would let in nobody who is meant.
    """
    with pytest.raises(TypeError, match="expected several texts, got 'requests'"):
        Sandbox().declare_product("p", dimensions="requests")
    with pytest.raises(TypeError, match=f"customers: expected several texts, got '{BUYER}'"):
        Sandbox().declare_product("p", customers=BUYER)
    with pytest.raises(TypeError, match="open_to: expected several texts, got 'sandbox'"):
        Sandbox(open_to="sandbox")
