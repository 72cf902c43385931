"""Bodies as JSON: through orjson where the extra `speedups` is, and the same either way."""

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_number)


def decoded(body: bytes) -> object:
    """
    Return what *body* says.

    Raises:
        ValueError: if it is no JSON in UTF-8.
    """
    if orjson is not None:
        value: object = orjson.loads(body)
        return value
    try:
        return _DECODER.decode(body.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def encoded(members: Mapping[str, Any]) -> bytes:
    """Return the body of an answer."""
    if orjson is not None:
        try:
            return orjson.dumps(members)
        except TypeError:
            pass  # an echo of what only the standard library can write, such as huge integers
    return json.dumps(members).encode()
