"""What an argument may be: who gives another thing hears which one, what is expected, what came."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import NoneType
from typing import Any, Final

from attrs import Attribute

_WORDS: Final[Mapping[type, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "None",
}
_SECRET: Final = ("access_keys", "secret", "session_token", "token")


def require(name: str, value: object, *kinds: type, what: str | None = None) -> None:
    """
    Refuse an argument that is of none of *kinds*.

    Args:
        name: Of the argument.
        value: What came.
        kinds: What it may be; whole numbers are numbers as well, truth values are not.
        what: The same in words; by default the names of *kinds*.

    Raises:
        TypeError: with all of them; of a secret only with the type that came.
    """
    taken = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, taken) or (isinstance(value, bool) and bool not in kinds):
        words = what or " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
        raise _refusal(name, words, value)


def several(name: str, values: object, *kinds: type, what: str) -> tuple[Any, ...]:
    """
    Return *values*, each of one of *kinds*; in words, several *what*. One text is not several.

    Raises:
        TypeError: as `require()`.
    """
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise _refusal(name, f"several {what}", values)
    found = [*values]
    if not all(isinstance(value, kinds) for value in found):
        raise _refusal(name, f"several {what}", found)
    return tuple(found)


def texts(name: str, values: object) -> frozenset[str]:
    """Return several texts as a set; TypeError for one text alone, and for what is none."""
    return frozenset(several(name, values, str, what="texts"))


def mapping(name: str, values: object, kind: type) -> dict[str, Any]:
    """
    Return *values*, which are of *kind*, by texts.

    Raises:
        TypeError: as `require()`.
    """
    word = _WORDS.get(kind, kind.__name__)
    if not isinstance(values, Mapping):
        raise _refusal(name, f"a mapping of texts to {word}", values)
    for key, value in values.items():
        require(f"{name}: a key", key, str)
        require(f"{name}[{key!r}]", value, kind)
    return dict(values)


def duration(difference: Mapping[str, float]) -> timedelta:
    """
    Return a timedelta by its words: `{"hours": 2}`.

    Raises:
        TypeError, ValueError, OverflowError: for other words, what is no number, or too much.
    """
    try:
        return timedelta(**difference)
    except (TypeError, ValueError, OverflowError) as error:
        came = ", ".join(f"{name}={value!r}" for name, value in difference.items())
        raise type(error)(f"expected words of timedelta, as in hours=2, got {came}") from error


def of(*kinds: type) -> Callable[[object, "Attribute[Any]", object], None]:
    """Return a validator for attrs that refuses what is of none of *kinds*, as `require()` does."""
    return lambda _, attribute, value: require(attribute.name, value, *kinds)


def one_of(*values: object) -> Callable[[object, "Attribute[Any]", object], None]:
    """Return a validator for attrs that refuses, by a ValueError, what is none of *values*."""

    def check(_: object, attribute: "Attribute[Any]", value: object) -> None:
        if value not in values:
            words = " or ".join(map(repr, values))
            raise ValueError(f"{attribute.name}: expected {words}, got {value!r}")

    return check


def _refusal(name: str, expected: str, value: object) -> TypeError:
    came = type(value).__name__ if name.startswith(_SECRET) else repr(value)
    return TypeError(f"{name}: expected {expected}, got {came}")
