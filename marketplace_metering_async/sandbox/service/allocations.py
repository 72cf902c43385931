"""The allocations of a record: buckets of tags, whose quantities add up to the record's."""

import re
from typing import Any, Final

from marketplace_metering_async.sandbox.service.parsing import (
    check_fraction,
    check_names,
    quantity_of,
)
from marketplace_metering_async.sandbox.service.quantities import DECIMAL_OF, Quantity, total
from marketplace_metering_async.sandbox.service.refusals import Refusal, invalid, unreadable
from marketplace_metering_async.sandbox.service.rules import Rules

Allocations = tuple[tuple[tuple[tuple[str, str], ...], Quantity], ...]
"""Pairs of sorted tags and quantity, sorted."""

_PATTERN: Final = re.compile(r"[a-zA-Z0-9+ -=._:/@]+")  # from blank to equals sign is a range
_PROSE: Final = re.compile(r"[a-zA-Z0-9+\-=._:/@ ]+")
_MOST_TAGS: Final = 5


_NAME: Final = "AllocatedUsageQuantity"


def allocations_of(
    value: object,
    quantity: Quantity,
    rules: Rules,
    path: str,
    *,
    decimal: bool | None,
) -> Allocations:
    """
    Return the allocations of a record of *quantity*, read and checked.

    Args:
        value: What came.
        quantity: That of the record, which they add up to.
        rules: The switches.
        path: Where they stand.
        decimal: Whether the record's quantity came in the decimal member, as theirs must then;
            None where it came in neither, and theirs are of one type.

    Raises:
        Refusal: for anything that breaks a rule; *path* says where.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise unreadable(path, "a list")
    if not 1 <= len(value) <= 2500:
        raise invalid(path, "Member must have length between 1 and 2500")
    found: dict[tuple[tuple[str, str], ...], Quantity] = {}
    for position, part in enumerate(value, 1):
        place = f"{path}.{position}.member"
        if not isinstance(part, dict):
            raise unreadable(place, "a structure")
        check_names(part, "UsageAllocation", rules, place)
        share = quantity_of(part, _NAME, place)
        if share is None:
            raise invalid(f"{place}.allocatedUsageQuantity", "Member must not be null")
        came = part.get(DECIMAL_OF[_NAME]) is not None
        decimal = came if decimal is None else decimal
        if came != decimal:
            text = f"{place}: its quantity is not of the type of the record's (whole or decimal)"
            raise Refusal("InvalidUsageAllocationsException", text)
        check_fraction(share, rules, place)
        tags = _tags_of(part.get("Tags"), rules, f"{place}.tags")
        if tags in found:
            raise Refusal(
                "InvalidUsageAllocationsException", f"{place}: its tags are those of another one"
            )
        found[tags] = share
    if total(found.values()) != quantity:
        text = f"{path}: the allocated quantities do not add up to the quantity"
        raise Refusal("InvalidUsageAllocationsException", text)
    _check_keys_of_record(found, rules, path)
    return tuple(sorted(found.items()))


def _tags_of(value: object, rules: Rules, path: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise unreadable(path, "a list")
    if not value:
        raise invalid(path, "Member must have length greater than or equal to 1")
    if len(value) > _MOST_TAGS:
        raise Refusal("InvalidTagException", f"{path}: more than {_MOST_TAGS} tags")
    tags: dict[str, str] = {}
    for position, tag in enumerate(value, 1):
        key, text = _tag_of(tag, rules, f"{path}.{position}.member")
        if key in tags:
            raise Refusal("InvalidTagException", f"{path}: a key is there twice")
        tags[key] = text
    return tuple(sorted(tags.items()))


def _tag_of(tag: Any, rules: Rules, path: str) -> tuple[str, str]:  # noqa: ANN401 - from JSON
    if not isinstance(tag, dict):
        raise unreadable(path, "a structure")
    check_names(tag, "Tag", rules, path)
    pair = []
    for name, longest in (("Key", 100), ("Value", 256)):
        text, place = tag.get(name), f"{path}.{name.lower()}"
        if text is not None and not isinstance(text, str):
            raise unreadable(place, "a string")
        if not text or len(text) > longest:
            raise Refusal("InvalidTagException", f"{place}: not of 1 to {longest} characters")
        if not _PATTERN.fullmatch(text):
            raise Refusal("InvalidTagException", f"{place}: does not match the pattern of tags")
        if rules.tag_characters == "prose" and not _PROSE.fullmatch(text):
            raise Refusal("InvalidTagException", f"{place}: a character other than +-=._:/@")
        pair.append(text)
    return pair[0], pair[1]


def _check_keys_of_record(
    found: dict[tuple[tuple[str, str], ...], Quantity], rules: Rules, path: str
) -> None:
    if rules.tags_counted == "record":
        keys = {key for tags in found for key, _ in tags}
        if len(keys) > _MOST_TAGS:
            text = f"{path}: more than {_MOST_TAGS} different tag keys in the record"
            raise Refusal("InvalidTagException", text)
