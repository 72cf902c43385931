"""Decimal quantities in a ledger, on whichever database it is kept: exact to the last millionth."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.ledgers import ACCOUNT, HOUR, NOON, House, change, house_at, total, upgraded

from marketplace_metering_async import (
    EventConflictError,
    HourState,
    InvalidRecordError,
    ProductDimension,
    UsageLedger,
    quantities,
)
from marketplace_metering_async.events import WarningIssued
from marketplace_metering_async.quantities import MILLION, Quantity, millionths, of_millionths
from marketplace_metering_async.sandbox import FaultKind

THIS_HOUR = NOON.replace(minute=0)
BOTH = ("Quantity", "QuantityAsDecimal")


def sent(house: House) -> list[dict[str, Any]]:
    """Return the quantity of every record that went out, under its member."""
    return [
        {member: record[member] for member in BOTH if member in record}
        for request in house.service.requests
        for record in request["UsageRecords"]
    ]


@pytest.mark.parametrize(
    ("added", "member"),
    [
        (["0.1"] * 10, {"Quantity": 1}),
        ([Decimal("0.1"), "0.2"], {"QuantityAsDecimal": "0.3"}),
        ([17, "0.420001"], {"QuantityAsDecimal": "17.420001"}),
        (["17.50", Decimal("0.5")], {"Quantity": 18}),
        (["9999999999", "0.999999"], {"QuantityAsDecimal": "9999999999.999999"}),
        ([3_000_000_000], {"QuantityAsDecimal": "3000000000"}),
        (["0", "0.0"], {"Quantity": 0}),
    ],
)
async def test_fractions_of_an_hour_add_up_exactly(
    house: House, added: Sequence[Quantity | str], member: dict[str, Any]
) -> None:
    """
    And are sent as text without needless zeros, or as an integer where they add up to one. Issue 20
    """
    for quantity in added:
        await house.use(quantity)
    report = await house.relay_after(hours=6)
    status = await house.balance()
    (entry,) = [entry async for entry in house.ledger.history()]
    (value,) = member.values()

    assert [member] == sent(house)
    kept = quantities.kept(value)
    figures = (report.units, status.recorded, status.metered, entry.quantity)
    assert (kept,) * 4 == figures
    assert {type(kept)} == set(map(type, figures))
    assert {(ACCOUNT, THIS_HOUR): kept} == house.metered()


async def test_a_callers_context_of_decimals_rounds_nothing(house: House) -> None:
    """
    However few digits it has. Issue 20
    """
    with localcontext(prec=3):
        for n in range(2):
            for quantity in ("1000.000001", Decimal("0.999999")):
                await house.use(quantity, customer_aws_account_id=f"{n:012d}")
        report = await house.relay_after(hours=1)
        status = await house.ledger.status()

    assert (2, 2002) == (report.metered, report.units)
    assert [1001] * 2 == list(house.metered().values())
    assert (2002, 2002) == (status.recorded, status.metered)
    with localcontext(prec=3):
        await house.use("1000.000001")
        await house.use("1000.000001", customer_aws_account_id="000000000002")
        report = await house.relay_after(hours=2)

    assert Decimal("2000.000002") == report.units
    assert Decimal("4002.000002") == (await house.balance()).metered


async def test_an_event_is_the_same_by_value(house: House) -> None:
    """
    However it is written. Issue 20
    """
    await house.use(17, event_id="e", at=NOON)
    for same in ("17", "17.0", Decimal("17.000000"), Decimal("1.7E1")):
        assert (await house.use(same, event_id="e", at=NOON)).repeated
    with pytest.raises(EventConflictError):
        await house.use("17.000001", event_id="e", at=NOON)

    assert 17 == (await house.balance()).recorded


@pytest.mark.parametrize(
    ("there", "more", "next_hour"),
    [
        (2**31 - 1, 1, 1),
        (2**31 - 1, "0.5", None),
        ("2147483647.5", 1, None),
        ("9999999999.5", "0.5", "0.5"),
        (2**31, 1, None),
    ],
)
async def test_what_an_hour_has_no_room_for_goes_to_the_next(
    house: House, there: Quantity | str, more: Quantity | str, next_hour: Quantity | str | None
) -> None:
    """
    Whole quantities add up to int32, so that nobody is sent decimals who added none; others to
    what a record can say. Design, Quantities. Covers: V02
    """
    await house.use(there)
    added = await house.use(more)
    await house.relay_after(hours=3)

    assert (next_hour is not None) == added.late
    first, second = (house.metered().get((ACCOUNT, THIS_HOUR + n * HOUR)) for n in (0, 1))
    assert quantities.kept(next_hour) == second if next_hour is not None else second is None
    all_of_it = millionths(quantities.kept(there)) + millionths(quantities.kept(more))
    assert all_of_it == millionths(first or 0) + millionths(second or 0)
    assert of_millionths(all_of_it) == (await house.balance()).metered


async def test_late_and_stranded_fractions_are_carried_exactly(house: House) -> None:
    """
    Late ones within their month, stranded ones when a person says so. Issue 20
    """
    for at in (NOON, NOON - timedelta(hours=30), NOON - timedelta(days=30)):
        await house.use("0.333333", at=at)
        await house.use(Decimal("0.000001"), at=at)
    before = await house.balance()
    count = await house.ledger.retry(HourState.MONTH_OVER)
    entries = [entry async for entry in house.ledger.history()]
    for minutes in (15, 105):
        await house.relay_after(minutes=minutes)

    assert Decimal("1.000002") == before.recorded
    assert {HourState.MONTH_OVER: Decimal("0.333334")} == before.ended
    assert 1 == count
    assert [Decimal("0.333334")] * 2 == [c.quantity for e in entries for c in e.carried]
    late, running = house.metered().values()
    assert (Decimal("0.333334"), Decimal("0.666668")) == (late, running)
    assert Decimal("1.000002") == (await house.balance()).metered


async def test_a_retry_has_the_same_bytes(house: House) -> None:
    """
    Whichever member carries the quantity, and whoever sends it again. Issue 20
    """
    bodies: list[bytes] = []
    fault = [FaultKind.RESET_BEFORE]
    house.service._fault_of = lambda number, body: fault[0] if fault else None
    send = house.service.send

    async def noted(request: Any, *, timeout: float) -> Any:
        bodies.append(request.body)
        return await send(request, timeout=timeout)

    house.service.send = noted  # type: ignore[method-assign]
    await house.use("17.420001")
    assert 0 == (await house.relay_after(hours=1)).metered
    tried = len(bodies)
    fault.clear()
    house.clock.step(minutes=10)
    async with house.another() as other, house.client() as client:
        assert 1 == (await other.relay_once(client)).metered

    assert 1 < tried < len(bodies)
    assert 1 == len(set(bodies))
    assert b'"QuantityAsDecimal":"17.420001"' in bodies[0]
    assert [Decimal("17.420001")] == list(house.metered().values())


async def test_a_frozen_record_keeps_its_member_through_an_upgrade(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A later version that sends decimals only: hours sealed before go as they were frozen, and their
    digests hold; hours sealed later go as decimals. Design, Quantities. Covers: D16
    """
    await house.use(17)
    await house.use("0.5", customer_aws_account_id="000000000002")
    house.clock.step(hours=1)
    await house.ledger._store.seal_due(int(house.clock.now().timestamp()), 9, "us-east-1")
    monkeypatch.setattr(quantities, "travels_whole", lambda quantity, allocated=(): False)
    later = "ALTER TABLE {schema}hour ADD COLUMN later TEXT;\n"
    async with upgraded(house, tmp_path, later) as new, house.client() as client:
        await house.use(18, new)
        house.clock.step(hours=1)
        await new.relay_once(client)
        ended = (await new.status()).ended

    assert {} == ended
    assert [{"Quantity": 17}, {"QuantityAsDecimal": "0.5"}, {"QuantityAsDecimal": "18"}] == sorted(
        sent(house), key=str
    )
    members = await change(house.url, "SELECT member FROM hour ORDER BY hour_id")
    assert [("Quantity",), ("QuantityAsDecimal",), ("QuantityAsDecimal",)] == members


