"""Usage as a part of the caller's own transaction in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from support.ended import claimed, fate, settle
from support.ledgers import (
    HOUR,
    NOON,
    House,
    change,
    database_at,
    execute,
    house_at,
    new_postgres_database,
    until_somebody_waits,
)

from marketplace_metering_async import (
    EventConflictError,
    LedgerError,
    LedgerOutcomeUnknownError,
    UsageLedger,
    UsageRefusedError,
)
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.events import WarningIssued
from marketplace_metering_async.ledger import HourState
from marketplace_metering_async.ledger.stores import postgresql_connections
from marketplace_metering_async.ledger.stores.words import Sealed


@pytest.fixture
async def engine(place: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(
        "postgresql+asyncpg://", async_creator=partial(asyncpg.connect, place)
    )
    yield made
    await made.dispose()


@pytest.fixture
async def home(place: str) -> AsyncIterator[House]:
    async with house_at(place) as opened:
        yield opened


async def recorded(house: House) -> int:
    units: int = (await house.balance()).recorded
    return units


async def test_usage_commits_with_the_callers_data(place: str) -> None:
    """
    Or rolls back with it, wherever the caller's connection looks for tables. Covers: M11
    """
    async with house_at(place) as house:
        connection = await asyncpg.connect(place, server_settings={"search_path": "pg_catalog"})
        try:
            await connection.execute("CREATE TABLE public.orders (id int)")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await house.use(5, event_id="lost", connection=connection)
                    raise ZeroDivisionError
            async with connection.transaction():
                await connection.execute("INSERT INTO public.orders VALUES (1)")
                await house.use(7, event_id="kept", connection=connection)
        finally:
            await connection.close()

        assert 7 == (await house.balance()).recorded
        assert (await house.use(5, event_id="lost")).repeated is False
        assert (await house.use(7, event_id="kept")).repeated is True


async def test_a_connection_without_a_transaction_is_refused(place: str) -> None:
    """
    Usage would be stored by itself, whatever becomes of the caller's data. ledger C4
    """
    async with house_at(place) as house:
        connection = await asyncpg.connect(place)
        try:
            with pytest.raises(LedgerError, match="begin a transaction on it first") as refusal:
                await house.use(5, connection=connection)
            async with connection.transaction():
                await house.use(7, connection=connection)
        finally:
            await connection.close()
        with pytest.raises(LedgerError, match="nothing was stored"):
            await house.use(5, connection=connection)

        assert str(refusal.value).endswith("nothing was stored")
        assert 7 == (await house.balance()).recorded


async def test_a_refusal_leaves_the_callers_transaction_usable(place: str) -> None:
    """
    And is a LedgerError, as everywhere. ledger C4
    """
    async with house_at(place) as house:
        await execute(
            place, "ALTER TABLE marketplace_metering.arrival ADD CHECK (quantity < 9000000)"
        )
        connection = await asyncpg.connect(place)
        try:
            async with connection.transaction():
                with pytest.raises(LedgerError, match="nothing was stored"):
                    await house.use(9, connection=connection)
                await house.use(8, connection=connection)
        finally:
            await connection.close()

        assert 8 == (await house.balance()).recorded


async def test_a_connection_of_sqlalchemy_is_joined(home: House, engine: AsyncEngine) -> None:
    """
    Though it begins with its first statement only: that is ours. ledger C4, newcomer H1
    """
    async with engine.connect() as connection:
        with pytest.raises(LedgerError, match="begin a transaction on it first"):
            await home.use(1, connection=connection)
        transaction = await connection.begin()
        await home.use(2, connection=connection)
        before = await recorded(home)
        await transaction.rollback()
        rolled_back = await recorded(home)
        async with connection.begin():
            await home.use(4, connection=connection)

    assert (0, 0) == (before, rolled_back)
    assert 4 == await recorded(home)


async def test_a_session_of_sqlalchemy_is_joined(home: House, engine: AsyncEngine) -> None:
    """
    With its savepoints. ledger C4, M14
    """
    async with AsyncSession(engine) as session:
        with pytest.raises(LedgerError, match="begin a transaction on it first"):
            await home.use(1, connection=session)
        async with session.begin():
            await home.use(2, connection=session)
            nested = await session.begin_nested()
            await home.use(4, event_id="lost", connection=session)
            await nested.rollback()
            async with session.begin_nested():
                await home.use(8, event_id="kept", connection=session)
        await session.execute(text("SELECT 1"))
        await home.use(16, connection=session)
        await session.rollback()

    assert 10 == await recorded(home)
    assert not (await home.use(4, event_id="lost")).repeated
    assert (await home.use(8, event_id="kept")).repeated


async def test_a_connection_of_sqlalchemy_that_commits_by_itself_is_refused(
    home: House, engine: AsyncEngine
) -> None:
    """
    It is in no transaction, whatever it says. ledger C4
    """
    by_itself = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with by_itself.connect() as connection, connection.begin():
        with pytest.raises(LedgerError, match="begin a transaction on it first"):
            await home.use(1, connection=connection)

    assert 0 == await recorded(home)


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN ISOLATION LEVEL SERIALIZABLE"])
async def test_a_transaction_begun_by_hand_is_joined(home: House, place: str, begin: str) -> None:
    """
    As any other one, with a savepoint in it.
    """
    connection = await asyncpg.connect(place)
    try:
        for statement in (begin, "SAVEPOINT own"):
            await connection.execute(statement)
        await home.use(1, connection=connection)
        await connection.execute("ROLLBACK TO SAVEPOINT own")
        await home.use(2, connection=connection)
        await connection.execute("COMMIT")
    finally:
        await connection.close()

    assert 2 == await recorded(home)


@pytest.mark.parametrize("is_ledger", [True, False])
async def test_a_connection_to_another_database_is_refused(
    home: House, postgres: str, *, is_ledger: bool
) -> None:
    """
    Be there a ledger in it, such as of staging, or none. ledger M14
    """
    elsewhere = await new_postgres_database(postgres)
    if is_ledger:
        async with house_at(elsewhere):
            pass
    connection = await asyncpg.connect(elsewhere)
    try:
        async with connection.transaction():
            with pytest.raises(LedgerError, match="connect it to the database of this ledger"):
                await home.use(1, connection=connection)
            await connection.execute("CREATE TABLE still_usable ()")
    finally:
        await connection.close()


async def test_other_connections_are_refused(home: House) -> None:
    """
    By name, and the text says which are right. ledger M14
    """
    engine = create_async_engine("postgresql+asyncpg://")
    for odd in (object(), engine, "postgresql://"):
        with pytest.raises(LedgerError, match=r"expected asyncpg's Connection, .* got ") as refusal:
            await home.use(1, connection=odd)
        assert str(refusal.value).endswith(f"{type(odd).__qualname__}; nothing was stored")


@pytest.mark.parametrize("how", ["closed", "aborted"])
async def test_a_connection_that_is_of_no_use_is_a_ledger_error(
    home: House, place: str, how: str
) -> None:
    """
    As everything that the database refuses. ledger M14
    """
    connection = await asyncpg.connect(place)
    await connection.execute("BEGIN")
    if how == "closed":
        await connection.close()
    else:
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute("SELECT 1/0")
    with pytest.raises(LedgerError, match="nothing was stored"):
        await home.use(1, connection=connection)
    connection.terminate()


@pytest.mark.parametrize("how", ["closed", "aborted"])
@pytest.mark.parametrize("kind", [AsyncConnection, AsyncSession])
async def test_one_of_sqlalchemy_that_is_of_no_use_is_a_ledger_error(
    home: House, engine: AsyncEngine, how: str, kind: type[AsyncConnection | AsyncSession]
) -> None:
    """
    Too, and none of SQLAlchemy's own errors.
    """
    async with kind(engine) as given, given.begin() as transaction:
        await given.execute(text("SELECT 1"))
        if how == "closed":
            under = await given.connection() if isinstance(given, AsyncSession) else given
            lost: Any = (await under.get_raw_connection()).driver_connection
            lost.terminate()
        else:
            with pytest.raises(DBAPIError):
                await given.execute(text("SELECT 1/0"))
        for _ in range(2):
            with pytest.raises(LedgerError, match="nothing was stored"):
                await home.use(1, connection=given)
        await transaction.rollback()


@pytest.mark.parametrize("others", [0, 20])
async def test_an_event_of_two_processes_at_once_counts_once(
    home: House, place: str, others: int
) -> None:
    """
    The second one waits for the first, and knows its id then; nobody who shares a commit with it
    fails. ledger M3
    """
    connection = await asyncpg.connect(place)
    async with asyncio.timeout(60), connection.transaction():
        await home.use(1, event_id="e", connection=connection)
        waiting = [
            asyncio.create_task(home.use(2, dimension=f"other-{n}", event_id=name))
            for n, name in enumerate(["e", *[None] * others])
        ]
        await until_somebody_waits(place)
    await connection.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)

    conflicts = [isinstance(one, EventConflictError) for one in results]
    assert [True] + [False] * others == conflicts
    assert 1 + others * 2 == await recorded(home)


async def test_an_event_of_two_transactions_at_once_counts_once(home: House, place: str) -> None:
    """
    Each of a caller's own. ledger M3
    """
    first, second = [await asyncpg.connect(place) for _ in range(2)]
    async with asyncio.timeout(60), second.transaction():
        async with first.transaction():
            await home.use(4, event_id="e", connection=first)
            adding = asyncio.create_task(
                home.use(4, dimension="other", event_id="e", connection=second)
            )
            await until_somebody_waits(place)
        with pytest.raises(EventConflictError):
            await adding
        await home.use(8, connection=second)
    for connection in (first, second):
        await connection.close()

    assert 12 == await recorded(home)


async def test_usage_that_the_database_cannot_hold_is_refused(postgres: str) -> None:
    """
    Such as text that it has no characters for; what shares its commit is stored. ledger M3
    """
    name = f"latin_{uuid4().hex}"
    options = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    await execute(postgres, f"CREATE DATABASE {name} {options}")
    async with house_at(database_at(postgres, name)) as house:
        results = await asyncio.gather(
            *(house.use(1, event_id=event_id) for event_id in ("é", "€", "ü")),
            return_exceptions=True,
        )

        assert isinstance(results[1], UsageRefusedError)
        assert 2 == await recorded(house)
        assert {"é", "ü"} == (await house.ledger.known_events(["é", "€", "ü"])).keys()


async def test_the_servers_clock_decides(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Of when usage without a time happened, and when an hour is over, whatever the machine's clock
    shows. Design, Laws of the ledger; ledger section 7
    """
    real = datetime.now(UTC)
    monkeypatch.setattr(SystemClock, "now", lambda self: real + timedelta(days=40))
    async with UsageLedger.open(place) as ledger:
        await ledger.add_usage(
            dimension="requests",
            quantity=1,
            product_code="product",
            customer_aws_account_id="111122223333",
        )
        (entry,) = [entry async for entry in ledger.history()]
        sealed = await ledger._store.seal_due(ledger._now(), 10, "us-east-1")

        assert entry.timestamp is not None
        assert abs(entry.timestamp - real) < timedelta(minutes=2)
        assert Sealed() == sealed


