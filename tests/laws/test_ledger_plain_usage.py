"""Usage that is added blindly comes to what it would come to if it were posted carefully."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.disk import memory
from support.examples import examples
from support.ledgers import NOON, change

from marketplace_metering_async.ledger.model import ProductDimension, Usage, UsageKey
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainHours
from marketplace_metering_async.ledger.stores import store_at
from marketplace_metering_async.limits import MAX_DECIMAL_QUANTITY, MAX_QUANTITY
from marketplace_metering_async.quantities import MILLION, millionths

NOW = int(NOON.timestamp())
MINUTE, HOUR, DAY = 60, 3600, 86400

ONE, TWO = "000000000001", "000000000002"
OFTEN = (UsageKey("product", ONE, "", "", "requests"), "")
KEYS = st.sampled_from(
    [
        OFTEN,
        OFTEN,
        OFTEN,
        (UsageKey("", ONE, "", "arn:one", "requests"), "product"),
        (UsageKey("product", TWO, "", "", "requests"), ""),
    ]
)
MOMENTS = st.sampled_from(
    [NOW, NOW, NOW + MINUTE, NOW - HOUR, NOW + HOUR, NOW - 22 * HOUR, NOW - 30 * DAY]
)
"""Hours that come again, whatever the time is by then."""
ALMOST_FULL = MAX_QUANTITY * MILLION - 2 * MILLION
MOST = millionths(MAX_DECIMAL_QUANTITY)
QUANTITIES = st.sampled_from([0, MILLION, MILLION, 2 * MILLION, MILLION // 2, ALMOST_FULL, MOST])
IDS = st.none() | st.sampled_from([f"e{n}" for n in range(12)])
PIECES = st.tuples(KEYS, MOMENTS, QUANTITIES, IDS)
GROUPS = st.tuples(st.just("post"), st.lists(PIECES, min_size=1, max_size=4))
STEPS = st.lists(
    GROUPS
    | GROUPS
    | GROUPS
    | st.tuples(st.just("post_elsewhere"), st.lists(PIECES, min_size=1, max_size=2))
    | st.tuples(st.just("tick"), st.sampled_from([45 * MINUTE, HOUR, 5 * HOUR]))
    | st.tuples(st.just("close"), st.tuples(KEYS, st.sampled_from([-HOUR, 0, MINUTE, 9 * HOUR])))
    | st.tuples(st.just("reopen"), KEYS)
    | st.tuples(st.just("seal"), st.none())
    | st.tuples(st.just("whole"), st.booleans())
    | st.tuples(st.just("forget_ids"), st.sampled_from([-HOUR, HOUR, 40 * DAY]))
    | st.tuples(st.just("hold"), st.sampled_from([0, HOUR])),
    min_size=4,
    max_size=12,
)
RULES = st.sampled_from([PostingRules(), PostingRules(late="refuse"), PostingRules(grace=14_400)])

OF_HOURS = "FROM hour JOIN usage_key USING (key_id)"
TABLES = (
    "SELECT name, closed_at, billed_as, other_scheme, license_product FROM usage_key",
    f"""
    SELECT name, hour, state, quantity, events, stamp, opened_at, seal_at, urgent, member, digest,
           sealed_at, deadline {OF_HOURS}
    """,
    f"""
    SELECT name, hour, origin, carried.quantity, carried.events {OF_HOURS}
    JOIN carried USING (hour_id)
    """,
    """
    SELECT name, origin, state, units, millionths, events, since
    FROM stranded JOIN usage_key USING (key_id)
    """,
    "SELECT event_id, digest, added_at FROM event",
    "SELECT * FROM kept_sum",
)


class Ledger:
    """A ledger, as two processes have it open."""

    def __init__(self, url: str, *, blindly: bool) -> None:
        self.url = url
        self._blindly = blindly
        self.store: Any = store_at(url)
        self.other = store_at(url)

    async def open(self) -> None:
        for store in (self.store, self.other):
            await store.open(lambda text: None)
            await store.check_identity("us-east-1", NOW)

    async def aclose(self) -> None:
        await self.store.aclose()
        await self.other.aclose()

    async def do(self, step: str, what: Any, now: int, rules: PostingRules) -> Any:
        """Do a step, and return what came of it."""
        match step:
            case "post":
                if not self._blindly:
                    self.store._hours = PlainHours()
                return await self.store.post([usage(*one) for one in what], now, rules)
            case "post_elsewhere":
                others = PostingRules(grace=60)
                return await self.other.post([usage(*one) for one in what], now, others)
            case "close":
                (key, _), after = what
                return await self.other.close(key.customer, now + after, now, rules)
            case "reopen":
                return await self.other.reopen(what[0].customer, now, rules)
            case "seal":
                return await self.other.seal_due(now + HOUR, 100, "us-east-1")
            case "whole":
                whole = frozenset([ProductDimension("product", "requests")] if what else [])
                return await self.other.declare_whole(whole, now)
            case "forget_ids":
                return await self.other.prune_events(now - what, now, 100)
            case _:
                return await change(self.url, f"UPDATE ledger SET held_through = {now - what}")

    async def tables(self) -> list[list[Any]]:
        return [sorted(await change(self.url, one), key=repr) for one in TABLES]


def usage(who: tuple[UsageKey, str], at: int, quantity: int, event_id: str | None) -> Usage:
    digest = b"" if event_id is None else repr((tuple(who[0]), at, quantity)).encode()
    return Usage(*who, at, quantity, event_id, digest)


@contextmanager
def two_ledgers() -> Iterator[tuple[Ledger, Ledger]]:
    with TemporaryDirectory(dir=memory()) as name:
        yield (
            Ledger(f"sqlite:///{Path(name)}/blindly.db", blindly=True),
            Ledger(f"sqlite:///{Path(name)}/carefully.db", blindly=False),
        )


def comparable(found: Any) -> Any:
    """Return results so that equal errors are equal."""
    if not isinstance(found, list):
        return found
    return [str(one) if isinstance(one, Exception) else one for one in found]


@settings(max_examples=examples(50), deadline=None)
@given(STEPS, RULES)
def test_what_is_added_blindly_is_what_the_careful_way_would_add(
    steps: list[tuple[str, Any]], rules: PostingRules
) -> None:
    """
    The same results, and the same in every row, whatever others do meanwhile. Law: nobody waits
    """

    async def run() -> None:
        now = NOW
        with two_ledgers() as ledgers:
            for ledger in ledgers:
                await ledger.open()
            try:
                warm = ("post", [(OFTEN, NOW, MILLION, None), (OFTEN, NOW + HOUR, MILLION, None)])
                for step, what in [warm, *steps]:
                    if step == "tick":
                        now += what
                        continue
                    blindly, carefully = [
                        comparable(await ledger.do(step, what, now, rules)) for ledger in ledgers
                    ]
                    assert blindly == carefully, (step, what)
                assert await ledgers[0].tables() == await ledgers[1].tables()
            finally:
                for ledger in ledgers:
                    await ledger.aclose()

    asyncio.run(run())
