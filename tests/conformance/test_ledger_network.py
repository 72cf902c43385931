"""A ledger in PostgreSQL when the way there breaks: what passes is outlived, doubt has a name."""

import asyncio
import errno
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from attrs import define
from support.ended import end
from support.ledgers import (
    ACCOUNT,
    HOUR,
    NOON,
    a_caller,
    change,
    connections_of,
    execute,
    house_at,
    until_somebody_waits,
)
from support.proxy import proxy_to

from marketplace_metering_async import (
    ConfigurationError,
    HourState,
    LedgerError,
    LedgerOutcomeUnknownError,
    UsageLedger,
    UsageRefusedError,
)
from marketplace_metering_async.ledger import relay
from marketplace_metering_async.ledger.stores import postgresql_connections, postgresql_transactions

THIS_HOUR = NOON.replace(minute=0)
NAME = "ledger.test"


@define
class Names:
    """What the name of the proxy stands for: addresses, or the error of looking it up."""

    answer: list[str] | OSError

    def look_up(self, real: Any) -> Any:
        """Return a getaddrinfo() that knows the name, and asks the *real* one about others."""

        def getaddrinfo(host: Any, port: Any, *more: Any, **named: Any) -> Any:
            if host != NAME:
                return real(host, port, *more, **named)
            if isinstance(self.answer, OSError):
                raise self.answer
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in self.answer
            ]

        return getaddrinfo


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names(["127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up(socket.getaddrinfo))
    return names


@pytest.fixture
def _impatient(_impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon, too."""
    monkeypatch.setattr(postgresql_connections, "_TRIES", 2)


@pytest.mark.parametrize("cut", [True, False], ids=["cut off", "stalled"])
async def test_usage_counts_once_however_late_its_commit_lands(
    either: str, *, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The next try waits for the one in doubt, and returns what that one did. ledger C3
    """
    if not cut:
        monkeypatch.setattr(postgresql_connections, "_COMMAND_SECONDS", 0.5)
    async with proxy_to(either) as proxy, house_at(proxy.url) as house:
        await house.use(1)
        late = proxy.delay_commit(cut=cut)
        new: dict[str, Any] = {"dimension": "new", "event_id": "late"}
        adding = asyncio.create_task(house.use(100, **new))
        await late.left.wait()
        await until_somebody_waits(either)
        await late.land()
        added = await adding

        assert (False, THIS_HOUR) == (added.repeated, added.hour)
        assert 101 == (await house.balance()).recorded
        assert (await house.use(100, **new)).repeated


@pytest.mark.parametrize("cut", [True, False], ids=["cut off", "stalled"])
async def test_a_statement_that_lands_late_adds_nothing(
    either: str, *, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    For usage that takes one statement only: the next try has its note. ledger C3
    """
    if not cut:
        monkeypatch.setattr(postgresql_connections, "_COMMAND_SECONDS", 0.5)
    async with proxy_to(either) as proxy, house_at(proxy.url) as house:
        await house.use(1)
        await house.use(2)
        late = proxy.delay_commit(cut=cut, text=b"late-event")
        adding = asyncio.create_task(house.use(100, event_id="late-event"))
        await late.left.wait()
        added = await adding
        await late.land()

        assert (False, THIS_HOUR) == (added.repeated, added.hour)
        assert 103 == (await house.balance()).recorded
        assert (await house.use(100, event_id="late-event")).repeated


async def test_a_statement_that_may_land_yet_is_not_begun_anew(place: str) -> None:
    """
    Where the next try meets a lock instead: only the first one's note would keep it out. Behind a
    pooler it waits for a COMMIT. ledger C3
    """
    async with proxy_to(place) as proxy, house_at(proxy.url) as house:
        await house.use(1)
        await house.use(2)
        async with a_caller(place) as other:
            await other.execute("LOCK TABLE marketplace_metering.kept_sum IN EXCLUSIVE MODE")
            late = proxy.delay_commit(cut=True, text=b"product")
            with pytest.raises(LedgerOutcomeUnknownError, match="whether this was stored"):
                await house.use(100)
        await late.land()
        await house.use(4)

        assert (await house.balance()).recorded in (7, 107)


async def test_a_statement_whose_answer_is_lost_counts_once(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The next try finds its note, and returns what it did; what this process remembers of it is
    there. ledger C1, C3
    """
    begin = postgresql_connections.PostgresConnections._begin

    async def lost(self: Any, *values: Any) -> Any:
        begun = await begin(self, *values)
        if values[-1] is not None:
            raise ConnectionResetError
        return begun

    async with house_at(place) as house:
        await house.use(1)
        with monkeypatch.context() as patched:
            patched.setattr(postgresql_connections.PostgresConnections, "_begin", lost)
            added = await house.use(2)
        await house.use(4)

        assert THIS_HOUR == added.hour
        assert (7, False) == (
            (await house.balance()).recorded,
            (await house.balance()).is_unconfirmed_copy,
        )


async def test_usage_counts_once_though_its_commit_never_lands(
    either: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The server ends a transaction whose client is gone, and the next try stores it. ledger C3
    """
    monkeypatch.setattr(
        postgresql_connections,
        "BEGIN_ONCE",
        postgresql_transactions.BEGIN_ONCE.replace("30s", "500ms"),
    )
    async with proxy_to(either) as proxy, house_at(proxy.url) as house:
        await house.use(1)
        late = proxy.delay_commit(cut=True)
        await house.use(100, dimension="new")
        await late.land()

        assert 101 == (await house.balance()).recorded


@pytest.mark.parametrize(
    ("passing", "cut"),
    [(0, True), (1, True), (2, True), (3, True), (3, False)],
    ids=["bind", "seal", "claim", "settle", "settle, stalled"],
)
async def test_a_relay_meters_once_however_late_its_commit_lands(
    place: str, passing: int, *, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whatever of a round it is: the next try finds it done, or does it again to no effect, and a
    claim that nobody knows of runs out. Covers: M09. ledger C3
    """
    monkeypatch.setattr(relay, "_LONGEST_WAIT", 0.1)
    if not cut:
        monkeypatch.setattr(postgresql_connections, "_COMMAND_SECONDS", 0.3)
    async with proxy_to(place) as proxy, house_at(proxy.url, grace=0) as house:
        house.ledger._slice = 0.1
        await house.use(3, at=NOON - HOUR)
        await house.use(5, at=NOON - HOUR, customer_aws_account_id="000000000002")
        late = proxy.delay_commit(cut=cut, passing=passing)
        async with house.relaying():
            await late.left.wait()
            await asyncio.sleep(0.05 if cut else 0.4)
            await late.land()
            async with asyncio.timeout(60):
                while (await house.ledger.status()).metered < 8:
                    await house.ledger.retry(HourState.FROZEN)
                    await asyncio.sleep(0.05)
        status = await house.balance()

        assert (8, {}) == (status.metered, status.ended)
        assert {3, 5} == set(house.metered().values())


@pytest.mark.usefixtures("_impatient")
async def test_a_commit_that_nobody_can_ask_about_is_unknown(either: str) -> None:
    """
    The error says so, and repeating the call with its event id counts once. The note of the usage
    before it may be gone, and makes no copy of the ledger. ledger C1, C3
    """
    async with proxy_to(either) as proxy, house_at(proxy.url) as house:
        await house.use(1)
        late = proxy.delay_commit(cut=True)
        new: dict[str, Any] = {"dimension": "new", "event_id": "doubtful"}
        adding = asyncio.create_task(house.use(100, **new))
        await late.left.wait()
        proxy.refuse()
        with pytest.raises(LedgerOutcomeUnknownError, match="whether this was stored is unknown"):
            await adding
        await late.land()
        await proxy.listen()

        assert (await house.use(100, **new)).repeated
        status = await house.balance()
        assert (101, False) == (status.recorded, status.is_unconfirmed_copy)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("dimension", ["requests", "new"])
async def test_what_is_lost_while_nothing_can_be_stored_is_missed(
    either: str, dimension: str
) -> None:
    """
    As in a failover that takes longer than callers are patient: what may have been stored since,
    in one statement or in a transaction, takes no memory away of what was stored. ledger C1
    """
    async with proxy_to(either) as proxy, house_at(proxy.url) as house:
        await house.use(1)
        await proxy.cut()
        for _ in range(2):
            with pytest.raises(LedgerError):
                await house.use(2, dimension=dimension)
        await change(either, "DELETE FROM posting RETURNING 1")
        await proxy.listen()
        await house.use(2)

        assert (await house.balance()).is_unconfirmed_copy


@pytest.mark.usefixtures("_impatient")
async def test_what_never_got_to_its_commit_is_not_stored(either: str) -> None:
    """
    And the error is certain of it. ledger C3
    """
    async with proxy_to(either) as proxy, house_at(proxy.url) as house:
        await house.use(1)
        await proxy.cut()
        with pytest.raises(LedgerError, match="nothing was stored") as refusal:
            await house.use(100, dimension="new")
        await proxy.listen()

        assert LedgerError is refusal.type
        assert 1 == (await house.balance()).recorded


async def test_a_doubt_that_was_settled_is_none(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The first try is surely gone where the second one begins: what that one meets is certain.
    ledger C3
    """
    monkeypatch.setattr(
        postgresql_connections,
        "BEGIN_ONCE",
        postgresql_transactions.BEGIN_ONCE.replace("30s", "500ms"),
    )
    tries: list[int] = []

    async def broken_the_second_time(db: Any) -> None:
        tries.append(1)
        if len(tries) == 2:
            await db.fetch("SELECT 1 / 0")

    async with proxy_to(place) as proxy, house_at(proxy.url) as house:
        late = proxy.delay_commit(cut=True)
        with pytest.raises(LedgerError, match="division by zero; nothing was stored") as refusal:
            await connections_of(house.ledger).run(broken_the_second_time, once=True)
        await late.land()

    assert UsageRefusedError is refusal.type


@pytest.mark.parametrize("once", [False, True])
async def test_what_is_committed_is_done(place: str, *, once: bool) -> None:
    """
    Though the connection is lost right after it. ledger C3
    """
    tries: list[int] = []

    async def count(db: Any) -> int:
        tries.append(1)
        return len(tries)

    async with proxy_to(place) as proxy, house_at(proxy.url) as house:
        run = connections_of(house.ledger).run
        done = await run(count, once=once)
        proxy.loses_at = b"BEGIN"  # of the next one who needs the session
        done_next = await run(count, once=once)

    assert (1, 2, 2) == (done, done_next, len(tries))
    assert proxy.loses_at is None


@pytest.mark.parametrize("state", [HourState.REJECTED, HourState.MONTH_OVER])
async def test_a_retry_counts_what_is_on_its_way(place: str, state: HourState) -> None:
    """
    Though the connection is lost at the commit, after which the next try finds nothing to do.
    """
    async with proxy_to(place) as proxy, house_at(proxy.url) as house:
        await end(house, state)
        late = proxy.delay_commit(cut=True)
        retrying = asyncio.create_task(house.ledger.retry(state))
        await late.left.wait()
        await late.land()

        assert 1 == await retrying
        assert {} == (await house.balance()).ended


OUTAGES = {
    "refused at two addresses": ["127.0.0.1", "127.0.0.2"],
    "no such name": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    "no route": ["255.255.255.255"],
    "no network": OSError(errno.ENETDOWN, "Network is down"),
}


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
async def test_a_relay_outlives_an_outage(
    place: str, names: Names, outage: list[str] | OSError
) -> None:
    """
    Whatever error the system has for it, which nobody meets but as LedgerError. ledger H1
    """
    async with proxy_to(place) as proxy, house_at(proxy.url_at(NAME), grace=0) as house:
        await house.use(3, at=NOON - HOUR)
        async with house.relaying() as relaying:
            await house.until(lambda: len(house.metered()) == 1 or relaying.done())
            names.answer = outage
            await proxy.cut()
            with pytest.raises(LedgerError, match=r"PostgreSQL: .+; nothing was stored"):
                await house.use(5, at=NOON - 2 * HOUR)
            await house.until(lambda: bool(house.blocked) or relaying.done())
            names.answer = ["127.0.0.1"]
            await proxy.listen()
            await house.use(5, at=NOON - 2 * HOUR)
            await house.until(lambda: len(house.metered()) == 2 or relaying.done())

        assert {(ACCOUNT, THIS_HOUR - HOUR): 3, (ACCOUNT, THIS_HOUR - 2 * HOUR): 5} == (
            house.metered()
        )


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
async def test_opening_meets_ledger_errors_alone(
    place: str, names: Names, outage: list[str] | OSError
) -> None:
    """
    As every other call. ledger H1
    """
    async with proxy_to(place) as proxy:
        await proxy.cut()
        names.answer = outage
        with pytest.raises(LedgerError, match=r"PostgreSQL cannot be used: .+ \(postgresql://"):
            async with house_at(proxy.url_at(NAME)):
                pass


async def test_a_connection_that_is_lost_on_the_way_is_replaced(place: str) -> None:
    """
    Between two statements of what stores, and of what only looks. ledger Low
    """
    async with proxy_to(place) as proxy, house_at(proxy.url) as house:
        proxy.loses_at = b"INSERT INTO marketplace_metering.hour"
        await house.use(3)
        assert proxy.loses_at is None
        proxy.loses_at = b"SUM("
        status = await house.ledger.status()

    assert proxy.loses_at is None
    assert 3 == status.recorded


@pytest.mark.parametrize("doing", ["read", "run", "run once"])
@pytest.mark.parametrize("last", [True, False], ids=["before it ends", "before a statement"])
async def test_a_connection_that_is_lost_meanwhile_is_replaced(
    place: str, doing: str, *, last: bool
) -> None:
    """
    While the database waits for us, such as for a watermark: nothing of the next statement, or of
    the COMMIT, has left then.
    """
    lost: list[int] = []

    async def lose_it(db: Any) -> str:
        process = await db.fetchval("SELECT pg_backend_pid()")
        if not lost:
            lost.append(process)
            await execute(place, f"SELECT pg_terminate_backend({process}, 10000)")
            await asyncio.sleep(0.1)
        if not last:
            await db.fetch("SELECT 1")
        return "done"

    async with house_at(place) as house:
        connections = connections_of(house.ledger)
        do = connections.read if doing == "read" else connections.run
        done = await do(lose_it, **({"once": True} if doing == "run once" else {}))

    assert "done" == done


@pytest.mark.usefixtures("_impatient")
async def test_an_outage_is_not_logged_beside_the_ledger(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Who has nothing to store needs no connection, and asks for none, which would be a traceback each
    time.
    """
    async with proxy_to(place) as proxy, house_at(proxy.url) as house:
        await house.use(1)
        await proxy.cut()
        with pytest.raises(LedgerError):
            await house.use(2)
        await asyncio.sleep(0.1)

    assert [] == [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("password", ["pa/s3cret", "pa#s3cret", "#s3cret", "pa?s3cret", "[s3cret"])
async def test_a_url_that_cannot_be_read_shows_no_password(password: str) -> None:
    """
    Whichever part of it a parser stumbles over. ledger H1, Low
    """
    with pytest.raises(
        LedgerError, match=r"PostgreSQL cannot be used|check the ledger's URL"
    ) as refusal:
        async with UsageLedger.open(f"postgresql://me:{password}@127.0.0.1:1/billing"):
            pass

    assert "s3cret" not in str(refusal.value)
    assert refusal.value.__suppress_context__


async def test_a_server_of_another_kind_than_the_url_asks_for_is_a_ledger_error(place: str) -> None:
    """
    No primary among the hosts, as in the middle of a failover. ledger Low
    """
    asking = f"{place}{'&' if '?' in place else '?'}target_session_attrs=standby"
    with pytest.raises(LedgerError, match="PostgreSQL cannot be used"):
        async with UsageLedger.open(asking):
            pass


@pytest.mark.parametrize("name", ["connect_timeout", "statement_cache_size"])
async def test_a_parameter_that_the_server_does_not_know_is_named(either: str, name: str) -> None:
    """
    Those of other drivers, which are sent to the server. Newcomer M8
    """
    with pytest.raises(LedgerError, match=f"leave out of the ledger's URL .*{name}"):
        async with UsageLedger.open(f"{either}{'&' if '?' in either else '?'}{name}=3"):
            pass


def test_a_url_of_sqlalchemy_is_named() -> None:
    """
    With what to write. Newcomer M8
    """
    with pytest.raises(ConfigurationError, match=r"write postgresql:// in place of postgresql\+as"):
        UsageLedger.open("postgresql+asyncpg://user@host/database")


async def test_one_address_of_a_name_is_enough(place: str, names: Names) -> None:
    """
    Whichever of them it is, and while it is another one than before. ledger H1
    """
    async with proxy_to(place) as proxy, house_at(proxy.url_at(NAME)) as house:
        names.answer = ["127.0.0.2", "127.0.0.1"]
        await house.use(1)
        await proxy.cut()
        await proxy.listen()
        await house.use(2)
        names.answer.reverse()
        await proxy.cut()
        await proxy.listen()
        await house.use(4)

        assert 7 == (await house.balance()).recorded


async def test_a_list_of_hosts_is_gone_through(place: str) -> None:
    """
    For the one that writes: whoever takes over gets what comes. ledger H1
    """
    async with proxy_to(place) as first, proxy_to(place) as second:
        parts = urlsplit(first.url)
        hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        user = parts.netloc.rpartition("@")[0]
        url = parts._replace(
            netloc=f"{user}@{hosts}", query="target_session_attrs=read-write"
        ).geturl()
        async with house_at(url, grace=0) as house:
            await house.use(1, at=NOON - HOUR)
            await first.cut()
            await house.use(2, at=NOON - HOUR)
            await first.listen()
            await second.cut()
            await house.relay()

            assert 3 == (await house.balance()).metered


@pytest.mark.usefixtures("_impatient")
async def test_a_session_that_cannot_write_is_replaced(place: str, postgres: str) -> None:
    """
    It stays so when the server can write again, or when another one has taken over. ledger H13
    """
    name = urlsplit(place).path[1:]
    async with house_at(place) as house:
        await house.use(1)
        await execute(
            postgres,
            f"ALTER DATABASE {name} SET default_transaction_read_only = on",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        for _ in range(2):  # the first time around, each session finds that it has ended
            looks = (house.ledger.status() for _ in range(postgresql_connections._CONNECTIONS))
            await asyncio.gather(*looks, return_exceptions=True)
        with pytest.raises(LedgerError, match="read-only transaction; nothing was stored"):
            await house.use(2)
        await asyncio.gather(
            *(house.ledger.status() for _ in range(postgresql_connections._CONNECTIONS))
        )
        await execute(postgres, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await house.use(2)

        assert 3 == (await house.balance()).recorded
