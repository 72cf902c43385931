"""A list of usage in one commit: an outcome each, and nothing that holds up anything else."""

import asyncio
from typing import Any

import pytest
from support.ledgers import ACCOUNT, HOUR, NOON, House, change, house_at, refuse_thirteen

from marketplace_metering_async import (
    AddedUsage,
    Customer,
    EventConflictError,
    HourState,
    InvalidRecordError,
    LateUsageError,
    LedgerClosedError,
    LedgerOutcomeUnknownError,
    UsageRefusedError,
    UsageToAdd,
)

THIS_HOUR = NOON.replace(minute=0)
BUYER = Customer(product_code="product", customer_aws_account_id=ACCOUNT)


def piece(quantity: Any = 1, **members: Any) -> Any:
    one: UsageToAdd = {"dimension": "requests", "quantity": quantity, "customer": BUYER}
    return {**one, **members}


async def test_events_that_are_known_are_found_among_many(house: House) -> None:
    """
    Wherever in the list they stand; all others are stored, and none twice.
    """

    def pieces(numbers: range) -> list[Any]:
        return [piece(1, event_id=f"event-{n}") for n in numbers]

    await house.ledger.add_many(pieces(range(1)))  # from now on its hour is remembered
    await house.ledger.add_many(pieces(range(70, 230)))
    outcomes = await house.ledger.add_many(pieces(range(300)))
    conflict = await house.ledger.add_many(
        [piece(2, event_id="event-99"), *pieces(range(290, 350))]
    )

    known = [n for n, one in enumerate(outcomes) if one == AddedUsage(repeated=True)]
    assert [0, *range(70, 230)] == known
    assert {AddedUsage(hour=THIS_HOUR)} == {*outcomes} - {AddedUsage(repeated=True)}
    assert isinstance(conflict[0], EventConflictError)
    assert 10 == conflict.count(AddedUsage(repeated=True))
    assert 350 == (await house.balance()).recorded


async def test_an_event_has_the_id_that_it_was_given_whatever_signs_are_in_it(house: House) -> None:
    """
    Whether its hour is remembered or not: what one process has added so, another one knows.
    """
    signs = [
        *"{}[](),;:\"\\'`$?%|/ \t\n\r\x01\x7f\u0085\u2028é🙂",
        "NULL",
        "null",
        "N",
        '","',
        '\\"',
        "\\\\",
    ]
    names = [
        f"{before}{sign}{after}" for sign in signs for before in ("", "a") for after in ("", "b")
    ]
    pieces = [piece(1, event_id=name) for name in names]
    await house.use(1)  # from now on its hour is remembered
    stored = await house.ledger.add_many(pieces)
    async with house.another() as other:
        again = await other.add_many(pieces)

    assert {AddedUsage(hour=THIS_HOUR)} == {*stored}
    assert {AddedUsage(repeated=True)} == {*again}
    assert {(name,) for name in names} == {*await change(house.url, "SELECT event_id FROM event")}


async def test_each_has_its_outcome_and_what_is_refused_refuses_nothing_else(house: House) -> None:
    """
    In order, with the place of what is wrong; all the rest is stored.
    """
    await house.use(1, event_id="known")
    three_hours_ago = {"at": NOON - 3 * HOUR, "event_id": "old"}
    given: list[Any] = [
        piece(2, event_id="known"),
        piece("0.5"),
        piece(1, event_id="known"),
        piece(-1),
        {"dimension": "requests", "customer": BUYER},
        piece(1, connection=object(), colour="red"),
        None,
        piece(4, **three_hours_ago),
        piece(4, **three_hours_ago),
        piece(8, at=NOON - 60 * 24 * HOUR),
    ]
    outcomes = await house.ledger.add_many(iter(given))

    assert isinstance(outcomes[0], EventConflictError)
    assert AddedUsage(repeated=True) == outcomes[2] == outcomes[8]
    assert [
        AddedUsage(hour=THIS_HOUR),
        AddedUsage(hour=THIS_HOUR - 3 * HOUR),
        AddedUsage(ended=HourState.MONTH_OVER),
    ] == [outcomes[1], outcomes[7], outcomes[9]]
    wrong = [one for one in outcomes if isinstance(one, InvalidRecordError)]
    assert wrong == outcomes[3:7]
    assert [
        "usages[3].quantity",
        "usages[4].quantity",
        "usages[5].connection",
        "usages[6]",
    ] == [one.violations[0].path for one in wrong]
    assert "expected one of dimension, quantity, customer" in str(wrong[2])
    assert str(wrong[2]).endswith("got an unknown name (and 1 more)")
    assert "expected a mapping of what add_usage() takes, got None" in str(wrong[3])
    assert "13.5" == str((await house.balance()).recorded)
    assert [1] == [event.records for event in house.warned]


