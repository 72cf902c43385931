"""What a person says of usage in a ledger: what became of it, and where it goes."""

from collections.abc import Sequence
from typing import Final

from marketplace_metering_async.ledger.hours import hour_of
from marketplace_metering_async.ledger.model import ENDED, HourState, Note, key_of, name_of_stranded
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.posting import Posting, Wanted
from marketplace_metering_async.ledger.resolutions import (
    EndedHour,
    ended_hours,
    fates_of_taken,
    require_all,
    require_ended,
    require_no_claim,
    require_stranded,
    require_unbilled,
)
from marketplace_metering_async.ledger.stores.adding import load, write
from marketplace_metering_async.ledger.stores.database import (
    Database,
    Dialects,
    Row,
    both,
    for_rows,
    with_quantity,
)
from marketplace_metering_async.ledger.stores.identifying import identity
from marketplace_metering_async.ledger.sums import Sums

KEYS: Final = both("""
    SELECT DISTINCT usage_key.name
    FROM marketplace_metering.hour JOIN marketplace_metering.usage_key USING (key_id)
    WHERE hour.hour_id IN ({rows})
""")
HOURS: Final = both(
    """
    SELECT hour.hour_id, hour.hour, hour.state, hour.stamp, hour.quantity, hour.events, hour.member,
           hour.region_name, hour.digest, hour.in_doubt <> 0 AS in_doubt, usage_key.name,
           usage_key.license_product
    FROM marketplace_metering.hour JOIN marketplace_metering.usage_key USING (key_id)
    WHERE hour.hour_id IN ({rows}) ORDER BY hour.hour_id {lock}
    """,
    lock="FOR UPDATE OF hour",
)
STRANDED: Final = both(
    """
    SELECT stranded.*, usage_key.name, usage_key.license_product
    FROM marketplace_metering.stranded JOIN marketplace_metering.usage_key USING (key_id)
    WHERE stranded.stranded_id IN ({rows}) ORDER BY stranded.stranded_id {lock}
    """,
    lock="FOR UPDATE OF stranded",
)
RESOLVE: Final = both("""
    UPDATE marketplace_metering.hour SET state = $2, settled_at = $3, fence = fence + 1,
        lease_until = NULL
    WHERE hour_id IN ({rows})
""")
NOTE: Final = for_rows(
    """
    INSERT INTO marketplace_metering.resolution (hour_id, stranded_id, at, before, after, note)
    {values}
    """,
    "hour_id bigint, stranded_id bigint, at bigint, before text, after text, note text",
)
RESOLVED_BEFORE: Final = both(
    """
    SELECT stranded_id FROM marketplace_metering.stranded
    WHERE key_id = $1 AND origin = $2 AND state = $3 {lock}
    """,
    lock="FOR UPDATE",
)
ADD_STRANDED: Final = Dialects(
    sqlite="""
    UPDATE stranded SET units = stranded.units + other.units,
        millionths = stranded.millionths + other.millionths, events = stranded.events + other.events
    FROM stranded AS other WHERE stranded.stranded_id = $1 AND other.stranded_id = $2
    """,
    postgresql="""
    UPDATE marketplace_metering.stranded SET quantity = stranded.quantity + other.quantity,
        events = stranded.events + other.events
    FROM marketplace_metering.stranded AS other
    WHERE stranded.stranded_id = $1 AND other.stranded_id = $2
    """,
)
FORGET: Final = """
    UPDATE marketplace_metering.hour SET in_doubt = 0, metering_record_id = NULL, settled_at = NULL
    WHERE state = 'frozen'
"""
CLAIMED: Final = both(
    "SELECT CAST($1 AS bigint) FROM marketplace_metering.hour WHERE lease_until > {clock} LIMIT 1",
    clock="$1",
)
REARMABLE: Final = both("""
    SELECT hour_id FROM marketplace_metering.hour
    WHERE state NOT IN ('open', 'frozen', 'metered') AND deadline > $2 AND state IN ({texts})
    UNION ALL
    SELECT hour_id FROM marketplace_metering.hour
    WHERE state = 'frozen' AND lease_until IS NULL AND not_before > $2 AND state IN ({texts})
""")
STRANDED_IN: Final = Dialects(
    sqlite="SELECT stranded_id FROM stranded WHERE state IN (SELECT value FROM json_each($1))",
    postgresql="""
    SELECT stranded_id FROM marketplace_metering.stranded WHERE state = ANY($1::text[])
    """,
)
KEYS_OF_STRANDED: Final = both("""
    SELECT DISTINCT usage_key.name
    FROM marketplace_metering.stranded JOIN marketplace_metering.usage_key USING (key_id)
    WHERE stranded.stranded_id IN ({rows})
""")
TO_REARM: Final = both(
    """
    SELECT hour.hour_id, hour.state, hour.quantity, hour.deadline, usage_key.name,
           usage_key.license_product, hour.state = 'frozen' AND hour.lease_until IS NULL
               AND hour.not_before > $2 AS waits
    FROM marketplace_metering.hour JOIN marketplace_metering.usage_key USING (key_id)
    WHERE hour.hour_id IN ({rows}) ORDER BY hour.hour_id {lock}
    """,
    lock="FOR UPDATE OF hour",
)
FREEZE_AGAIN: Final = both("""
    UPDATE marketplace_metering.hour SET state = 'frozen', not_before = 0, settled_at = NULL,
        reason = NULL, crashes = 0, fence = fence + 1
    WHERE hour_id IN ({rows})
""")
WAIT_NO_LONGER: Final = both("""
    UPDATE marketplace_metering.hour SET not_before = 0 WHERE hour_id IN ({rows})
""")
MOVED_NOTE: Final = for_rows(
    """
    UPDATE marketplace_metering.resolution SET stranded_id = NULL, hour_id = hour.hour_id
    FROM {given} JOIN marketplace_metering.hour USING (key_id, hour)
    WHERE resolution.stranded_id = given.stranded_id
    """,
    "key_id bigint, hour bigint, stranded_id bigint",
)
"""What was said of usage that no hour carried goes with it."""
CARRIED: Final = both("DELETE FROM marketplace_metering.stranded WHERE stranded_id IN ({rows})")
TAKEN: Final = """
    SELECT hour_id, deadline FROM marketplace_metering.hour
    WHERE state = 'metered' AND hour_id > $1 ORDER BY hour_id LIMIT $2
"""
_PAGE: Final = 1_000
"""Hours that are looked at together, of all that a host has taken."""


