"""
The service's rules for the members of a record, each as a function from values to violations.

They look at plain values, whatever their type, so that a record that breaks ten rules is told of
ten. What depends on the time or on the rest of a batch is in `validation`.
Source of every number and pattern: `limits`.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from marketplace_metering_async import limits
from marketplace_metering_async.errors import InvalidRecordError, Violation, mask

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SHOWN: Final = 60


def shown(value: object, *, masked: bool = False) -> str:
    """Return *value* as an error's text shows it: escaped, short, ids masked."""
    if value is None:
        return "None"
    if masked and isinstance(value, str):
        return repr(mask(value))
    if not isinstance(value, str | int | float):
        return f"a {type(value).__name__}"
    plain = clipped(repr(value))
    return plain if isinstance(value, str) else f"{plain} ({type(value).__name__})"


def clipped(words: str) -> str:
    """Return the beginning of a long text."""
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…"


def require(violations: Iterator[Violation]) -> None:
    """Raise InvalidRecordError, or its TypeError kind, if there is any violation."""
    if found := tuple(violations):
        raise InvalidRecordError.of(found)


def text(
    path: str,
    value: object,
    *,
    longest: int = limits.MAX_TEXT,
    pattern: re.Pattern[str] | None = None,
    expected: str = "",
    masked: bool = False,
) -> Iterator[Violation]:
    """A text of 1 to *longest* characters, wholly matched by *pattern* where there is one."""
    expected = expected or f"1 to {longest} characters"
    if not isinstance(value, str):
        yield Violation(path, f"text of {expected}", shown(value), wrong_type=True)
    elif not 1 <= len(value) <= longest:
        yield Violation(path, expected, f"{len(value)} characters")
    elif _SURROGATE.search(value):
        yield Violation(path, "text that UTF-8 can carry", "a lone surrogate")
    elif pattern is not None and not pattern.fullmatch(value):
        yield Violation(path, expected, shown(value, masked=masked))


def quantity(path: str, value: object) -> Iterator[Violation]:
    """Whole units of int32; True and 1.0 are mistakes, not quantities."""
    expected = f"0 to {limits.MAX_QUANTITY}"
    if isinstance(value, bool) or not isinstance(value, int):
        yield Violation(path, f"a whole number from {expected}", shown(value), wrong_type=True)
    elif not 0 <= value <= limits.MAX_QUANTITY:
        yield Violation(path, expected, f"{value:.3g}" if abs(value) > 10**30 else str(value))


def timestamp(path: str, value: object) -> Iterator[Violation]:
    """An aware datetime, since a naive one is somebody's local time."""
    if not isinstance(value, datetime):
        yield Violation(path, "a datetime with a time zone", shown(value), wrong_type=True)
    elif value.tzinfo is None:
        yield Violation(path, "a datetime with a time zone", "a naive one")


def tag(key: object, value: object) -> Iterator[Violation]:
    """A tag's key and value."""
    of = "letters, digits, blanks and +-=._:/@"
    for path, given, longest in (
        ("key", key, limits.MAX_TAG_KEY),
        ("value", value, limits.MAX_TAG_VALUE),
    ):
        yield from text(
            path,
            given,
            longest=longest,
            pattern=limits.TAG_TEXT,
            expected=f"1 to {longest} characters of {of}",
        )


def identity(
    *, account: object, identifier: object, license_arn: object, product_code: object
) -> Iterator[Violation]:
    """
    Who used it, under one of the two schemes.

    Either a product code and one customer id, or a license and the buyer's account. The product
    code may still come from the call, so its absence is no violation here.
    """
    if account is not None:
        yield from text(
            "customer_aws_account_id",
            account,
            pattern=limits.ACCOUNT_ID,
            expected="the digits of an account id",
            masked=True,
        )
    if identifier is not None:
        yield from text("customer_identifier", identifier)
    if license_arn is not None:
        yield from text(
            "license_arn",
            license_arn,
            longest=1_300,
            pattern=limits.LICENSE_ARN,
            expected="the ARN of a license",
            masked=True,
        )
    if product_code is not None:
        yield from text(
            "product_code",
            product_code,
            pattern=limits.PRODUCT_CODE,
            expected="1 to 255 letters, digits or -/=:_.@",
        )
    if account is not None and identifier is not None:
        yield Violation("customer_identifier", "one customer id", "customer_aws_account_id as well")
    elif license_arn is not None and account is None:
        came = "None" if identifier is None else "customer_identifier, which licenses do not know"
        yield Violation("customer_aws_account_id", "the account of the license", came)
    elif account is None and identifier is None:
        yield Violation(
            "customer_aws_account_id", "an account id, or a customer_identifier", "neither"
        )


def allocated(
    path: str, total: object, parts: Sequence[tuple[object, frozenset[tuple[str, str]]]]
) -> Iterator[Violation]:
    """Allocations (quantity, tag set) of a record: how many, each tag set once, adding up."""
    if len(parts) > limits.MAX_ALLOCATIONS:
        yield Violation(path, f"at most {limits.MAX_ALLOCATIONS} allocations", f"{len(parts)}")
    seen: dict[frozenset[tuple[str, str]], int] = {}
    for index, (_, tags) in enumerate(parts):
        first = seen.setdefault(tags, index)
        if first != index:
            yield Violation(
                f"{path}[{index}].tags", "a tag set of its own", f"that of allocation {first}"
            )
    allotted = sum(part for part, _ in parts if isinstance(part, int))
    if isinstance(total, int) and allotted != total:
        yield Violation(path, f"allocations that add up to the quantity {total}", str(allotted))
