"""How an answer repeats a record: as it was given, or as the rules change it."""

from typing import Any, Final

from marketplace_metering_async.sandbox.service.parsing import MEMBERS, quantity_of
from marketplace_metering_async.sandbox.service.quantities import DECIMAL_OF, Quantity, in_members
from marketplace_metering_async.sandbox.service.rules import Rules

_MEMBERS: Final = MEMBERS["UsageRecord"]


def echo_of(record: dict[str, Any], quantity: Quantity, rules: Rules) -> dict[str, Any]:
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