async def test_a_member_that_was_changed_behind_our_back_is_not_sent(house: House) -> None:
    """
    It is part of what the digest holds. Design, Quantities
    """
    await house.use(17)
    house.clock.step(hours=1)
    await house.ledger._store.seal_due(int(house.clock.now().timestamp()), 9, "us-east-1")
    await change(house.url, "UPDATE hour SET member = 'QuantityAsDecimal' RETURNING 1")
    await house.relay()

    assert [] == sent(house)
    assert {HourState.DAMAGED: 17} == (await house.balance()).ended


async def test_no_sum_of_decimals_overflows(house: House) -> None:
    """
    Not of the largest records there are, however many have been before. Issue 20
    """
    most = "9999999999.999999"
    before = 10**15 * MILLION + 999_999  # units that are there already
    for n in range(5):
        await house.use(most, customer_aws_account_id=f"{n:012d}")
    told = "units = 1000000000000000, millionths = 999999"
    if not house.url.startswith("sqlite"):
        told = f"quantity = {before}"
    await change(house.url, f"UPDATE kept_sum SET {told} RETURNING 1")
    await house.use(most)
    await house.use("0.000001")
    status = await house.ledger.status()

    want = of_millionths(before + 10**16)
    assert (want, want) == (status.recorded, status.open)
    house.clock.step(hours=20)
    assert of_millionths(6 * (10**16 - 1) + 1) == (await house.ledger.status()).at_risk


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_added_at_once_is_sent_to_the_last_millionth(house: House, seed: int) -> None:
    """
    By many callers, in groups, with repetitions among them. Issue 20
    """
    chance, used = Random(seed), Counter[str]()
    calls = []
    for n in range(200):
        customer, number = (
            f"{chance.randrange(5):012d}",
            chance.randrange(10 ** chance.randrange(17)),
        )
        used[customer] += number
        members: dict[str, Any] = {
            "customer_aws_account_id": customer,
            "at": NOON - timedelta(minutes=chance.randrange(300)),
            "event_id": f"e-{n}",
        }
        calls += [(of_millionths(number), members)] * chance.choice([1, 1, 2])
    await asyncio.gather(*(house.use(quantity, **members) for quantity, members in calls))
    for _ in range(60):
        house.clock.step(hours=1)
        if (await house.relay()).metered == 0 and not (await house.ledger.status()).open:
            break
    metered = Counter[str]()
    for record in house.book.records:
        metered[record.customer] += millionths(record.quantity)

    assert metered == used
    assert (
        of_millionths(used.total()) == (await house.balance()).metered == total(house.book.records)
    )


