"""
Wrong ledgers, each with one mistake that somebody has made: a harness that misses one is blind.

Each mutant changes the package in the process that calls it, and in no other.
"""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from attrs import evolve

from marketplace_metering_async.ledger import claims, group_commit, posting, relay, watermark
from marketplace_metering_async.ledger.frozen_record import freeze
from marketplace_metering_async.ledger.hours import hour_of
from marketplace_metering_async.ledger.model import HourState, Settlement, Usage, key_of
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.settlement import settlement
from marketplace_metering_async.ledger.stores import (
    adding,
    identifying,
    postgresql_arrivals,
    postgresql_plain,
    sending,
    sqlite_plain,
    store,
)
from marketplace_metering_async.ledger.stores.database import Dialects
from marketplace_metering_async.ledger.stores.postgresql import PostgresStore
from marketplace_metering_async.ledger.stores.postgresql_connections import PostgresConnections
from marketplace_metering_async.ledger.stores.sqlite import SqliteStore
from marketplace_metering_async.ledger.stores.store import Store
from marketplace_metering_async.ledger.stores.words import Sealed
from marketplace_metering_async.results import RecordStatus


def change(verb: str, instead: Callable[[Any], Any]) -> None:
    """Let both stores do something else, which is made of what they did."""
    for kind in (SqliteStore, PostgresStore):
        setattr(kind, verb, instead(getattr(kind, verb)))


def acknowledge_before_send() -> None:
    """Claimed is called metered; a relay that dies has lost what it held."""

    def instead(claim: Any) -> Any:
        async def claimed(self: Any, now: int, rules: Any) -> Any:
            held = await claim(self, now, rules)
            metered = [
                Settlement(claim=one, state=HourState.METERED, status="Success") for one in held
            ]
            if metered:
                await self.settle(metered, now)
            return held

        return claimed

    change("claim", instead)


def add_to_what_is_sealed() -> None:
    """Each attempt sends the sum of the moment."""
    is_open = "state = 'open'"
    assert all(is_open in text for text in adding.HOURS)
    adding.HOURS = Dialects(*(text.replace(is_open, "1 = 1") for text in adding.HOURS))  # type: ignore[misc]
    claims._reason_to_hold = lambda one: None


def fresh_timestamp() -> None:
    """Each attempt is stamped anew."""
    claim_on = claims._claim_on

    def stamped(one: Any, step: int) -> Any:
        held = claim_on(one, step)
        return evolve(held, stamp=held.stamp + 3600 * (held.crashes + held.attempts))

    claims._claim_on = stamped


def no_event_id() -> None:
    """A repetition counts again."""
    post = posting.Posting.post

    def forgetful(self: Any, usage: Any) -> Any:
        return post(self, usage._replace(event_id=uuid4().hex))  # new in all processes

    posting.Posting.post = forgetful  # type: ignore[method-assign]


def events_first_sums_later() -> None:
    """The event id and the sum are stored in two transactions."""

    def instead(post: Any) -> Any:
        async def posted(self: Any, group: Any, now: int, rules: Any) -> Any:
            named = [usage._replace(quantity=0) for usage in group]
            results = await post(self, named, now, rules)
            new = [
                usage._replace(event_id=None)
                for usage, result in zip(group, results, strict=True)
                if not result.repeated
            ]
            if new:
                await post(self, new, now, rules)
            return results

        return posted

    change("post", instead)


def late_usage_dropped() -> None:
    """Usage of a sealed hour is acknowledged and forgotten."""
    post = posting.Posting.post

    def dropping(self: Any, usage: Any) -> Any:
        key = self._keys[usage.key]
        own = key.hours.get(hour_of(usage.at))
        if own is not None and not own.is_open:
            return posting.AddedUsage()
        return post(self, usage)

    posting.Posting.post = dropping  # type: ignore[method-assign]


