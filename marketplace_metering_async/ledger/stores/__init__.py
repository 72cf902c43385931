"""Where a ledger is kept: the same verbs for all, over SQL that nobody else sees."""

from marketplace_metering_async.errors import ConfigurationError
from marketplace_metering_async.ledger.stores.store import Store
from marketplace_metering_async.ledger.stores.words import FailPoint, no_failure
from marketplace_metering_async.rules import describe

__all__ = ["FailPoint", "Store", "no_failure", "store_at"]


def store_at(url: str, *, create: bool = True, reach: FailPoint = no_failure) -> Store:
    """
    Return the store that *url* names, which is not opened yet.

    Raises:
        ConfigurationError: for a URL of another kind, of memory, or with options of a file.
    """
    expected = "ledger URL: expected sqlite:///usage.db or postgresql://user@host/database"
    if not isinstance(url, str):  # such as of a variable that is not set
        raise ConfigurationError(f"{expected}, got {describe(url)}")
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and rest != "/":
        from marketplace_metering_async.ledger.stores import sqlite, sqlite_place  # noqa: PLC0415

        path = sqlite_place.path_of(rest[1:])
        return sqlite.SqliteStore(path, create=create, reach=reach)
    if scheme in ("postgresql", "postgres"):
        from marketplace_metering_async.ledger.stores import postgresql  # noqa: PLC0415

        return postgresql.PostgresStore(url, create=create, reach=reach)
    if scheme.startswith("postgresql+"):  # as SQLAlchemy writes it
        raise ConfigurationError(f"ledger URL: write postgresql:// in place of {scheme[:20]}://")
    got = f"one of scheme {scheme[:20]!r}" if "://" in url else "text without ://"
    raise ConfigurationError(f"{expected}, got {got}")
