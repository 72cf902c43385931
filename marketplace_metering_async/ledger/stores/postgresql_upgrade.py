"""Brings a ledger's schema in PostgreSQL up to date, under a lock, as whoever owns its tables."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from attrs import frozen

from marketplace_metering_async.errors import LedgerMissingError, LedgerUnusableError
from marketplace_metering_async.ledger.stores.migrations import (
    Migration,
    first_edition,
    migrate,
    version_in,
)
from marketplace_metering_async.ledger.stores.postgresql_database import PostgresDatabase
from marketplace_metering_async.ledger.stores.postgresql_schema import USUAL
from marketplace_metering_async.ledger.stores.postgresql_transactions import Connection
from marketplace_metering_async.ledger.stores.words import FailPoint

_FORGET: Final = "SELECT FROM pg_catalog.pg_namespace, pg_catalog.pg_class LIMIT 0"
"""
The first lock of a transaction on a table lets the session hear what others have made: an advisory
lock does not, and so what it has looked up before stays as it was.
"""

_WITHOUT_LIMITS: Final = """
    SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings
    WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout')
"""
"""For the transaction alone; the last one is known from version 17 on."""


@frozen
class SchemaUpgrade:
    """
    What a ledger's schema is to become.

    Attributes:
        url: Of the database.
        schema: The schema's name.
        migrations: Its versions, in order.
        create: Whether it is made where there is none.
        reach: For tests of crashes.
    """

    url: str
    schema: str
    migrations: Sequence[Migration]
    create: bool
    reach: FailPoint

    @property
    def known(self) -> int:
        """The latest version."""
        return self.migrations[-1].version

    async def prepare(self, version: int) -> None:
        """
        Upgrade the schema where its *version* is older, which takes no right where it is not.

        Raises:
            LedgerUnusableError: this role may not upgrade it.
        """
        import asyncpg  # noqa: PLC0415 - the extra `postgres` brings it

        if version >= self.known:
            return
        try:  # on a connection that waits for as long as it takes
            patient = await asyncpg.connect(self.url, statement_cache_size=0)
            try:
                await self._run(patient)
            finally:
                await patient.close(timeout=5.0)
        except asyncpg.InsufficientPrivilegeError as error:
            if not version:
                raise
            raise LedgerUnusableError(
                "open it once with a role that may upgrade it, the owner of its tables: the "
                f"ledger is of an older version of the package ({error})"
            ) from error

    async def _run(self, connection: Connection) -> None:
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(_WITHOUT_LIMITS)
            await connection.execute("SELECT pg_advisory_xact_lock(7305803390)")
            # A session that PgBouncer lends may remember that there was no schema, or no table.
            await connection.execute(_FORGET)
            version = await self.version(connection)
            if not await connection.fetchval("SELECT to_regnamespace($1)", self.schema):
                await connection.execute(f'CREATE SCHEMA "{self.schema}"')
            db = PostgresDatabase(connection, self.schema)
            await migrate(db, self.migrations, version, self.reach)

    async def version(self, connection: Connection) -> int:
        """
        Return the version of the schema; 0 where there is none, and one may be made.

        Raises:
            LedgerMissingError: there is none, and none is to be made.
            LedgerUnusableError: it is damaged, too new, or of the first edition.
        """
        place = place_of(self.url, self.schema)
        db = PostgresDatabase(connection, self.schema)
        if await db.fetchval("SELECT to_regclass('marketplace_metering.schema_version')"):
            raise first_edition(place)
        if not await db.fetchval("SELECT to_regclass('marketplace_metering.ledger')"):
            if not self.create:
                raise LedgerMissingError(f"there is no ledger at {place}")
            return 0
        found = await db.fetchrow("SELECT version, min_compatible FROM marketplace_metering.ledger")
        return version_in(found, place, self.known)


def place_of(url: str, schema: str) -> str:
    """Return host, database and *schema* of *url*, and nothing that may be secret."""
    parts = urlsplit(url)
    place = f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return place if schema == USUAL else f"{place}, schema {schema}"