def seal_in_two_transactions() -> None:
    """The sum is read in one transaction and frozen in the next."""

    def frozen(due: Any, now: int, region: str) -> list[tuple[Any, ...]]:
        return [
            (
                now,
                region,
                *freeze(region, key_of(name), stamp, quantity, license_product=product),
                hour_id,
            )
            for hour_id, stamp, quantity, name, product, *_ in due
        ]

    async def instead(self: Any, now: int, limit: int, region: str) -> Sealed:
        due = await self._change(lambda db: db.fetch(sending.DUE, now, limit))

        async def write(db: Any) -> None:
            await db.for_each(sending.FREEZE, frozen(due, now, region))
            for hour_id, _, quantity, *_ in due:
                await db.fetch(
                    "UPDATE marketplace_metering.hour SET quantity = $1 WHERE hour_id = $2",
                    quantity,
                    hour_id,
                )

        await self._change(write)
        return Sealed()

    Store.seal_due = instead  # type: ignore[method-assign, assignment]


def acknowledge_before_commit() -> None:
    """Usage is called stored while it is only in memory."""
    commit = group_commit._Line._commit

    async def hasty(self: Any, group: Any, waiting: Any) -> None:
        for brought, stored in zip(group, waiting, strict=True):
            if not stored.done():
                added = posting.AddedUsage()
                one = isinstance(brought, Usage)
                stored.set_result(added if one else [added for _ in brought])
        await commit(self, group, waiting)

    group_commit._Line._commit = hasty  # type: ignore[method-assign]


def unprocessed_is_success() -> None:
    """Whatever is no refusal counts as metered."""

    def hopeful(claimed: Any, result: Any, now: int, **more: Any) -> Settlement:
        one = settlement(claimed, result, now, **more)
        return evolve(one, state=HourState.METERED) if one.state is HourState.FROZEN else one

    relay.settlement = hopeful  # type: ignore[attr-defined]


def duplicate_is_sent_again() -> None:
    """A DuplicateRecord is taken for a failure, and the usage goes out with another hour's."""
    held: dict[int, Any] = {}

    def remember(claim: Any) -> Any:
        async def claimed(self: Any, now: int, rules: Any) -> Any:
            found = await claim(self, now, rules)
            held.update({one.hour_id: one for one in found})
            return found

        return claimed

    def instead(settle: Any) -> Any:
        async def settled(self: Any, settlements: Any, now: int) -> Any:
            counted = await settle(self, settlements, now)
            again = [
                held[o.claim.hour_id] for o in counted if o.status == RecordStatus.DUPLICATE_RECORD
            ]
            usage = [Usage(h.key, h.license_product, now, h.quantity, None, b"") for h in again]
            if usage:
                await self.post(usage, now, PostingRules())
            return counted

        return settled

    change("claim", remember)
    change("settle", instead)


def prune_by_age() -> None:
    """Old rows go, whatever has become of them."""

    def instead(claim: Any) -> Any:
        async def pruning(self: Any, now: int, rules: Any) -> Any:
            held = await claim(self, now, rules)
            for table in ("attempt", "carried", "hour"):
                old = (
                    f"DELETE FROM marketplace_metering.{table} WHERE hour_id IN (SELECT hour_id "
                    f"FROM marketplace_metering.hour WHERE hour < {now - 3 * 3600})"
                )
                await self._change(lambda db, old=old: db.fetch(old))
            return held

        return pruning

    change("claim", instead)


def copy_is_not_seen() -> None:
    """A file that was put back goes on as if nothing had been."""

    def nothing(*args: Any, **named: Any) -> None:
        """See nothing."""

    identifying.sign_of_a_copy = nothing  # type: ignore[attr-defined]
    watermark.Memory.missing = nothing  # type: ignore[method-assign]


def adopted_copy_holds_nothing() -> None:
    """What may be metered already is metered all the same."""

    def forgetful(*known: Any) -> Any:
        return evolve(watermark.adopted(*known), through=0)

    store.adopted = forgetful  # type: ignore[attr-defined, assignment]


