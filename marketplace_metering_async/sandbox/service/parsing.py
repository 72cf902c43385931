"""Reading the members of a request: their types first, then the limits of the service's model."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from marketplace_metering_async.sandbox.as_json import decoded
from marketplace_metering_async.sandbox.service.quantities import (
    DECIMAL_OF,
    INT32,
    TEXT,
    Quantity,
    of_text,
)
from marketplace_metering_async.sandbox.service.refusals import Refusal, invalid, unreadable
from marketplace_metering_async.sandbox.service.rules import Rules

_1970: Final = datetime(1970, 1, 1, tzinfo=UTC)

MEMBERS: Final[Mapping[str, frozenset[str]]] = {
    "BatchMeterUsage": frozenset({"ProductCode", "UsageRecords"}),
    "MeterUsage": frozenset(
        {
            "ProductCode",
            "Timestamp",
            "UsageDimension",
            "UsageQuantity",
            "UsageQuantityAsDecimal",
            "DryRun",
            "UsageAllocations",
            "ClientToken",
        }
    ),
    "RegisterUsage": frozenset({"ProductCode", "PublicKeyVersion", "Nonce"}),
    "ResolveCustomer": frozenset({"RegistrationToken"}),
    "UsageRecord": frozenset(
        {
            "Timestamp",
            "CustomerIdentifier",
            "Dimension",
            "Quantity",
            "QuantityAsDecimal",
            "UsageAllocations",
            "CustomerAWSAccountId",
            "LicenseArn",
        }
    ),
    "UsageAllocation": frozenset(
        {"AllocatedUsageQuantity", "AllocatedUsageQuantityAsDecimal", "Tags"}
    ),
    "Tag": frozenset({"Key", "Value"}),
}
"""The members of each structure that requests are made of, by the service's model."""

_NAME: Final = re.compile(r"[A-Za-z]{1,64}")
_PRODUCT: Final = re.compile(r"[-a-zA-Z0-9/=:_.@]{0,255}")


def members_of(body: bytes) -> dict[str, Any]:
    """Return the members of a request's body; Refusal if it is no JSON structure."""
    try:
        members = decoded(body)
    except ValueError:
        raise unreadable("the body", "JSON") from None
    if not isinstance(members, dict):
        raise unreadable("the body", "a structure")
    return members


def check_names(members: Mapping[str, Any], structure: str, rules: Rules, where: str = "") -> None:
    """
    Refuse a member that *structure* does not have in the service's model; *where* is its path.

    Whether the service refuses it or reads over it is not documented. Read over, a quantity under
    a misspelled or newer name is metered as 0 without a word, so to refuse is the default. The code
    is the one that the JSON protocol has for what does not fit the model, as for a wrong type: no
    client takes it for an outage.

    Raises:
        Refusal: SerializationException, unless the rules ignore unknown members.
    """
    if members.keys() <= MEMBERS[structure] or rules.unknown_members == "ignore":
        return
    name = next(name for name in members if name not in MEMBERS[structure])
    # Anything can be a name, also what must not get into a client's log.
    if _NAME.fullmatch(name):
        place, said = path_of(where, name), f"{structure} has no {name}"
    else:
        place, said = where or "the request", f"{structure} has no such member"
    raise Refusal(
        "SerializationException",
        f"{place}: {said}",
        remedy=(
            f"Send only members of the service's model, in its spelling: {said}. "
            'Rules(unknown_members="ignore") lets others pass.'
        ),
    )


def product_code_of(request: Mapping[str, Any]) -> str | None:
    """Return ProductCode; None where it is missing or empty."""
    value = request.get("ProductCode")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise unreadable("productCode", "a string")
    if not _PRODUCT.fullmatch(value):
        raise invalid(
            "productCode",
            "Member must satisfy regular expression pattern: ^[-a-zA-Z0-9/=:_.@]*$ "
            "and have length less than or equal to 255",
        )
    return value


