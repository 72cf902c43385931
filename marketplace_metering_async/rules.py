"""
The service's rules for the members of a record, each as a function from values to violations.

They look at plain values, whatever their type, so that a record that breaks ten rules is refused
for ten. Most values break none, so nothing is worded before it is needed. What depends on the time
or on the rest of a batch is in `delivery`. Source of every number and pattern: `limits`.
"""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from numbers import Real
from typing import Final

from marketplace_metering_async import limits, quantities
from marketplace_metering_async.errors import InvalidRecordError, Violation, mask

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SHOWN: Final = 60
_HUGE: Final = 10**30
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.[0-9]{1,99})?")
_LONGEST_ARN: Final = 1_300
"""Above what the pattern of a license ARN can match."""

Violations = tuple[Violation, ...]


def describe(value: object, *, masked: bool = False) -> str:
    """Return *value* as an error's text shows it: escaped, short, ids masked."""
    if value is None:
        return "None"
    if isinstance(value, int) and abs(value) >= _HUGE:
        return _digits(value)
    if masked and isinstance(value, str):
        return repr(mask(value))
    if masked and isinstance(value, int | float | Decimal):
        return f"{mask(str(value))} ({type(value).__name__})"
    if not isinstance(value, str | int | float | Decimal):
        return f"a {type(value).__name__}"
    plain = truncate(str(value) if isinstance(value, Decimal) else repr(value))
    return plain if isinstance(value, str) else f"{plain} ({type(value).__name__})"


def truncate(words: str) -> str:
    """Return the beginning of a long text."""
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"


def raise_if_any(violations: Iterable[Violation]) -> None:
    """Raise InvalidRecordError, or its TypeError kind, if there is any violation."""
    if found := tuple(violations):
        raise InvalidRecordError.of(found)