def adoption_raises_no_counter() -> None:
    """An adopted copy has claimed as seldom as before, and stays a copy."""

    def humble(claims: int, held: int, outside: Any, now: int) -> Any:
        return evolve(watermark.adopted(claims, held, outside, now), claims=claims)

    store.adopted = humble  # type: ignore[attr-defined, assignment]


def claims_are_not_counted() -> None:
    """Nothing tells a ledger from what it was before it claimed."""
    sending.COUNT = Dialects(*map(_uncounted, sending.COUNT))  # type: ignore[misc]


def _uncounted(statement: str) -> str:
    assert "claims + 1" in statement
    return statement.replace("claims + 1", "claims")


def sent_before_it_is_written_down() -> None:
    """What the ledger has claimed is written outside of it some other time."""

    async def nothing(self: Any, place: Any, ledger: Any) -> None:
        """Write nothing down."""

    Store._write_outside = nothing  # type: ignore[method-assign]


def lost_commit_is_repeated() -> None:
    """A note of an earlier try is not looked at."""
    begin = PostgresConnections._begin

    async def forgetful(self: Any, connection: Any, note: Any, *others: Any) -> Any:
        return await begin(self, connection, note and uuid4().hex, *others)

    PostgresConnections._begin = forgetful  # type: ignore[method-assign, assignment]


def lost_commit_counts_as_done() -> None:
    """Whoever loses the connection at the commit takes it for granted."""
    begin = PostgresConnections._begin
    tried: set[Any] = set()

    async def hopeful(self: Any, connection: Any, note: Any, *others: Any) -> Any:
        """Find a note where there was a try before."""
        if note in tried:
            return None
        if note is not None:
            tried.add(note)
        return await begin(self, connection, note, *others)

    PostgresConnections._begin = hopeful  # type: ignore[method-assign, assignment]


def callers_usage_is_committed_at_once() -> None:
    """Usage is stored whether its caller commits or not."""

    async def at_once(self: Any, connection: Any, usage: Any, now: int, rules: Any) -> Any:
        (result,) = await self.post((usage,), now, rules)
        return result

    PostgresStore.post_on = at_once  # type: ignore[method-assign]


def callers_usage_is_rolled_back() -> None:
    """Usage is called stored, and its savepoint is given up."""

    async def lost(self: Any, connection: Any, usage: Any, now: int, rules: Any) -> Any:
        return posting.AddedUsage()

    PostgresStore.post_on = lost  # type: ignore[method-assign]


def callers_usage_is_folded_twice() -> None:
    """Usage of callers is added to its hour, and left where it was."""
    where = postgresql_arrivals.TAKE[postgresql_arrivals.TAKE.index("WHERE") :]
    conditions, _, columns = where.rpartition("RETURNING")
    table = "marketplace_metering.arrival"
    postgresql_arrivals.TAKE = f"SELECT {columns} FROM {table} {conditions}"  # type: ignore[misc]


def callers_usage_is_removed_by_number() -> None:
    """Up to the latest row that was seen, though one before it may be committed later."""
    take = "DELETE FROM marketplace_metering.arrival WHERE arrival_id <= $1"
    fold = postgresql_arrivals.fold

    async def and_those_before(db: Any, ids: Any, *values: Any, **others: Any) -> Any:
        folded = await fold(db, ids, *values, **others)
        await db.fetch(take, ids[-1])
        return folded

    postgresql_arrivals.fold = and_those_before


def plain_hours_are_not_counted() -> None:
    """Usage of an hour that is remembered is called stored, though the hour is sealed."""
    unchanged, hour = sqlite_plain._unchanged, sqlite_plain.PLAIN_HOUR.partition("{")[0]

    def no_hour_is(db: Any, statement: str, rows: Any) -> list[int]:
        found = unchanged(db, statement, rows)
        return [] if statement.startswith(hour) else found

    sqlite_plain._unchanged = no_hour_is
    _without_count("grown")