@pytest.mark.parametrize("lost", ["note", "claims"])
async def test_a_callers_usage_finds_a_copy(home: House, place: str, lost: str) -> None:
    """
    As usage on a connection of the ledger's own does: by what this process remembers. It is stored,
    and waits. ledger C1
    """
    await home.use(1)
    await home.relay_after(hours=1)
    await change(
        place,
        "DELETE FROM posting RETURNING 1"
        if lost == "note"
        else "UPDATE ledger SET claims = claims - 1 RETURNING 1",
    )
    connection = await asyncpg.connect(place)
    try:
        for quantity in (2, 4):
            async with connection.transaction():
                await home.use(quantity, connection=connection)
    finally:
        await connection.close()
    status = await home.balance()
    warned = [event.text for event in home.warned if isinstance(event, WarningIssued)]

    assert (True, 7) == (status.is_unconfirmed_copy, status.recorded)
    assert 1 == len(warned)


async def test_a_process_misses_its_own_claim_at_once(home: House, place: str) -> None:
    """
    Lost before its verdict is written down. ledger C1
    """
    await home.use(1)
    home.clock.step(hours=1)
    (claim,) = await claimed(home)
    await change(place, "UPDATE ledger SET claims = claims - 1 RETURNING 1")
    await settle(home, fate(claim, HourState.METERED))

    assert (await home.balance()).is_unconfirmed_copy