def require_number(name: str, value: object) -> None:
    """
    Refuse a setting that is no number: a variable of the environment, for one, is a text.

    Raises:
        TypeError: it is none.
        ValueError: it is one that no float can stand for.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {describe(value)}")
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a smaller number, got {describe(value)}") from None


def require_optional(name: str, value: object, kind: type) -> None:
    """Refuse a setting that is neither None nor of a *kind*; see `require_kind`."""
    if value is not None:
        require_kind(name, value, kind)


def require_place(name: str, value: object) -> None:
    """
    Refuse a setting that is neither None nor a text with something in it.

    An empty one is that of a variable which is not set, and would lead elsewhere: to AWS itself.

    Raises:
        TypeError: it is no text.
        ValueError: it is empty.
    """
    require_optional(name, value, str)
    if value == "":
        raise ValueError(f"{name}: expected a text or None, got '': is a variable not set?")


def require_kind(name: str, value: object, kind: type) -> None:
    """
    Refuse a setting that is not of a *kind*; of a protocol is whatever has its methods.

    Raises:
        TypeError: it is of another.
    """
    if getattr(kind, "_is_protocol", False):
        methods = [m for m in vars(kind) if m == "__call__" or not m.startswith("_")]
        fits = not isinstance(value, type) and all(hasattr(value, m) for m in methods)
    else:
        fits = isinstance(value, kind)
    if not fits:
        origin = kind.__module__.partition(".")[0]
        known = origin in (__package__, "builtins")
        wanted = kind.__name__ if known else f"{origin}.{kind.__name__}"
        article = "an" if wanted[0] in "aO" else "a"
        wanted = "text" if kind is str else f"{article} {wanted}"
        raise TypeError(f"{name}: expected {wanted}, got {describe(value)}")


def require_at_least_one(name: str, value: float) -> None:
    """
    Refuse a limit that lets nothing through.

    Raises:
        TypeError, ValueError: it is no number, or below 1.
    """
    require_number(name, value)
    if not value >= 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")


def require_count(name: str, value: float) -> None:
    """
    Refuse a limit on how many there may be that lets nothing, or a part of one, through.

    Raises:
        TypeError, ValueError: it is no number, below 1, or not whole.
    """
    require_at_least_one(name, value)
    if value % 1 > 0:
        raise ValueError(f"{name}: expected a whole number, got {value}")


def require_linger(linger: float) -> None:
    """
    Refuse a time for which no record can wait.

    Raises:
        TypeError, ValueError: it is no number of seconds, or below 0.
    """
    require_number("linger", linger)
    if not linger >= 0:
        raise ValueError(f"linger: expected 0 seconds or more, got {linger}")


def require_optional_timeout(timeout: float | None) -> None:
    """Refuse what is neither None nor a time limit; see `require_timeout`."""
    if timeout is not None:
        require_timeout(timeout)


def require_timeout(timeout: float) -> None:
    """
    Refuse a time limit that would never come.

    Raises:
        TypeError, ValueError: it is no number of seconds.
    """
    require_number("timeout", timeout)
    if math.isnan(timeout):
        raise ValueError("timeout: expected a number of seconds, got nan")


def text(
    path: str,
    value: object,
    *,
    longest: int = limits.MAX_TEXT,
    pattern: re.Pattern[str] | None = None,
    expected: str = "",
    masked: bool = False,
) -> Violations:
    """A text of 1 to *longest* characters, wholly matched by *pattern* where there is one."""
    if not isinstance(value, str):
        wanted = f"text of {expected or f'1 to {longest} characters'}"
        return (Violation(path, wanted, describe(value, masked=masked), wrong_type=True),)
    if not 1 <= len(value) <= longest:
        wanted = expected or f"1 to {longest} characters"
        return (Violation(path, wanted, f"{len(value)} characters"),)
    if pattern is not None and not pattern.fullmatch(value):
        return (Violation(path, expected, describe(value, masked=masked)),)
    if not value.isascii() and _SURROGATE.search(value):
        return (Violation(path, "text that UTF-8 can carry", "a lone surrogate"),)
    return ()


def is_plain_text(value: object) -> bool:
    """Fast check: True means that `text` finds nothing in *value*; False means nothing."""
    return type(value) is str and value.isascii() and 0 < len(value) <= limits.MAX_TEXT


def is_account_id(value: object) -> bool:
    """Fast check: True means that *value* is an account's digits; False means nothing."""
    return is_plain_text(value) and value.isdigit()  # type: ignore[attr-defined]


def key_version(path: str, value: object) -> Violations:
    """A whole number of int32, from 1; True and 1.0 are mistakes."""
    wanted = f"1 to {limits.MAX_QUANTITY}"
    if isinstance(value, bool) or not isinstance(value, int):
        came = describe(value)
        return (Violation(path, f"a whole number from {wanted}", came, wrong_type=True),)
    return () if 1 <= value <= limits.MAX_QUANTITY else (Violation(path, wanted, _digits(value)),)


def quantity(path: str, value: object) -> Violations:
    """A quantity in any exact form: True, 0.1 and "1e3" are mistakes."""
    if quantities.read(value) is not None:
        return ()
    if isinstance(value, float):
        text = repr(value) if limits.DECIMAL_QUANTITY.fullmatch(repr(value)) else "17.42"
        wanted = f'an exact quantity, as "{text}" or Decimal("{text}")'
    elif isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        wanted = 'an exact number, as 17 or "17.42"'
    else:
        came = describe(value) if isinstance(value, str) else _digits(value)
        return (Violation(path, _expected(value), came),)
    return (Violation(path, wanted, describe(value), wrong_type=True),)