async def rearmable(
    db: Database, states: Sequence[HourState], now: int
) -> tuple[list[int], list[int]]:
    """Return what is to be sent again; see Store."""
    hours = sorted(row["hour_id"] for row in await db.fetch(REARMABLE, states, now))
    return hours, sorted(row["stranded_id"] for row in await db.fetch(STRANDED_IN, states))


async def rearm(db: Database, hours: Sequence[int], states: Sequence[HourState], now: int) -> int:
    """Send ended records again; see Store."""
    there = [row for row in await db.fetch(TO_REARM, hours, now) if row["state"] in states]
    waiting = [row["hour_id"] for row in there if row["waits"]]
    ended = [row for row in there if row["state"] in ENDED and row["deadline"] > now]
    await db.fetch(WAIT_NO_LONGER, waiting)
    await db.fetch(FREEZE_AGAIN, [row["hour_id"] for row in ended])
    sums = Sums()
    for row in ended:
        of = key_of(row["name"]).summed_under(row["license_product"])
        sums.move(of, row["state"], HourState.FROZEN, row["quantity"])
    await db.keep_sums(sums.changes())
    return len(waiting) + len(ended)


async def carry(
    db: Database,
    stranded: Sequence[int],
    states: Sequence[HourState],
    now: int,
    rules: PostingRules,
) -> int:
    """Add usage that no hour carries to the hour that runs; see Store."""
    names = await db.fetch(KEYS_OF_STRANDED, stranded)
    wanted = Wanted("", hour_of(now))
    into = await load(db, dict.fromkeys((key_of(row["name"]) for row in names), wanted))
    rows = [row for row in await db.fetch(STRANDED, stranded) if row["state"] in states]
    posting = Posting(now, rules, into)
    moved = []
    for row in map(with_quantity, rows):
        usage = row["origin"], HourState(row["state"]), row["quantity"], row["events"]
        hour = posting.carry(key_of(row["name"]), *usage)
        moved.append((row["key_id"], hour, row["stranded_id"]))
    await write(db, posting.changes())
    await db.for_each(MOVED_NOTE, moved)
    await db.fetch(CARRIED, [row["stranded_id"] for row in rows])
    return len(rows)


