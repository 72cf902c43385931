"""The schema of PostgreSQL that a ledger lies in."""

import re
from typing import Final

from marketplace_metering_async.errors import ConfigurationError
from marketplace_metering_async.ledger.stores.url_parameters import taken_from

USUAL: Final = "marketplace_metering"
"""The schema of a URL that names none; all statements are written with it."""
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def schema_in(url: str) -> tuple[str, str]:
    """
    Return *url* without the parameter `schema`, which is ours, and the schema that it names.

    Raises:
        ConfigurationError: for a name that would have to be quoted.
    """
    rest, schema = taken_from(url, "schema")
    if schema is None:
        return url, USUAL
    if not _NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise ConfigurationError(
            "ledger URL: expected a schema of small letters, digits and _, at most 63, that "
            f"begins with no digit and not with pg_; got {schema[:80]!r}"
        )
    return rest, schema