def _expected(value: int | str | Decimal) -> str:
    """Return what *value*, which is no quantity, is to be."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return 'digits without leading zeros and at most one point, as "17.42"'
    exact = Decimal(value)
    if exact.is_finite() and not exact.is_signed() and exact <= limits.MAX_DECIMAL_QUANTITY:
        return f"at most {limits.DECIMAL_PLACES} decimal places"
    return f"0 to {limits.MAX_DECIMAL_QUANTITY}"


def _digits(value: int | Decimal) -> str:
    if isinstance(value, Decimal):
        return truncate(str(value))
    return str(value) if abs(value) < _HUGE else f"a number of {value.bit_length()} bits"


def timestamp(path: str, value: object) -> Violations:
    """An aware datetime, since a naive one is somebody's local time, that UTC can express."""
    wanted = "a time with a time zone, as 2026-11-28T09:00:00+00:00"
    if not isinstance(value, datetime):
        return (Violation(path, wanted, describe(value), wrong_type=True),)
    try:
        if datetime.utcoffset(value) is None:  # as Python defines naive, whatever tzinfo is
            return (Violation(path, wanted, "one without"),)
        datetime.astimezone(value, UTC)
    except Exception as error:  # noqa: BLE001 - a tzinfo is anybody's code
        return (Violation(path, "a time that UTC can express", type(error).__name__),)
    return ()


def tag(key: object, value: object) -> Violations:
    """A tag's key and value."""
    return _tag_text("key", key, limits.MAX_TAG_KEY) + _tag_text(
        "value", value, limits.MAX_TAG_VALUE
    )


def _tag_text(path: str, value: object, longest: int) -> Violations:
    expected = f"1 to {longest} characters of letters, digits, blanks and +-=._:/@"
    return text(path, value, longest=longest, pattern=limits.TAG_TEXT, expected=expected)


def product_code(value: object) -> Violations:
    """A product code."""
    expected = "1 to 255 letters, digits or -/=:_.@"
    return text("product_code", value, pattern=limits.PRODUCT_CODE, expected=expected)


def identity(account: object, identifier: object, license_arn: object) -> Violations:
    """
    Who used it, under one of the two schemes.

    Either a product code and one customer id, or a license and the buyer's account.
    """
    found: Violations = ()
    if account is not None:
        expected = "the digits of an account id"
        found += text(
            "customer_aws_account_id",
            account,
            pattern=limits.ACCOUNT_ID,
            expected=expected,
            masked=True,
        )
    if identifier is not None:
        found += text("customer_identifier", identifier)
    if license_arn is not None:
        found += text(
            "license_arn",
            license_arn,
            longest=_LONGEST_ARN,
            pattern=limits.LICENSE_ARN,
            expected="the ARN of a license",
            masked=True,
        )
    return found + _customer(account, identifier, license_arn)


def _customer(account: object, identifier: object, license_arn: object) -> Violations:
    if account is not None and identifier is not None:
        wanted, came = "one customer id", "customer_aws_account_id as well"
        return (Violation("customer_identifier", wanted, came),)
    if account is None and license_arn is not None:
        came = "None" if identifier is None else "customer_identifier, which licenses do not know"
        return (Violation("customer_aws_account_id", "the account of the license", came),)
    if account is None and identifier is None:
        wanted = "an account id, or a customer_identifier"
        return (Violation("customer_aws_account_id", wanted, "neither"),)
    return ()


def allocated(
    path: str,
    total: object,
    parts: Sequence[tuple[quantities.Quantity, frozenset[tuple[str, str]]]],
) -> Violations:
    """Allocations (quantity, tag set) of a record: how many, each tag set once, adding up."""
    found: list[Violation] = []
    if len(parts) > limits.MAX_ALLOCATIONS:
        wanted = f"at most {limits.MAX_ALLOCATIONS} allocations"
        found.append(Violation(path, wanted, str(len(parts))))
    seen: dict[frozenset[tuple[str, str]], int] = {}
    for index, (_, tags) in enumerate(parts):
        first = seen.setdefault(tags, index)
        if first != index:
            place = f"{path}[{index}].tags"
            found.append(Violation(place, "a tag set of its own", f"that of allocation {first}"))
    whole = quantities.read(total)
    allotted = quantities.of_millionths(sum(quantities.millionths(part) for part, _ in parts))
    if whole is not None and allotted != whole:
        wanted = f"allocations that add up to the quantity {whole}"
        found.append(Violation(path, wanted, str(allotted)))
    return tuple(found)