async def test_a_callers_old_snapshot_is_no_copy(home: House, place: str) -> None:
    """
    It looks at what was before our latest note and claim. ledger C1
    """
    connection = await asyncpg.connect(place)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("SELECT 1")
            await connection.fetchval("SELECT claims FROM marketplace_metering.ledger")
            await home.use(1, at=NOON - HOUR)
            await home.relay_after(hours=1)
            await home.use(2, customer_aws_account_id="000000000002", connection=connection)
    finally:
        await connection.close()
    status = await home.balance()

    assert (False, 3) == (status.is_unconfirmed_copy, status.recorded)
    assert [] == [event for event in home.warned if isinstance(event, WarningIssued)]


@pytest.mark.parametrize("more", ["claims", "nothing"])
async def test_a_callers_old_snapshot_waits_shortly_for_a_move(
    home: House, place: str, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    """
    Whatever was claimed since it began; nothing is stored.
    """
    monkeypatch.setattr(postgresql_connections, "_MOVING_SECONDS", 0.2)
    connection = await asyncpg.connect(place)
    try:
        async with asyncio.timeout(20), connection.transaction(isolation="repeatable_read"):
            await home.use(1, connection=connection)
            if more == "claims":
                await home.use(5, at=NOON - HOUR)
                await home.relay_after(hours=1)
            moving = asyncio.create_task(home.ledger._store.retire("elsewhere"))
            await until_somebody_waits(place)
            with pytest.raises(LedgerError, match="nothing was stored"):
                await home.use(2, connection=connection)
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)
    finally:
        await connection.close()


