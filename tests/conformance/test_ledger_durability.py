"""What a ledger in PostgreSQL asks of its server: that a commit is on the disk, and little else."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest
from support.ledgers import (
    PostgresServer,
    change,
    connections_of,
    execute,
    house_at,
    new_postgres_database,
    postgres_server,
)

from marketplace_metering_async import LedgerOutcomeUnknownError, LedgerUnusableError
from marketplace_metering_async.ledger.stores import postgresql, postgresql_connections

_WAITING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture
def careless() -> Iterator[PostgresServer]:
    """A server of our own, whose settings may be changed and which may be crashed."""
    with postgres_server() as server:
        yield server


async def configure(server: PostgresServer, **settings: str) -> None:
    """Change settings of the whole server, and wait until new sessions have them."""
    statements = (f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items())
    await execute(server.url, *statements, "SELECT pg_reload_conf()")
    async with asyncio.timeout(30):
        while settings != await settings_of(server.url, *settings):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def settings_of(url: str, *names: str) -> dict[str, str]:
    connection = await asyncpg.connect(url)
    try:
        return {
            name: await connection.fetchval("SELECT current_setting($1)", name) for name in names
        }
    finally:
        await connection.close()


async def test_a_crash_loses_nothing_that_was_acknowledged(careless: PostgresServer) -> None:
    """
    Though the server does not wait for its disk where nobody asks it to. ledger H14. Covers: M10
    """
    await configure(careless, synchronous_commit="off", wal_writer_delay="10s")
    async with house_at(await new_postgres_database(careless.url)) as house:
        await house.use(1)
        connection = await asyncpg.connect(house.url)
        async with connection.transaction():
            await house.use(2, connection=connection)
        careless.crash()
        connection.terminate()
        await asyncio.gather(house.ledger.status(), return_exceptions=True)  # a session that ended

        assert 3 == (await house.balance()).recorded


@pytest.mark.parametrize(
    ("configured", "used"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")],
)
async def test_every_transaction_waits_for_the_disk(place: str, configured: str, used: str) -> None:
    """
    The ledger's own and the caller's, for as long as it lasts; more than that is left. ledger H14
    """
    setting = "SELECT current_setting('synchronous_commit') AS setting"
    await execute(
        place, f"ALTER DATABASE {urlsplit(place).path[1:]} SET synchronous_commit = {configured}"
    )
    async with house_at(place) as house:
        connections = connections_of(house.ledger)
        own = await connections.run(lambda db: db.fetchval(setting))
        noted = await connections.run(lambda db: db.fetchval(setting), once=True)
        connection = await asyncpg.connect(place)
        try:
            async with connection.transaction():
                await house.use(1, connection=connection)
                callers = await connection.fetchval(setting)
            after = await connection.fetchval(setting)
        finally:
            await connection.close()

    assert (used, used, used) == (own, noted, callers)
    assert configured == after


@pytest.mark.parametrize(
    ("configured", "used"), [("0", "30s"), ("1d", "30s"), ("5s", "5s"), ("750ms", "750ms")]
)
async def test_a_transaction_whose_client_is_gone_ends_soon(
    place: str, configured: str, used: str
) -> None:
    """
    Also where a day is configured, as Amazon RDS does: it holds rows that others wait for.
    """
    name = "idle_in_transaction_session_timeout"
    await execute(place, f"ALTER DATABASE {urlsplit(place).path[1:]} SET {name} = '{configured}'")
    async with house_at(place) as house:
        run = connections_of(house.ledger).run
        lasts = [
            await run(lambda db: db.fetchval("SELECT current_setting($1)", name), once=once)
            for once in (False, True)
        ]

    assert [used, used] == lasts


@pytest.mark.parametrize("how", ["terminate", "cancel"])
@pytest.mark.parametrize("pieces", [1, 2], ids=["carefully", "at once"])
async def test_what_no_standby_has_is_not_acknowledged(
    careless: PostgresServer, pieces: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where the server is to wait for one: a commit whose wait was broken off is waited for again,
    though the server calls one done whose wait somebody has cancelled, and warns of it only where
    nobody has asked for silence.
    """
    monkeypatch.setattr(postgresql_connections, "_TRIES", 2)
    async with house_at(await new_postgres_database(careless.url)) as house:
        for _ in range(pieces):
            await house.use(1)
        await configure(careless, synchronous_standby_names="nobody", client_min_messages="error")
        await _commits_wait(careless.url)
        ending = asyncio.create_task(_end_what_waits_for_a_standby(careless.url, how))
        with pytest.raises(LedgerOutcomeUnknownError, match="whether this was stored is unknown"):
            await house.use(10, event_id="e")
        ended = ending.cancel()
        await configure(careless, synchronous_standby_names="")
        again = await house.use(10, event_id="e")

        assert ended
        assert again.repeated
        assert pieces + 10 == (await house.balance()).recorded


