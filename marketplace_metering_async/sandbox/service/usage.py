"""
One usage record of a request, read: types, limits, and which identity members exclude others; and
how an answer repeats it.
"""

import re
from datetime import datetime
from typing import Any, Final

from attrs import define

from marketplace_metering_async.sandbox.service.allocations import Allocations, allocations_of
from marketplace_metering_async.sandbox.service.parsing import (
    MEMBERS,
    check_fraction,
    check_names,
    optional_text_of,
    path_of,
    quantity_of,
    text_of,
    timestamp_of,
)
from marketplace_metering_async.sandbox.service.quantities import DECIMAL_OF, Quantity, in_members
from marketplace_metering_async.sandbox.service.refusals import Refusal, invalid, unreadable
from marketplace_metering_async.sandbox.service.rules import Rules

_MEMBERS: Final = MEMBERS["UsageRecord"]
_LICENSE_PATTERN: Final = (
    r"arn:aws[a-zA-Z-]*:[A-Za-z0-9][A-Za-z0-9_/.-]{0,62}:[A-Za-z0-9_/.-]{0,63}"
    r":[A-Za-z0-9_/.-]{0,63}:[A-Za-z0-9][A-Za-z0-9:_/+=,@.-]{0,1023}"
)
_LICENSE: Final = re.compile(_LICENSE_PATTERN)


@define
class Usage:
    """
    A usage record as it was read.

    Attributes:
        path: Where in the request it stands.
        echo: Its members as given, for the answer.
        timestamp: When.
        seconds: The same, since 1970.
        dimension: Of what.
        quantity: How much.
        account: CustomerAWSAccountId.
        identifier: CustomerIdentifier.
        license_arn: LicenseArn.
        allocations: By tags.
    """

    path: str
    echo: dict[str, Any]
    timestamp: datetime
    seconds: float
    dimension: str
    quantity: Quantity
    account: str | None
    identifier: str | None
    license_arn: str | None
    allocations: Allocations

    @property
    def customer(self) -> str:
        """The buyer, under whichever id."""
        return self.account or self.identifier or ""


def usage_of(path: str, record: object, product_code: str | None, rules: Rules) -> Usage:
    """
    Read the record that stands at *path* of a request with *product_code*.

    Raises:
        Refusal: for anything that breaks the service's model, and for identity members that
            exclude each other.
    """
    if type(record) is not dict:
        raise unreadable(path, "a structure")
    check_names(record, "UsageRecord", rules, path)
    find = record.get
    timestamp = timestamp_of(record, path)
    given = quantity_of(record, "Quantity", path)
    quantity = given or 0
    check_fraction(quantity, rules, path)
    # Most members are missing from most records, and a sandbox under load reads many.
    parts = find("UsageAllocations")
    allocations = (
        ()
        if parts is None
        else allocations_of(
            parts,
            quantity,
            rules,
            f"{path}.usageAllocations",
            decimal=None if given is None else find("QuantityAsDecimal") is not None,
        )
    )
    usage = Usage(
        path,
        _echo_of(record, quantity, rules),
        timestamp,
        record["Timestamp"],
        text_of(record, "Dimension", 255, path),
        quantity,
        None if find("CustomerAWSAccountId") is None else _account_of(record, path),
        optional_text_of(record, "CustomerIdentifier", 255, path) or None,
        None if find("LicenseArn") is None else _license_of(record, path),
        allocations,
    )
    _check_identity(usage, product_code)
    return usage


def _account_of(record: dict[str, Any], path: str) -> str:
    account = text_of(record, "CustomerAWSAccountId", 255, path)
    if not (account.isascii() and account.isdigit()):
        place = path_of(path, "CustomerAWSAccountId")
        raise invalid(place, "Member must satisfy regular expression pattern: ^[0-9]+$")
    return account


def _license_of(record: dict[str, Any], path: str) -> str:
    license_arn = text_of(record, "LicenseArn", None, path)
    if not _LICENSE.fullmatch(license_arn):
        place = path_of(path, "LicenseArn")
        raise invalid(place, f"Member must satisfy regular expression pattern: {_LICENSE_PATTERN}")
    return license_arn


def _check_identity(usage: Usage, product_code: str | None) -> None:
    """
    Let a record name its customer in one way.

    That both ids, and ProductCode with LicenseArn, exclude each other is documented; the error is
    not, so it is the one that no client takes for an outage.
    """
    if usage.account and usage.identifier:
        text = "CustomerIdentifier and CustomerAWSAccountId exclude each other"
        raise Refusal("ValidationException", f"{usage.path}: {text}")
    if not usage.account and not usage.identifier:
        text = "CustomerAWSAccountId or CustomerIdentifier is required"
        raise Refusal("ValidationException", f"{usage.path}: {text}")
    if usage.license_arn is None:
        if product_code is None:
            text = "productCode: it is required where records have no LicenseArn"
            raise Refusal("InvalidProductCodeException", text)
    elif product_code is not None:
        text = "LicenseArn and the request's ProductCode exclude each other"
        raise Refusal("ValidationException", f"{usage.path}: {text}")
    elif not usage.account:
        text = "LicenseArn goes with CustomerAWSAccountId"
        raise Refusal("ValidationException", f"{usage.path}: {text}")


def _echo_of(record: dict[str, Any], quantity: Quantity, rules: Rules) -> dict[str, Any]:
    """Return what the answer says of a checked *record*: nothing of members that are ignored."""
    echo = record
    if not record.keys() <= _MEMBERS or None in record.values():
        echo = {n: value for n, value in record.items() if n in _MEMBERS and value is not None}
    if rules.echo == "filled":
        amount = {} if DECIMAL_OF["Quantity"] in echo else {"Quantity": quantity}
        echo = {**echo, "Timestamp": int(record["Timestamp"]), **amount}
    if rules.echo_member == "given":
        return echo
    echo = _in_members(echo, "Quantity", rules)
    if parts := echo.get("UsageAllocations"):
        echo["UsageAllocations"] = [
            _in_members(one, "AllocatedUsageQuantity", rules) for one in parts
        ]
    return echo


def _in_members(echo: dict[str, Any], name: str, rules: Rules) -> dict[str, Any]:
    quantity = quantity_of(echo, name)
    if quantity is None:
        return {**echo}
    others = {n: value for n, value in echo.items() if n not in (name, DECIMAL_OF[name])}
    return {**others, **in_members(name, quantity, rules.echo_member)}
