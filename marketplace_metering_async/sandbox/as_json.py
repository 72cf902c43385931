"""
The sandbox's values as JSON, and back: for its state file, controls, page and copies.

Moments are ISO 8601, durations seconds, decimals texts, sets sorted lists; a class of attrs is an
object with its public attributes. `from_json()` reads by type annotations, so that no class has a
codec of its own.
Bytes go through orjson where the extra `speedups` is, and are the same either way.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Final, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

T = TypeVar("T")

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_DEEPEST: Final = 100
"""Lists and objects within each other: ten times what any request has."""
_TOO_DEEP: Final = "it is nested too deeply"
_NAMES: Final[Mapping[Any, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def as_json(value: object) -> Any:  # noqa: ANN401 - JSON
    """Return *value* as what JSON has: dicts with texts as keys, lists, texts, numbers, None."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return [as_json(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return [as_json(part) for part in sorted(value, key=str)]
    if isinstance(value, Mapping):
        return {str(name): as_json(part) for name, part in dict(value).items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    kind: Any = type(value)
    if attrs.has(kind):
        return {name: as_json(getattr(value, name)) for name in _annotations_of(kind)}
    raise TypeError(f"expected a value of the sandbox, got {type(value).__name__}")


def from_json(kind: type[T], written: object) -> T:
    """
    Return the value of *kind* that `as_json()` has *written*.

    Args:
        kind: A class, or any annotation that as_json() has a form for.
        written: What JSON said.

    Raises:
        TypeError, ValueError: for what is no value of *kind*.
    """
    return _read(kind, written)  # type: ignore[no-any-return]


def _read(kind: Any, written: Any) -> Any:  # noqa: ANN401 - annotations and JSON
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _read_one_of(parts, written)
    if origin is tuple and parts[1:] != (Ellipsis,):
        return tuple(_read(part, one) for part, one in zip(parts, _listed(written), strict=True))
    if origin is Iterable:
        origin = list
    if origin in (tuple, list, set, frozenset):
        return origin(_read(parts[0], one) for one in _listed(written))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {
            _named(parts[0], name): _read(parts[1], one) for name, one in _object(written).items()
        }
    if kind is datetime:
        return datetime.fromisoformat(_plain(str, written))
    if kind is timedelta:
        return timedelta(seconds=_plain(float, written))
    if kind is Decimal:
        return _decimal(written)
    if attrs.has(kind):
        return _instance(kind, _object(written))
    return _plain(kind, written) if kind in _NAMES else written


def _read_one_of(kinds: tuple[Any, ...], written: Any) -> Any:  # noqa: ANN401 - as _read
    """Read what may be of several kinds: the first that it can be."""
    if written is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds[:-1]:
        with suppress(TypeError, ValueError):
            return _read(kind, written)
    return _read(kinds[-1], written)


def _plain(kind: type, written: Any) -> Any:  # noqa: ANN401 - of *kind*
    """Return a text, a number or a truth value as it is; a whole number is a number as well."""
    kinds = (int, float) if kind is float else (kind,)
    if type(written) not in kinds:
        raise TypeError(f"expected {_NAMES[kind]}, got {written!r}")
    if kind is float and not abs(written) <= sys.float_info.max:
        raise ValueError(f"expected {_NAMES[kind]}, got {written!r}")
    return written


def _decimal(written: object) -> Decimal:
    try:
        return Decimal(_plain(str, written))
    except ArithmeticError:
        raise ValueError(f"expected a decimal, got {written!r}") from None


def _instance(kind: Any, written: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of a class of attrs
    annotations = _annotations_of(kind)
    if unknown := written.keys() - annotations.keys():
        known = ", ".join(sorted(annotations))
        raise ValueError(f"expected {known}, got {', '.join(sorted(unknown))}")
    return kind(**_members(annotations, written))


def arguments_from_json(
    carry_out: Callable[..., object], written: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Return the keyword arguments of *carry_out* that JSON has *written*, by its annotations.

    Raises:
        TypeError, ValueError: for a name or value that it does not take, or one that is missing.
    """
    hints, parameters = get_type_hints(carry_out), inspect.signature(carry_out).parameters
    known = {name: hints[name] for name in parameters}
    required = {name for name, one in parameters.items() if one.default is one.empty}
    if unknown := written.keys() - known.keys():
        raise ValueError(f"expected {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}")
    if missing := required - written.keys():
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    return _members(known, written)


def _members(annotations: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in written.items():
        try:
            found[name] = _read(annotations[name], value)
        except (TypeError, ValueError, OverflowError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{name}: {error}") from error
    return found


@cache
def _annotations_of(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a class of attrs
    """Return the public attributes of a class, in their order, to their annotations."""
    fields = attrs.fields(attrs.resolve_types(kind))
    return {field.name: field.type for field in fields if not field.name.startswith("_")}


def _named(kind: Any, name: str) -> Any:  # noqa: ANN401 - an annotation
    return int(name) if kind is int else name


def _listed(written: object) -> list[Any]:
    if not isinstance(written, list):
        raise TypeError(f"expected a list, got {written!r}")
    return written


def _object(written: object) -> dict[str, Any]:
    if not isinstance(written, dict):
        raise TypeError(f"expected an object, got {written!r}")
    return written


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) <= sys.float_info.max else _no_number(text)


def _whole(text: str) -> float:
    """Return a whole number, as a float where it has more than 64 bits, as orjson does."""
    number = int(text)
    return number if -(2**63) <= number < 2**64 else _finite(text)


_DECODER: Final = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite, parse_int=_whole)


def decoded(body: bytes) -> Any:  # noqa: ANN401 - JSON
    """
    Return what *body* says.

    Raises:
        ValueError: if it is no JSON in UTF-8, or nested so deeply that whoever looks at it, part
            within part, might not come to its end.
    """
    value = _parsed(body)
    if body.count(b"[") + body.count(b"{") > _DEEPEST and _is_too_deep(value):
        raise ValueError(_TOO_DEEP)
    return value


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            part
            for one in level
            if isinstance(one, (dict, list))
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _parsed(body: bytes) -> object:
    if orjson is not None:
        value: object = orjson.loads(body)
        return value
    try:
        value = _DECODER.decode(body.decode())
        if b"\\u" in body:  # half of a surrogate pair can be said so, and is no text
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    return value


def encoded(members: Any) -> bytes:  # noqa: ANN401 - JSON
    """Return *members*, which are JSON already, as bytes."""
    if orjson is not None:
        try:
            return orjson.dumps(members)
        except TypeError:
            pass  # an echo of what only the standard library can write, such as huge integers
    return json.dumps(members).encode()