async def test_a_whole_dimension_refuses_fractions_where_they_are_added(url: str) -> None:
    """
    With place and advice, one by one of a group, in all processes, and after all are closed: the
    ledger keeps what was declared. Issue 20
    """
    async with house_at(url) as house, house.another(whole=["requests"]) as declaring:
        for ledger in (declaring, house.ledger):
            for bad in ("0.5", 2**31):
                with pytest.raises(InvalidRecordError, match=r"^quantity: .*declared whole.*add "):
                    await house.use(bad, ledger)
        said = await asyncio.gather(
            house.use(1),
            house.use("1.5", event_id="e"),
            house.use("1.0"),
            house.use("0.5", dimension="gigabytes"),
            return_exceptions=True,
        )

        assert [False, True, False, False] == [isinstance(one, InvalidRecordError) for one in said]
        assert Decimal("2.5") == (await house.balance()).recorded
    async with house_at(url) as later:
        with pytest.raises(InvalidRecordError, match="declared whole"):
            await later.use("0.5")
        assert {ProductDimension("", "requests")} == await later.ledger.whole_dimensions()


async def test_what_is_whole_of_one_product_is_not_of_another(url: str) -> None:
    """
    Products may have a dimension of the same name.
    """
    async with house_at(url, whole=[("product", "requests")]) as house:
        await house.use("0.5", product_code="other")
        with pytest.raises(InvalidRecordError, match="declared whole"):
            await house.use("0.5")


async def test_a_declaration_ends_with_another_one(url: str) -> None:
    """
    Which says so; one that is the same, or None, changes nothing.
    """
    async with house_at(url, whole=["requests", "seats"]) as house:
        for whole in (["seats", "requests"], None, ["seats"]):
            async with house.another(whole=whole):
                pass
        await house.use("0.5")
        async with house.another(whole=[]):
            assert frozenset() == await house.ledger.whole_dimensions()
        warned = [event.text for event in house.warned if isinstance(event, WarningIssued)]

        assert ["requests", "seats"] == [text.rpartition(": ")[2] for text in warned]


async def test_a_fraction_that_was_there_before_goes_on(house: House) -> None:
    """
    A declaration is about what is added from then on; a repetition of what is there is no addition.
    """
    await house.use("0.5", event_id="e", at=NOON)
    async with house.another(whole=["requests"]):
        assert (await house.use("0.5", event_id="e", at=NOON)).repeated
        await house.use(1)
        await house.relay_after(hours=1)

    assert [{"QuantityAsDecimal": "1.5"}] == sent(house)


@pytest.mark.parametrize("whole", ["requests", ["a", 7]])
def test_what_names_no_dimension_is_refused(whole: Any) -> None:
    """
    Before anything is opened.
    """
    with pytest.raises((TypeError, ValueError), match=r"^whole: expected"):
        UsageLedger.open("sqlite:///usage.db", whole=whole)


async def test_decimals_and_declarations_move_along(place: str, tmp_path: Path) -> None:
    """
    From a file into PostgreSQL, where the same may be declared already.
    """
    old = f"sqlite:///{tmp_path}/usage.db"
    async with house_at(old, whole=["seats", "users"]) as house:
        await house.use("0.1")
        await house.use("9999999999.999999", at=NOON - timedelta(days=30))
        before = await house.balance()
    async with house_at(place, whole=["users"]) as new:
        await new.ledger.take_over(old)
        after = await new.balance()
        kept = await new.ledger.whole_dimensions()

    assert (before.recorded, before.open, before.ended) == (after.recorded, after.open, after.ended)
    assert {"seats", "users"} == {dimension for _, dimension in kept}
