"""
Copies of a ledger in PostgreSQL: a restored dump, and a standby that lacks what was committed.

The story is that of test_ledger_copies. What sees it is either a watermark, or a process that has
lived through it.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from support.clusters import Cluster, clusters
from support.copies import (
    adopted,
    again,
    an_hour_later,
    billed,
    first_five,
    idle_meanwhile,
    late_hundred,
    lost_timeline,
    repeated,
    sealed,
    warnings_of,
    watermark_in,
)
from support.ledgers import (
    NOON,
    House,
    change,
    connections_of,
    database_at,
    execute,
    house_at,
    new_postgres_database,
)

from marketplace_metering_async import LedgerUnusableError
from marketplace_metering_async.ledger import HourState
from marketplace_metering_async.ledger.stores import postgresql, postgresql_connections
from marketplace_metering_async.ledger.stores.postgresql_database import PostgresDatabase


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with clusters("one") as (made,):
        made.make()
        yield made


def with_watermark(url: str, folder: Path) -> str:
    return f"{url}{'&' if '?' in url else '?'}watermark={folder}"


@pytest.mark.parametrize("seen_by", ["watermark", "process"])
async def test_a_restored_dump_bills_nothing_twice(
    cluster: Cluster, tmp_path: Path, seen_by: str
) -> None:
    """
    Used 105, billed 105, once the producers have repeated. Covers: K19. ledger C1
    """
    plain = await new_postgres_database(cluster.url)
    url = with_watermark(plain, tmp_path) if seen_by == "watermark" else plain
    async with house_at(url) as house:
        await first_five(house)
        cluster.dump(plain)
        await lost_timeline(house)
        if seen_by == "process":
            cluster.restore(plain)
            await audit(house)
    if seen_by == "watermark":
        cluster.restore(plain)
        restored = again(house, url)
        async with restored.ledger:
            await audit(restored)


async def audit(house: House) -> None:
    """Repeat, adopt, and compare."""
    await repeated(house)
    held = await house.balance()
    before = billed(house)
    await adopted(house)
    status = await house.balance()

    assert held.is_unconfirmed_copy
    assert not status.is_unconfirmed_copy
    assert (105, 112) == (before, status.recorded)
    assert {HourState.UNCONFIRMED: 100} == status.ended


async def test_a_relay_that_was_idle_looks_outside_before_it_seals(
    cluster: Cluster, tmp_path: Path
) -> None:
    """
    All that it remembers is in the dump. ledger C1
    """
    plain = await new_postgres_database(cluster.url)
    async with house_at(with_watermark(plain, tmp_path)) as house:
        await idle_meanwhile(house, lambda: cluster.dump(plain), lambda: cluster.restore(plain))


async def test_usage_that_came_before_the_copy_was_found_is_held(
    cluster: Cluster, tmp_path: Path
) -> None:
    """
    A process that knows nothing of the watermark carries it into an hour that the lost ledger never
    sealed. ledger C1
    """
    plain = await new_postgres_database(cluster.url)
    url = with_watermark(plain, tmp_path)
    async with house_at(url) as house:
        await first_five(house)
        cluster.dump(plain)
        await lost_timeline(house)
    cluster.restore(plain)
    house.clock.step(hours=2)
    unaware = again(house, plain)
    async with unaware.ledger:
        await late_hundred(unaware)
        assert not (await unaware.balance()).is_unconfirmed_copy
    restored = again(house, url)
    async with restored.ledger:
        await audit(restored)


async def test_a_watermark_that_is_gone_is_a_sign(cluster: Cluster, tmp_path: Path) -> None:
    """
    Of a server that was restored together with its disk. Elsewhere it is made anew. ledger C1
    """
    plain = await new_postgres_database(cluster.url)
    async with house_at(with_watermark(plain, tmp_path)) as house:
        await first_five(house)
    new = tmp_path / "new"
    new.mkdir()
    moved = again(house, with_watermark(plain, new))
    async with moved.ledger:
        await moved.use(1)
        await an_hour_later(moved)
        assert 6 == billed(moved)
        assert ["made anew" in text for text in warnings_of(moved)] == [True]
    shutil.rmtree(watermark_in(new))
    gone = again(house, with_watermark(plain, new))
    async with gone.ledger:
        assert (await gone.balance()).is_unconfirmed_copy
        assert any("watermark is missing" in text for text in warnings_of(gone))


async def test_a_relay_that_cannot_write_the_watermark_sends_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    """
    Nor does one that was not given its place. ledger C1
    """
    plain = await new_postgres_database(cluster.url)
    folder = tmp_path / "folder"
    folder.mkdir()
    async with house_at(with_watermark(plain, folder)) as house:
        await first_five(house)
        await house.use(1)
        folder.rename(tmp_path / "unmounted")
        with pytest.raises(LedgerUnusableError, match="no such folder"):
            await an_hour_later(house)
        unaware = again(house, plain)
        async with unaware.ledger:
            with pytest.raises(LedgerUnusableError, match="add watermark=FOLDER"):
                await an_hour_later(unaware)
            assert 1 == (await unaware.balance()).open  # nor seals it what a copy would hold
        assert 5 == billed(house)
        (tmp_path / "unmounted").rename(folder)
        await an_hour_later(house)
        assert 6 == billed(house)


@pytest.mark.parametrize("has_watermark", [True, False])
async def test_a_cluster_that_was_upgraded_goes_on_from_what_it_sealed(
    place: str, tmp_path: Path, *, has_watermark: bool
) -> None:
    """
    pg_upgrade and a blue-green switch give the cluster another identity: it waits for a person.
    With a watermark, no hour that was open is held then; without one, nobody knows. ledger
    section 7, suspicion: reproduced
    """
    url = with_watermark(place, tmp_path) if has_watermark else place
    async with house_at(url) as house:
        await first_five(house)
        await house.use(7)
    await change(place, "UPDATE ledger SET mark = '1 ' || split_part(mark, ' ', 2) RETURNING 1")
    upgraded = again(house, url)
    async with upgraded.ledger:
        guarded = await upgraded.balance()
        await upgraded.ledger.adopt_copy()
        await an_hour_later(upgraded)
        status = await upgraded.balance()

    assert guarded.is_unconfirmed_copy
    assert (12 if has_watermark else 5) == status.metered
    assert ({} if has_watermark else {HourState.UNCONFIRMED: 7}) == status.ended


async def test_a_server_that_shows_no_identity_is_used(place: str) -> None:
    """
    A managed one may let nobody call pg_control_system(), or not any more. ledger M7, section 7
    """
    async with house_at(place) as house:
        await house.use(3)
    role, revoked = f"role_{uuid4().hex}", "EXECUTE ON FUNCTION pg_control_system()"
    await execute(
        place,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA marketplace_metering TO {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA marketplace_metering TO {role}",
        f"REVOKE {revoked} FROM PUBLIC",
    )
    parts = urlsplit(place)
    url = parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()
    later = again(house, url)
    async with later.ledger:
        await an_hour_later(later)
        status = await later.balance()

    assert (3, False) == (status.metered, status.is_unconfirmed_copy)


async def test_a_server_that_fails_to_show_its_identity_is_used(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Amazon Aurora lets everybody call such a function, and may have an error for it.
    """
    for module in (postgresql, postgresql_connections):
        monkeypatch.setattr(module, "CLUSTER", "SELECT 1 / 0 FROM pg_control_system()")
    async with house_at(place) as house:
        await house.use(3)
        await house.relay_after(hours=1)
        status = await house.balance()

    assert (3, False) == (status.metered, status.is_unconfirmed_copy)