async def test_a_list_is_one_commit_with_the_usage_of_others(house: House) -> None:
    """
    It takes no more time than they do.
    """
    posted: list[int] = []
    store: Any = house.ledger._store
    post = store.post

    async def counted(group: Any, *rest: Any) -> Any:
        posted.append(len(group))
        return await post(group, *rest)

    store.post = counted
    lists = [[piece() for _ in range(size)] for size in (2, 3, 0)]
    outcomes = await asyncio.gather(house.use(1), *map(house.ledger.add_many, lists), house.use(1))

    assert [7] == posted
    assert [2, 3, 0] == [len(one) for one in outcomes[1:4]]
    assert 7 == (await house.balance()).recorded


async def test_what_the_database_refuses_in_a_list_fails_alone(house: House) -> None:
    """
    The rest is stored, part by part. ledger M3
    """
    await refuse_thirteen(house.url)
    usages = [
        piece(13 if n == 30 else 1, customer=None, product_code="product")
        | {"customer_aws_account_id": f"{n:012d}"}
        for n in range(50)
    ]
    outcomes = await house.ledger.add_many(usages)

    assert [30] == [n for n, one in enumerate(outcomes) if one != AddedUsage(hour=THIS_HOUR)]
    assert isinstance(outcomes[30], UsageRefusedError)
    assert 49 == (await house.balance()).recorded


async def test_late_usage_of_a_list_is_refused_alone(url: str) -> None:
    """
    Where the ledger refuses it.
    """
    async with house_at(url, late="refuse") as house:
        outcomes = await house.ledger.add_many([piece(1, at=NOON - 30 * HOUR), piece(2)])

        assert isinstance(outcomes[0], LateUsageError)
        assert AddedUsage(hour=THIS_HOUR) == outcomes[1]
        assert 2 == (await house.balance()).recorded


async def test_what_fails_as_a_whole_is_raised(house: House) -> None:
    """
    And what is no list of at most 10,000 stores nothing.
    """
    store: Any = house.ledger._store
    post = store.post

    async def fail(*_: Any) -> Any:
        raise LedgerOutcomeUnknownError("gone at the commit")

    store.post = fail
    with pytest.raises(LedgerOutcomeUnknownError, match="gone at the commit"):
        await house.ledger.add_many([piece(), piece(-1)])
    store.post = post
    with pytest.raises(TypeError, match="expected a list of mappings, got one mapping"):
        await house.ledger.add_many(piece())
    with pytest.raises(ValueError, match="expected at most 10000"):
        await house.ledger.add_many(piece() for _ in range(10_001))
    assert 0 == (await house.balance()).recorded
    await house.ledger.aclose()
    with pytest.raises(LedgerClosedError):
        await house.ledger.add_many([])


async def test_a_list_that_is_cancelled_may_be_given_again(house: House) -> None:
    """
    By its event ids, all of it is stored once.
    """
    usages = [piece(n, event_id=f"event-{n}") for n in range(100)]
    adding = asyncio.create_task(house.ledger.add_many(usages))
    for _ in range(3):
        await asyncio.sleep(0)
    adding.cancel()
    await asyncio.gather(adding, return_exceptions=True)
    await house.ledger.add_many(usages)

    assert sum(range(100)) == (await house.balance()).recorded
