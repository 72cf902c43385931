"""What is going on, as JSON: what controls and page both show."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from marketplace_metering_async.sandbox.as_json import as_json
from marketplace_metering_async.sandbox.faults import Fault, FaultFunction, RuleInForce
from marketplace_metering_async.sandbox.history import Call
from marketplace_metering_async.sandbox.service.agreements import Agreement
from marketplace_metering_async.sandbox.service.metered import Metered
from marketplace_metering_async.sandbox.world import World


def record_figures(record: Metered) -> dict[str, Any]:
    """Return a metered record, with its customer and hour, and its tags by name."""
    return {
        **as_json(record),
        "customer": record.customer,
        "hour": record.hour.isoformat(),
        "allocations": [
            {"tags": dict(tags), "quantity": as_json(quantity)}
            for tags, quantity in record.allocations
        ],
    }


def agreement_figures(agreement: Agreement, now: datetime, closing: timedelta) -> dict[str, Any]:
    """Return an agreement with what it is at *now*."""
    return {**as_json(agreement), "state": agreement.state(now, closing).value}


def call_figures(call: Call) -> dict[str, Any]:
    """Return one of the latest calls, with how many records got each status."""
    return {**as_json(call), "verdicts": call.verdicts, "seconds": round(call.seconds, 6)}


def rule_figures(rule: Fault | FaultFunction) -> dict[str, Any]:
    """Return a rule of misbehaviour; of a function, its name."""
    if isinstance(rule, Fault):
        figures: dict[str, Any] = as_json(rule)
        return figures
    return {"function": getattr(rule, "__qualname__", type(rule).__qualname__)}


def _in_force(entry: RuleInForce) -> dict[str, Any]:
    figures = rule_figures(entry.rule)
    named = {"rule": figures} if isinstance(entry.rule, Fault) else figures
    return {"matched": entry.matched, "hits": entry.hits, **named}


def quota_figures(world: World, monotonic: float, latest: int | None = None) -> list[Any]:
    """Return the quotas of those that have called, the *latest* of them or all."""
    quotas = list(world.quotas.items())
    return [
        {
            "account": account,
            "region": region,
            "operation": operation,
            "calls_per_second": quota.calls_per_second,
            "burst": quota.burst,
            "left": round(quota.left(monotonic), 2),
        }
        for (account, region, operation), quota in (quotas[-latest:] if latest else quotas)
    ]


def refusal_figures(world: World) -> dict[str, dict[str, Any]]:
    """Return the codes of refusals, each with its count, rule and remedy, most frequent first."""
    return {
        code: {"count": count, **as_json(world.causes[code])}
        for code, count in world.refusals.most_common()
    }


def agreements_figures(world: World) -> Iterator[dict[str, Any]]:
    """Yield all agreements, with what they are now."""
    now, closing = world.clock.now(), world.book.rules.closing
    agreements = list(world.book.catalogue.agreements.values())
    return (agreement_figures(one, now, closing) for one in agreements)


def world_figures(world: World, monotonic: float) -> dict[str, Any]:
    """Return counts, clock, quotas, rules and faults; *monotonic* is the event loop's time."""
    clock, book = world.clock, world.book
    return {
        "change": world.changes.count,
        "now": clock.now().isoformat(),
        "speed": clock.speed,
        "real_time": clock.is_real,
        "calls_per_second": world.calls_per_second,
        "quotas": quota_figures(world, monotonic),
        "calls": dict(world.calls),
        "faults": dict(world.hits),
        "faults_in_force": [_in_force(entry) for entry in world.faults.in_force],
        "rules": as_json(book.rules),
        "refusals": refusal_figures(world),
        "statuses": dict(book.statuses),
        "products": sorted(book.products),
        "records": len(book),
    }
