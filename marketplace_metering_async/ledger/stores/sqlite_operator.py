"""What a person says of usage in a ledger in SQLite: what became of it, and where it goes."""

import json
from collections.abc import Sequence
from typing import Any, Final

from marketplace_metering_async.ledger.hours import hour_of
from marketplace_metering_async.ledger.model import HourState, Note, key_of, name_of_stranded
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.posting import Posting, Wanted
from marketplace_metering_async.ledger.resolutions import (
    EndedHour,
    ended_hours,
    fates_of_taken,
    reopened_sums,
    require_all,
    require_ended,
    require_no_claim,
    require_stranded,
    require_unbilled,
)
from marketplace_metering_async.ledger.stores.sqlite_adding import keep_sums, load, write
from marketplace_metering_async.ledger.stores.sqlite_file import Connection
from marketplace_metering_async.ledger.stores.store import no_failure
from marketplace_metering_async.ledger.sums import Sums
from marketplace_metering_async.quantities import MILLION

HOURS: Final = """
    SELECT hour.hour_id, hour.hour, hour.state, hour.stamp, hour.quantity, hour.events, hour.member,
           hour.region_name, hour.digest, hour.in_doubt <> 0 AS in_doubt, usage_key.name,
           usage_key.license_product
    FROM hour JOIN usage_key ON usage_key.key_id = hour.key_id
    WHERE hour.hour_id IN (SELECT value FROM json_each(?)) ORDER BY hour.hour_id
"""
STRANDED: Final = """
    SELECT stranded.*, usage_key.name, usage_key.license_product
    FROM stranded JOIN usage_key ON usage_key.key_id = stranded.key_id
    WHERE stranded.stranded_id IN (SELECT value FROM json_each(?)) ORDER BY stranded.stranded_id
"""
RESOLVE: Final = """
    UPDATE hour SET state = ?, settled_at = ?, fence = fence + 1, lease_until = NULL
    WHERE hour_id = ?
"""
NOTE: Final = """
    INSERT INTO resolution (hour_id, stranded_id, at, before, after, note)
    VALUES (?, ?, ?, ?, ?, ?)
"""
FORGET: Final = """
    UPDATE hour SET in_doubt = 0, metering_record_id = NULL, settled_at = NULL
    WHERE state = 'frozen'
"""
CLAIMED: Final = "SELECT 1 FROM hour WHERE lease_until > ?"
TAKEN: Final = "SELECT hour_id, deadline FROM hour WHERE state = 'metered'"


def resolve(
    db: Connection,
    hours: Sequence[int],
    stranded: Sequence[int],
    after: HourState,
    note: Note,
) -> int:
    """Write down what a person says became of usage; see Store."""
    ended = _hours(db, hours)
    for one in ended:
        require_ended(one.name, one.state)
    unsent = db.execute(STRANDED, (json.dumps(stranded),)).fetchall()
    require_all(stranded, [row["stranded_id"] for row in unsent], "stranded")
    sums = Sums()
    _change(db, ended, after, note, sums)
    for row in unsent:
        require_stranded(name_of_stranded(row["stranded_id"]), HourState(row["state"]), after)
        _resolve_stranded(db, row, after, note, sums)
    keep_sums(db, sums.changes())
    return len(ended) + len(unsent)


def _hours(db: Connection, hours: Sequence[int]) -> list[EndedHour]:
    rows = db.execute(HOURS, (json.dumps(hours),)).fetchall()
    return ended_hours(hours, map(dict, rows))


def _change(
    db: Connection,
    hours: Sequence[EndedHour],
    after: HourState,
    note: Note,
    sums: Sums,
) -> None:
    _write_down(db, hours, after, note)
    for one in hours:
        sums.move(one.of, one.state, after, one.quantity)


def _write_down(db: Connection, hours: Sequence[EndedHour], after: HourState, note: Note) -> None:
    db.executemany(RESOLVE, [(after, note.at, one.hour_id) for one in hours])
    db.executemany(
        NOTE, [(one.hour_id, None, note.at, one.state, after, note.text) for one in hours]
    )


def _resolve_stranded(
    db: Connection,
    row: Any,  # noqa: ANN401
    after: HourState,
    note: Note,
    sums: Sums,
) -> None:
    """Resolve usage that no hour carries; what was resolved before as the same is added to it."""
    of = key_of(row["name"]).summed_under(row["license_product"])
    quantity, into = row["units"] * MILLION + row["millionths"], row["stranded_id"]
    sums.add(of, row["state"], -quantity)
    sums.add(of, after, quantity)
    there = db.execute(
        "SELECT stranded_id FROM stranded WHERE key_id = ? AND origin = ? AND state = ?",
        (row["key_id"], row["origin"], after),
    ).fetchone()
    if there is None or there["stranded_id"] == into:
        db.execute("UPDATE stranded SET state = ? WHERE stranded_id = ?", (after, into))
    else:
        into = there["stranded_id"]
        db.execute(
            "UPDATE stranded SET units = units + ?, millionths = millionths + ?, "
            "events = events + ? WHERE stranded_id = ?",
            (row["units"], row["millionths"], row["events"], into),
        )
        db.execute(
            "UPDATE resolution SET stranded_id = ? WHERE stranded_id = ?",
            (into, row["stranded_id"]),
        )
        db.execute("DELETE FROM stranded WHERE stranded_id = ?", (row["stranded_id"],))
    db.execute(NOTE, (None, into, note.at, row["state"], after, note.text))


def rebill(db: Connection, hours: Sequence[int], note: Note, rules: PostingRules) -> int:
    """Move the usage of hours to the hour that runs; see Store."""
    ended = _hours(db, hours)
    for one in ended:
        require_unbilled(one)
    _write_down(db, ended, HourState.REOPENED, note)
    into = load(db, {one.key: Wanted("", hour_of(note.at)) for one in ended})
    posting = Posting(note.at, rules, into, sums=reopened_sums(ended))
    for one in ended:
        posting.carry(one.key, one.hour, one.state, one.quantity, one.events)
    write(db, posting.changes(), no_failure)
    return len(ended)


def rebind(db: Connection, host: str, taken: HourState | None, note: Note) -> int:
    """Bind the ledger to another host of its region; see Store."""
    require_no_claim(db.execute(CLAIMED, (note.at,)).fetchone() is not None)
    changed, sums = 0, Sums()
    for after, hours in fates_of_taken(taken, map(tuple, db.execute(TAKEN)), note.at).items():
        _change(db, _hours(db, hours), after, note, sums)
        changed += len(hours)
    keep_sums(db, sums.changes())
    if changed:
        db.execute(FORGET)
    db.execute("UPDATE ledger SET host = ?", (host,))
    return changed
