"""
The versions of a store's schema.

Each file of a folder brings the schema to the version that its name begins with. One after which
older versions of the package may not go on also sets `min_compatible` in the table `ledger`.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from attrs import frozen

from marketplace_metering_async.errors import LedgerUnusableError
from marketplace_metering_async.ledger.identity import require_known
from marketplace_metering_async.ledger.stores.database import Database
from marketplace_metering_async.ledger.stores.words import FailPoint


@frozen
class Migration:
    """A version of the schema, and the statements that lead to it from the one before."""

    version: int
    statements: list[str]


def schema_of(store: str) -> Traversable:
    """Return the folder with the schema of a store."""
    return files("marketplace_metering_async.ledger.stores") / "schema" / store


@cache
def migrations_of(store: str) -> Sequence[Migration]:
    """Return the versions of a store's schema, in order; they are read once."""
    return migrations_in(schema_of(store))


def migrations_in(folder: Traversable) -> Sequence[Migration]:
    """Return the versions of the schema in a folder, in order."""
    found = sorted((entry.name, entry) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(
        Migration(int(name[:4]), _statements(entry.read_text("utf-8"))) for name, entry in found
    )


async def migrate(
    db: Database, migrations: Sequence[Migration], version: int, reach: FailPoint
) -> None:
    """Bring a schema of a *version*, 0 where there is none, up to date."""
    for migration in migrations:
        if migration.version > version:
            for statement in migration.statements:
                await db.fetch(statement)
                reach("migrate: statement")
            await db.fetch("UPDATE marketplace_metering.ledger SET version = $1", migration.version)
    reach("migrate: done")


def version_in(found: Any, place: str, known: int) -> int:  # noqa: ANN401 - a row of any database
    """
    Return the version of a schema by the row *found* in its table `ledger`.

    Raises:
        LedgerUnusableError: there is none, or it needs more than what is *known*.
    """
    if found is None:
        raise LedgerUnusableError(f"{place} is damaged; restore a backup")
    require_known(found["min_compatible"], known)
    version: int = found["version"]
    return version


def first_edition(place: str) -> LedgerUnusableError:
    """Return the refusal of what was written before quantities were kept in millionths."""
    return LedgerUnusableError(
        f"{place} is a ledger of the first edition of this package, which kept whole units, and "
        "this version cannot read it: relay what is open in it with the version that wrote it, "
        "keep it as evidence, and start a new ledger at another place"
    )


def _statements(script: str) -> list[str]:
    return [statement for part in script.split(";\n") if (statement := part.strip())]