def required_product_code_of(request: Mapping[str, Any]) -> str:
    """Return ProductCode where the operation requires it."""
    value = product_code_of(request)
    if value is None:
        if request.get("ProductCode") == "":
            raise Refusal("InvalidProductCodeException", "productCode: it is empty")
        raise invalid("productCode", "Member must not be null")
    return value


def path_of(where: str, name: str) -> str:
    """Return how the service calls the member *name* of the structure *where*."""
    member = name[0].lower() + name[1:]
    return f"{where}.{member}" if where else member


def text_of(
    members: Mapping[str, Any], name: str, longest: int | None = None, where: str = ""
) -> str:
    """Return a required text of one to *longest* characters; *where* is the structure's path."""
    value = optional_text_of(members, name, longest, where)
    if value is None:
        raise invalid(path_of(where, name), "Member must not be null")
    if not value:
        raise invalid(path_of(where, name), "Member must have length greater than or equal to 1")
    return value


def optional_text_of(
    members: Mapping[str, Any], name: str, longest: int | None, where: str = ""
) -> str | None:
    """Return a text of up to *longest* characters; None where it is missing."""
    value = members.get(name)
    if value is None:
        return None
    if type(value) is not str:
        raise unreadable(path_of(where, name), "a string")
    if longest is not None and len(value) > longest:
        raise invalid(
            path_of(where, name), f"Member must have length less than or equal to {longest}"
        )
    return value


def quantity_of(members: Mapping[str, Any], name: str, where: str = "") -> Quantity | None:
    """
    Return a quantity, by value, from the integer member *name* or its decimal sister.

    None where neither is there. Both together refuse the request; the error is not documented, so
    it is the one that no client takes for an outage.
    """
    whole, decimal = members.get(name), members.get(DECIMAL_OF[name])
    if decimal is None:
        return None if whole is None else _integer(whole, name, where)
    if whole is not None:
        text = f"{path_of(where, name)}: {name} and {DECIMAL_OF[name]} exclude each other"
        raise Refusal("ValidationException", text)
    return _decimal(decimal, DECIMAL_OF[name], where)


def _integer(value: object, name: str, where: str) -> int:
    if type(value) is not int:  # of which bool is none, nor 5.0
        raise unreadable(path_of(where, name), "an integer")
    if value < 0:
        raise invalid(path_of(where, name), "Member must have value greater than or equal to 0")
    if value > INT32:
        raise invalid(path_of(where, name), f"Member must have value less than or equal to {INT32}")
    return value


def _decimal(value: object, name: str, where: str) -> Quantity:
    if type(value) is not str:
        raise unreadable(path_of(where, name), "a string")
    if not TEXT.fullmatch(value):
        text = f"Member must satisfy regular expression pattern: ^{TEXT.pattern}$"
        raise invalid(path_of(where, name), text)
    return of_text(value)


def check_fraction(quantity: Quantity, rules: Rules, path: str) -> None:
    """Refuse what is not whole where products take nothing else; Refusal."""
    if rules.fractions == "refused" and type(quantity) is not int:
        raise Refusal(
            "ValidationException",
            f"{path}: the product takes whole quantities only",
            remedy='Send whole quantities, or set Rules(fractions="taken").',
        )


@lru_cache(1024)
def _moment(seconds: float) -> datetime:
    """Many records are of few hours."""
    return _1970 + timedelta(seconds=seconds)


def timestamp_of(members: Mapping[str, Any], where: str = "") -> datetime:
    """Return Timestamp, which is a number of seconds since 1970 on the wire."""
    value = members.get("Timestamp")
    if type(value) is not int and type(value) is not float:
        if value is None:
            raise invalid(path_of(where, "Timestamp"), "Member must not be null")
        raise unreadable(path_of(where, "Timestamp"), "a number of seconds")
    try:
        return _moment(value)
    except (ValueError, OverflowError):
        raise unreadable(
            path_of(where, "Timestamp"), "seconds between the years 1 and 9999"
        ) from None