class Pair:
    """A primary and its standby, behind one address."""

    def __init__(self, primary: Cluster, standby: Cluster) -> None:
        self._primary = primary
        self._standby = standby
        self._address = primary.socket.parent / "address"
        self._address.symlink_to(primary.socket)

    async def database(self) -> str:
        """Return the URL of a new database, which stays the same through a failover."""
        made = await new_postgres_database(self._primary.url)
        return made.replace(str(self._primary.socket), str(self._address))

    async def stop_streaming(self) -> None:
        await self._standby.caught_up(self._primary)
        await self._standby.cut_off()

    async def fail_over(self, *, lossless: bool) -> None:
        if lossless:
            await self._standby.caught_up(self._primary)
        self._primary.stop()
        self._standby.promote()
        self._address.unlink()
        self._address.symlink_to(self._standby.socket)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    with clusters("primary", "standby") as (primary, standby):
        primary.make()
        standby.follow(primary)
        yield Pair(primary, standby)


async def test_a_failover_that_lost_commits_is_seen(tmp_path: Path) -> None:
    """
    By whom knows of them: a process that has sent, one that has stored usage alone, and whoever
    reads a watermark. Used 105, billed 105. Where it lost a claim and no sealing, the record goes
    out once more, and that the service has it already is no conflict. Covers: M09, M12. ledger C1,
    H7
    """
    async with pair() as servers:
        urls = [await servers.database() for _ in range(4)]
        marked = [with_watermark(url, tmp_path) for url in urls[2:]]
        async with house_at(urls[0]) as sending, house_at(urls[1]) as storing:
            async with house_at(marked[0]) as dead, house_at(marked[1]) as claiming:
                for house in (sending, storing, dead):
                    await first_five(house)
                await sealed(claiming)
                await servers.stop_streaming()
                await lost_timeline(sending)
                await late_hundred(storing)
                await lost_timeline(dead)
                await claiming.relay()
            await servers.fail_over(lossless=False)
            await audit(sending)

            await late_hundred(storing)
            assert (await storing.balance()).is_unconfirmed_copy
            assert any("usage that this process stored" in text for text in warnings_of(storing))
            await an_hour_later(storing)
            assert 5 == billed(storing)
        restored = again(dead, marked[0])
        async with restored.ledger:
            await audit(restored)
        claimed = again(claiming, marked[1])
        async with claimed.ledger:
            await an_hour_later(claimed)
            status = await claimed.balance()

    assert 5 == billed(claimed)
    assert {HourState.PROBABLY_METERED: 5} == status.ended
    assert status.is_unconfirmed_copy