def plain_events_are_not_counted() -> None:
    """Usage is added blindly, though its event id is known."""
    name = sqlite_plain.name_events

    def as_if_new(db: Any, events: Any, at: int) -> list[str]:
        name(db, events, at)
        return []

    sqlite_plain.name_events = as_if_new
    _without_count("named")
    unique, lenient = "RETURNING 1), kept", "ON CONFLICT DO NOTHING RETURNING 1), kept"
    assert unique in postgresql_plain._ALL
    postgresql_plain._ALL = postgresql_plain._ALL.replace(unique, lenient)  # type: ignore[misc]


def _without_count(part: str) -> None:
    counted = f"WHEN (SELECT COUNT(*) FROM {part}"
    uncounted = f"WHEN false AND (SELECT COUNT(*) FROM {part}"
    assert counted in postgresql_plain._ALL
    postgresql_plain._ALL = postgresql_plain._ALL.replace(counted, uncounted)  # type: ignore[misc]


def months_have_no_end() -> None:
    """What is late goes to any hour, whichever month that is of."""
    posting.last_hour_of_month = lambda hour: hour + 31 * 86_400  # type: ignore[attr-defined, assignment]


def usage_is_of_when_it_comes() -> None:
    """Late usage belongs to the hour in which it is added."""
    put = posting.Posting._put

    def now_instead(self: Any, key: Any, at: int, quantity: int, events: int = 1) -> Any:
        return put(self, key, max(at, self._now), quantity, events)

    posting.Posting._put = now_instead  # type: ignore[method-assign]


def old_events_are_new() -> None:
    """An event whose id was pruned is taken for one that nobody has seen."""
    made = posting.KnownEvents

    adding.KnownEvents = lambda digests=(), since=0: made(dict(digests), 0)  # type: ignore[attr-defined, assignment]


def pruning_leaves_no_note() -> None:
    """Event ids go, and nothing says up to when."""

    async def noiseless(self: Any, before: int, now: int, limit: int) -> int:
        forget = "DELETE FROM marketplace_metering.event WHERE added_at < $1"
        await self._change(lambda db: db.fetch(forget, before))
        return 0

    Store.prune_events = noiseless  # type: ignore[method-assign]


def denied_is_refused() -> None:
    """What lies with the account ends the records that met it."""

    def strict(claimed: Any, result: Any, now: int, **more: Any) -> Settlement:
        one = settlement(claimed, result, now, **more)
        denied = any(code in (one.error or "") for code in ("AccessDenied", "ExpiredToken"))
        return evolve(one, state=HourState.REJECTED) if denied else one

    relay.settlement = strict  # type: ignore[attr-defined]


def denied_is_metered() -> None:
    """What lies with the account is taken for an answer."""

    def hopeful(claimed: Any, result: Any, now: int, **more: Any) -> Settlement:
        one = settlement(claimed, result, now, **more)
        denied = any(code in (one.error or "") for code in ("AccessDenied", "ExpiredToken"))
        return evolve(one, state=HourState.METERED) if denied else one

    relay.settlement = hopeful  # type: ignore[attr-defined]


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        acknowledge_before_commit,
        acknowledge_before_send,
        add_to_what_is_sealed,
        adopted_copy_holds_nothing,
        adoption_raises_no_counter,
        callers_usage_is_committed_at_once,
        callers_usage_is_folded_twice,
        callers_usage_is_removed_by_number,
        callers_usage_is_rolled_back,
        claims_are_not_counted,
        copy_is_not_seen,
        denied_is_metered,
        denied_is_refused,
        duplicate_is_sent_again,
        events_first_sums_later,
        fresh_timestamp,
        late_usage_dropped,
        lost_commit_counts_as_done,
        lost_commit_is_repeated,
        months_have_no_end,
        no_event_id,
        old_events_are_new,
        plain_events_are_not_counted,
        plain_hours_are_not_counted,
        prune_by_age,
        pruning_leaves_no_note,
        seal_in_two_transactions,
        sent_before_it_is_written_down,
        unprocessed_is_success,
        usage_is_of_when_it_comes,
    )
}