async def _commits_wait(url: str) -> None:
    """Wait until commits do: a process of the server's lets the others know, when it gets to it."""
    waits = 0
    while not waits:
        commit = execute(
            url, "CREATE TABLE IF NOT EXISTS probe (); INSERT INTO probe DEFAULT VALUES"
        )
        probe = asyncio.create_task(commit)
        while not (probe.done() or waits):
            ((waits,),) = await change(url, f"SELECT count(pg_cancel_backend(pid)) {_WAITING}")
        await probe


async def _end_what_waits_for_a_standby(url: str, how: str) -> None:
    while True:
        await execute(url, f"SELECT pg_{how}_backend(pid) {_WAITING}")
        await asyncio.sleep(0.05)


async def test_a_server_that_never_waits_for_its_disk_is_refused(careless: PostgresServer) -> None:
    """
    Nothing that it acknowledges is there for certain. ledger H14
    """
    place = await new_postgres_database(careless.url)
    await configure(careless, fsync="off")
    with pytest.raises(LedgerUnusableError, match="set fsync = on"):
        async with house_at(place):
            pass
    await configure(careless, fsync="on")
    async with house_at(place):
        pass


async def test_statements_are_prepared_where_no_pooler_stands_between(place: str) -> None:
    """
    It saves half of the round trips. ledger H2
    """
    async with house_at(place) as house:
        await house.use(1)
        count = "SELECT count(*) AS statements FROM pg_prepared_statements"
        (found,) = await connections_of(house.ledger).run(lambda db: db.fetch(count))

    assert found["statements"] > 0


async def notes_in(place: str) -> int:
    connection = await asyncpg.connect(place)
    try:
        notes: int = await connection.fetchval("SELECT count(*) FROM marketplace_metering.posting")
    finally:
        await connection.close()
    return notes


async def test_commits_leave_no_notes_behind(place: str) -> None:
    """
    But for the latest one of each process. ledger H6
    """
    async with house_at(place) as house, house.another() as other:
        for _ in range(5):
            await house.use(1)
            await house.use(1, other)

    assert 2 == await notes_in(place)


async def test_opening_waits_for_no_notes(place: str) -> None:
    """
    However many there are, and whoever else is at them. ledger H6
    """
    async with house_at(place):
        pass
    connection = await asyncpg.connect(place)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE marketplace_metering.posting")
            async with asyncio.timeout(30), house_at(place) as house:
                await house.balance()
    finally:
        await connection.close()


async def test_a_relay_removes_old_notes_in_small_pieces(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Those of processes that ended long ago, and no others. ledger H6
    """
    monkeypatch.setattr(postgresql, "_NOTES_AT_ONCE", 4)
    async with house_at(place) as house:
        await house.use(1)
        await execute(
            place,
            "INSERT INTO marketplace_metering.posting "
            "SELECT 'old ' || n, now() - interval '169 hours' FROM generate_series(1, 6) AS n",
            "INSERT INTO marketplace_metering.posting "
            "SELECT 'young ' || n, now() - interval '167 hours' FROM generate_series(1, 2) AS n",
        )
        left = [await notes_in(place)]
        for _ in range(3):
            await house.relay()
            left.append(await notes_in(place))
        await house.ledger.prune(house.clock.now() - timedelta(days=4))

    assert [9, 5, 3, 3] == left
    assert 3 == await notes_in(place)


async def test_a_long_relay_removes_old_notes_now_and_then(place: str) -> None:
    """
    Without being opened again. ledger H6
    """
    async with house_at(place) as house, house.client() as client:
        relay = house.ledger._relay(client, None)
        await relay.once()
        await execute(
            place,
            "INSERT INTO marketplace_metering.posting VALUES ('old', now() - interval '8 days')",
        )
        await relay.once()
        soon = await notes_in(place)
        relay._tidy_at -= 3600
        await relay.once()

    assert (1, 0) == (soon, await notes_in(place))