async def test_a_failover_that_lost_nothing_is_none(tmp_path: Path) -> None:
    """
    Nobody has to adopt what lacks nothing, neither running processes nor new ones. ledger H7
    """
    async with pair() as servers:
        url = with_watermark(await servers.database(), tmp_path)
        async with house_at(url) as house:
            await first_five(house)
            await house.use(100)
            await servers.fail_over(lossless=True)
            await an_hour_later(house)
            await house.use(7)
            assert not (await house.balance()).is_unconfirmed_copy
        later = again(house, url)
        async with later.ledger:
            await an_hour_later(later)
            assert not (await later.balance()).is_unconfirmed_copy
        assert 112 == billed(later)
        assert [] == warnings_of(later)


async def test_a_list_of_hosts_finds_the_standby_that_was_promoted() -> None:
    """
    Nobody changes an address: the hosts are asked for the one that writes. ledger H1, H7, H13
    """
    with clusters("primary", "standby") as (primary, standby):
        primary.make()
        standby.follow(primary)
        name = urlsplit(await new_postgres_database(primary.url)).path[1:]
        hosts = f"host={primary.socket},{standby.socket}&target_session_attrs=read-write"
        async with house_at(f"postgresql://postgres@/{name}?{hosts}") as house:
            await first_five(house)
            await house.use(100)
            await standby.caught_up(primary)
            primary.stop()
            before = asyncio.create_task(house.use(7, event_id="in the middle of it"))
            await asyncio.sleep(0.1)
            standby.promote()
            await before
            await an_hour_later(house)
            status = await house.balance()

        assert (112, False) == (status.metered, status.is_unconfirmed_copy)


async def test_a_server_that_crashed_lacks_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """
    A restart is no restore. ledger C1
    """
    url = with_watermark(await new_postgres_database(cluster.url), tmp_path)
    async with house_at(url) as house:
        await first_five(house)
        await house.use(100)
        cluster.restart()
        await an_hour_later(house)
        await house.use(7)
        await an_hour_later(house)

        assert 112 == billed(house)
        assert not (await house.balance()).is_unconfirmed_copy
        assert not any("copy" in text for text in warnings_of(house))


@pytest.mark.parametrize("seen_by", ["watermark", "process"])
async def test_a_transaction_that_is_tried_again_looks_again(
    cluster: Cluster, tmp_path: Path, seen_by: str
) -> None:
    """
    It began at the ledger, and meets the copy: what it knew before is of the past by then.
    """
    plain = await new_postgres_database(cluster.url)
    url = with_watermark(plain, tmp_path) if seen_by == "watermark" else plain
    async with house_at(url) as house:
        await first_five(house)
        cluster.dump(plain)
        async with house.another() as idle:
            connections = connections_of(idle)
            begin = connections._begin

            async def fail_over(*_: Any) -> None:
                connections._begin = begin
                await lost_timeline(house)
                await house.ledger.aclose()
                if seen_by == "process":
                    await connections.run(lambda db: db.fetchval("SELECT 1"))
                cluster.restore(plain)
                raise ConnectionResetError

            connections._begin = fail_over
            now = int(house.clock.now().timestamp())
            await idle._store.seal_due(now, 1_000, "us-east-1")

            assert (await idle.status()).is_unconfirmed_copy
            house.ledger = idle