async def resolve(
    db: Database,
    hours: Sequence[int],
    stranded: Sequence[int],
    after: HourState,
    note: Note,
) -> int:
    """Write down what a person says became of usage; see Store."""
    ended = await _hours(db, hours)
    for one in ended:
        require_ended(one.name, one.state)
    unsent = await db.fetch(STRANDED, stranded)
    require_all(stranded, [row["stranded_id"] for row in unsent], "stranded")
    sums = Sums()
    await _change(db, ended, after, note, sums)
    for row in unsent:
        require_stranded(name_of_stranded(row["stranded_id"]), HourState(row["state"]), after)
        await _resolve_stranded(db, row, after, note, sums)
    await db.keep_sums(sums.changes())
    return len(ended) + len(unsent)


async def _hours(db: Database, hours: Sequence[int]) -> list[EndedHour]:
    return ended_hours(hours, map(dict, await db.fetch(HOURS, hours)))


async def _change(
    db: Database,
    hours: Sequence[EndedHour],
    after: HourState,
    note: Note,
    sums: Sums,
) -> None:
    await db.fetch(RESOLVE, [one.hour_id for one in hours], after, note.at)
    notes = [(one.hour_id, None, note.at, one.state, after, note.text) for one in hours]
    await db.for_each(NOTE, notes)
    for one in hours:
        sums.move(one.of, one.state, after, one.quantity)


async def _resolve_stranded(
    db: Database, row: Row, after: HourState, note: Note, sums: Sums
) -> None:
    """Resolve usage that no hour carries; what was resolved before as the same is added to it."""
    of = key_of(row["name"]).summed_under(row["license_product"])
    quantity, own = with_quantity(row)["quantity"], row["stranded_id"]
    sums.add(of, row["state"], -quantity)
    sums.add(of, after, quantity)
    there = await db.fetchval(RESOLVED_BEFORE, row["key_id"], row["origin"], after)
    into = own if there is None else there
    if into == own:
        await db.fetch(
            "UPDATE marketplace_metering.stranded SET state = $1 WHERE stranded_id = $2", after, own
        )
    else:
        await db.fetch(ADD_STRANDED, into, own)
        await db.fetch(
            "UPDATE marketplace_metering.resolution SET stranded_id = $1 WHERE stranded_id = $2",
            into,
            own,
        )
        await db.fetch("DELETE FROM marketplace_metering.stranded WHERE stranded_id = $1", own)
    await db.for_each(NOTE, [(None, into, note.at, row["state"], after, note.text)])


async def rebill(db: Database, hours: Sequence[int], note: Note, rules: PostingRules) -> int:
    """Move the usage of hours to the hour that runs; see Store."""
    keys = [key_of(row["name"]) for row in await db.fetch(KEYS, hours)]
    into = await load(db, dict.fromkeys(keys, Wanted("", hour_of(note.at))))
    ended = await _hours(db, hours)
    for one in ended:
        require_unbilled(one)
    sums = Sums()
    await _change(db, ended, HourState.REOPENED, note, sums)
    posting = Posting(note.at, rules, into, sums=sums.changes())
    for one in ended:
        posting.carry(one.key, one.hour, HourState.REOPENED, one.quantity, one.events)
    await write(db, posting.changes())
    return len(ended)


async def rebind(db: Database, host: str, taken: HourState | None, note: Note) -> int:
    """Bind the ledger to another host of its region; see Store."""
    await identity(db, locked=True)  # whoever claims counts that in its row, and looks at the host
    require_no_claim(await db.fetchval(CLAIMED, note.at) is not None)
    changed, last, sums = 0, 0, Sums()
    while taken is not None and (rows := await db.fetch(TAKEN, last, _PAGE)):
        for after, hours in fates_of_taken(taken, map(tuple, rows), note.at).items():
            await _change(db, await _hours(db, hours), after, note, sums)
        changed, last = changed + len(rows), rows[-1]["hour_id"]
    if changed:
        await db.fetch(FORGET)
    await db.keep_sums(sums.changes())
    await db.fetch("UPDATE marketplace_metering.ledger SET host = $1", host)
    return changed