class _Shared(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types here
    """A connection on which the caller asks for something in between."""

    after = ""

    async def fetch(self, query: str, *values: Any, **settings: Any) -> Any:
        rows = await super().fetch(query, *values, **settings)
        if self.after and self.after in query:
            self.after = ""
            self.between = asyncio.create_task(self.execute("SELECT pg_sleep(0.2)"))
            await asyncio.sleep(0)
        return rows


@pytest.mark.parametrize("within", ["marketplace_metering.arrival", "AS sees_all"])
async def test_what_a_caller_asks_for_in_between_leaves_no_false_word(
    home: House, place: str, within: str
) -> None:
    """
    What is a part of the transaction already, and cannot be taken out of it, is not "not stored".
    """
    connection = await asyncpg.connect(place, connection_class=_Shared)
    try:
        async with connection.transaction():
            connection.after = within
            with pytest.raises(LedgerError, match="another operation is in progress") as refusal:
                await home.use(5, event_id="e", connection=connection)
            await connection.between
    finally:
        await connection.close()

    is_unknown = isinstance(refusal.value, LedgerOutcomeUnknownError)
    assert is_unknown or 0 == await recorded(home)
    assert is_unknown or "nothing was stored" in str(refusal.value)


class _Cancelling(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types here
    """A connection that cancels who asks for something, once that has left, and maybe again."""

    at = ""
    again: Sequence[float] = ()
    whom: asyncio.Task[Any]

    async def execute(self, query: str, *values: Any, **settings: Any) -> Any:
        if self._cancel_soon(query) and self.again:
            for delay in self.again:
                asyncio.get_running_loop().call_later(delay, self.whom.cancel)
            query = f"SELECT pg_sleep(0.1); {query}"
        return await super().execute(query, *values, **settings)

    async def fetch(self, query: str, *values: Any, **settings: Any) -> Any:
        self._cancel_soon(query)
        return await super().fetch(query, *values, **settings)

    def _cancel_soon(self, query: str) -> bool:
        if not (self.at and self.at in query):
            return False
        self.at = ""
        asyncio.get_running_loop().call_soon(self.whom.cancel)
        return True


@pytest.mark.parametrize("again", [(), (0.02, 0.04)])
@pytest.mark.parametrize("at", ["SAVEPOINT", "AS sees_all", "marketplace_metering.arr", "RELEASE"])
async def test_a_call_that_is_cancelled_leaves_the_callers_transaction_usable(
    home: House, place: str, at: str, again: Sequence[float]
) -> None:
    """
    Such as by a timeout that the caller goes on after: a transaction that had failed would commit
    nothing of the caller's data, and say nothing of it.
    """
    connection = await asyncpg.connect(place, connection_class=_Cancelling)
    try:
        await connection.execute("CREATE TABLE orders ()")
        async with connection.transaction():
            await connection.execute("INSERT INTO orders DEFAULT VALUES")
            connection.at, connection.again = at, again
            connection.whom = adding = asyncio.create_task(
                home.use(5, event_id="e", connection=connection)
            )
            await asyncio.wait((adding,))
        orders = await connection.fetchval("SELECT count(*) FROM orders")
    finally:
        await connection.close()

    assert adding.cancelled()
    assert 1 == orders
    assert await recorded(home) in (0, 5)


async def test_a_transaction_takes_usage_of_many_calls_at_once(home: House, place: str) -> None:
    """
    One after another: on one connection the savepoint of one would undo another's.
    """
    connection = await asyncpg.connect(place)
    try:
        async with connection.transaction():
            added = await asyncio.gather(
                *(home.use(1, event_id=f"{n % 5}", connection=connection) for n in range(10))
            )
    finally:
        await connection.close()

    assert 5 == sum(not one.repeated for one in added)
    assert 5 == await recorded(home)


async def test_refusals_leave_nothing_in_the_callers_transaction(home: House, place: str) -> None:
    """
    A savepoint that stayed would be one more for each of them, which the server keeps track of.
    """
    await execute(place, "ALTER TABLE marketplace_metering.arrival ADD CHECK (quantity < 9000000)")
    connection = await asyncpg.connect(place)
    try:
        async with connection.transaction():
            with pytest.raises(UsageRefusedError, match="nothing was stored"):
                await home.use(9, connection=connection)
            with pytest.raises(asyncpg.InvalidSavepointSpecificationError):
                await connection.execute("RELEASE SAVEPOINT marketplace_metering")
            raise ZeroDivisionError  # noqa: TRY301 - the transaction is aborted
    except ZeroDivisionError:
        pass
    finally:
        await connection.close()