@pytest.mark.parametrize("is_adopted", [False, True])
async def test_what_a_copy_has_sent_is_known_to_what_is_restored_after_it(
    cluster: Cluster, tmp_path: Path, *, is_adopted: bool
) -> None:
    """
    A copy sends what it had sealed while nobody has adopted it, and then it is put back once more:
    used 106, billed 106. ledger C1
    """
    plain = await new_postgres_database(cluster.url)
    url = with_watermark(plain, tmp_path)
    hour = NOON + timedelta(hours=1)
    async with house_at(url) as house:
        await first_five(house)
        await house.use(1, event_id="before", at=hour)
        cluster.dump(plain)
        await house.use(100, event_id="after", at=hour)
        house.clock.step(hours=1)
        await house.ledger._store.seal_due(int(house.clock.now().timestamp()), 9, "us-east-1")
    await change(
        plain, "UPDATE ledger SET mark = '1 ' || split_part(mark, ' ', 2) RETURNING 1"
    )  # as pg_upgrade does
    copy = again(house, url)
    async with copy.ledger:
        await copy.relay()
        assert 106 == billed(house)
        if is_adopted:
            await copy.ledger.adopt_copy()
    cluster.restore(plain)
    restored = again(house, url)
    async with restored.ledger:
        await restored.relay()
        assert (await restored.balance()).is_unconfirmed_copy
        await restored.ledger.adopt_copy()
        await restored.use(1, event_id="before", at=hour)
        await restored.use(100, event_id="after", at=hour)
        for _ in range(3):
            await an_hour_later(restored)
        status = await restored.balance()

    assert 106 == billed(house)
    assert 101 == status.ended[HourState.UNCONFIRMED]


async def test_a_relay_that_looked_outside_before_another_ones_first_claim_sees_no_copy(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is missing outside is looked for again while nobody can claim.
    """
    plain = await new_postgres_database(cluster.url)
    url = with_watermark(plain, tmp_path)
    has_looked, may_go_on = asyncio.Event(), asyncio.Event()
    outside = PostgresDatabase.outside

    async def slow(db: PostgresDatabase, work: Callable[[], Any]) -> Any:
        found = await outside(db, work)
        if not has_looked.is_set():
            has_looked.set()
            await may_go_on.wait()
        return found

    async with house_at(url) as house:
        other = again(house, url)
        async with other.ledger:
            await house.use(5, at=NOON)
            house.clock.step(hours=1)
            await house.use(7)
            monkeypatch.setattr(PostgresDatabase, "outside", slow)
            relaying = asyncio.create_task(other.relay())
            await has_looked.wait()
            await house.relay()
            may_go_on.set()
            await relaying
            assert not (await house.balance()).is_unconfirmed_copy
            await an_hour_later(house)

    assert 12 == billed(house)


async def test_texts_are_known_again_where_another_system_has_another_order(
    cluster: Cluster,
) -> None:
    """
    As an upgrade of the operating system brings, or a standby on another one: an index in the order
    of its language would no longer find what is there, and take it twice. ledger C1
    """
    name = f"ordered_{uuid4().hex}"
    language = "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en'"
    await execute(cluster.url, f"CREATE DATABASE {name} {language}")
    texts = [f"{word}{number}" for number in range(100) for word in ("event-", "Event", "-event ")]
    for is_known in (False, True):
        async with house_at(database_at(cluster.url, name)) as house:
            await house.use(1)  # so that the rest is added blindly
            adding = (house.use(1, event_id=text) for text in texts)
            assert {is_known} == {added.repeated for added in await asyncio.gather(*adding)}
            assert len(texts) + 1 + is_known == (await house.balance()).recorded
        ((column,),) = await change(
            cluster.url,
            "SELECT attname FROM pg_attribute WHERE attrelid = 'pg_database'::regclass "
            "AND attname ~ '^dat(icu)?locale$'",
        )
        other = f"UPDATE pg_database SET {column} = 'en-u-kn-kf-upper' WHERE datname = '{name}'"
        await execute(cluster.url, other)
    of_a_language = await change(
        database_at(cluster.url, name),
        "SELECT attrelid::regclass::text FROM pg_index JOIN pg_attribute ON attrelid = indexrelid "
        "WHERE attcollation NOT IN (0, '\"C\"'::regcollation) AND indrelid IN "
        "(SELECT oid FROM pg_class WHERE relnamespace = 'marketplace_metering'::regnamespace)",
    )
    assert not of_a_language
