"""Statements and verbs that both stores share."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from marketplace_metering_async.ledger.stores.database import (
    Database,
    both,
    for_rows,
    with_quantity,
)
from marketplace_metering_async.ledger.stores.sqlite_database import run


def test_a_statement_has_the_words_of_each_database() -> None:
    statement = both("SELECT {greatest}(1, 2) WHERE 3 IN ({rows}) {lock}", lock="FOR UPDATE")

    assert statement.sqlite == "SELECT max(1, 2) WHERE 3 IN (SELECT value FROM json_each($1)) "
    assert statement.postgresql == (
        "SELECT greatest(1, 2) WHERE 3 IN (SELECT pg_catalog.unnest($1::bigint[])) FOR UPDATE"
    )


def test_a_statement_for_rows_takes_one_or_all() -> None:
    statement = for_rows("INSERT INTO hour SELECT * FROM {given}", "quantity bigint, reason text")

    assert statement.sqlite == (
        "INSERT INTO hour SELECT * FROM (SELECT ? AS quantity, ? AS reason) AS given"
    )
    assert statement.postgresql == (
        "INSERT INTO hour SELECT * FROM unnest($1::bigint[], $2::text[]) "
        "AS given (quantity, reason)"
    )


def test_rows_are_inserted_as_values() -> None:
    statement = for_rows("INSERT INTO event {values}", "event_id text, added_at bigint")

    assert statement.sqlite == "INSERT INTO event VALUES (?, ?)"
    assert statement.postgresql == (
        "INSERT INTO event SELECT * FROM unnest($1::text[], $2::bigint[]) "
        "AS given (event_id, added_at)"
    )


def test_values_go_to_their_numbers_in_sqlite() -> None:
    async def verb(db: Database) -> list[tuple[int, int]]:
        await db.fetch("CREATE TABLE marketplace_metering.hour (hour_id, state)")
        await db.fetch("INSERT INTO marketplace_metering.hour VALUES ($2, $1), ($1, $2)", 1, 2)
        found = both("SELECT hour_id, state FROM marketplace_metering.hour WHERE state IN ({rows})")
        assert await db.fetchval(found, []) is None
        assert await db.fetchval(found, (2, 3)) == 1
        return [*await db.fetch(found, [1, 2])]

    with closing(sqlite3.connect(":memory:")) as connection:
        assert [(2, 1), (1, 2)] == run(connection, verb)


def test_a_verb_in_sqlite_waits_for_nothing_else() -> None:
    async def verb(_: Database) -> None:
        await asyncio.sleep(0)

    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(AssertionError, match="waits"),
    ):
        run(connection, verb)


def test_a_sum_of_many_records_is_exact() -> None:
    units = 2**62
    assert {"state": "open", "quantity": units * 10**6 + 7} == with_quantity(
        {"state": "open", "units": units, "millionths": 7}
    )
