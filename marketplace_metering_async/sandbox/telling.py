"""The sandbox's values as JSON, for the controls and the page."""

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs

from marketplace_metering_async.sandbox.agreements import Agreement
from marketplace_metering_async.sandbox.catalogue import Product
from marketplace_metering_async.sandbox.faults import Fault, RuleInForce
from marketplace_metering_async.sandbox.metered import Metered

if TYPE_CHECKING:
    from marketplace_metering_async.sandbox.sandbox import Sandbox


def metered_to_json(record: Metered) -> dict[str, Any]:
    """Return a metered record, with its customer and hour."""
    return {
        "region": record.region,
        "product_code": record.product_code,
        "license_arn": record.license_arn,
        "customer_aws_account_id": record.customer_aws_account_id,
        "customer_identifier": record.customer_identifier,
        "workload": record.workload,
        "customer": record.customer,
        "dimension": record.dimension,
        "timestamp": record.timestamp.isoformat(),
        "hour": record.hour.isoformat(),
        "quantity": record.quantity,
        "allocations": [
            {"tags": dict(tags), "quantity": quantity} for tags, quantity in record.allocations
        ],
        "metering_record_id": record.metering_record_id,
        "received": record.received.isoformat(),
        "free": record.free,
    }


def product_to_json(product: Product) -> dict[str, Any]:
    """Return a product, as Sandbox.declare_product takes it."""
    return {
        "dimensions": sorted(product.dimensions),
        "customers": dict(product.customers),
        "licenses": dict(product.licenses),
        "public_key_version": product.public_key_version,
        "key_rotated": product.key_rotated.isoformat() if product.key_rotated else None,
        "title": product.title,
        "registration_url": product.registration_url,
        "concurrent_agreements": product.concurrent_agreements,
        "seller": product.seller,
    }


def agreement_to_json(agreement: Agreement, now: datetime, closing: timedelta) -> dict[str, Any]:
    """Return an agreement with what it is at *now*."""
    told = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in attrs.asdict(agreement).items()
    }
    return {**told, "state": agreement.state(now, closing).value}


def fault_to_json(entry: RuleInForce) -> dict[str, Any]:
    """Return a rule of misbehaviour with how often it struck; of a function, its name."""
    rule = entry.rule
    told: dict[str, Any] = {"matched": entry.matched, "struck": entry.struck}
    if isinstance(rule, Fault):
        told["rule"] = attrs.asdict(rule)
    else:
        told["function"] = getattr(rule, "__qualname__", type(rule).__qualname__)
    return told


def marketplace_to_json(sandbox: "Sandbox") -> dict[str, Any]:
    """Return products, agreements with what they are now, and suspended accounts."""
    now, catalogue, rules = sandbox.clock.now(), sandbox.book.catalogue, sandbox.book.rules
    agreements = catalogue.agreements.values()
    return {
        "products": {code: product_to_json(p) for code, p in catalogue.products.items()},
        "agreements": [
            agreement_to_json(agreement, now, rules.closing) for agreement in agreements
        ],
        "suspended": sorted(catalogue.suspended),
    }


def state_to_json(sandbox: "Sandbox") -> dict[str, Any]:
    """Return what is going on, in figures."""
    clock, book = sandbox.clock, sandbox.book
    monotonic = asyncio.get_running_loop().time()
    return {
        "change": sandbox.pulse.count,
        "now": clock.now().isoformat(),
        "speed": clock.speed,
        "real_time": clock.is_real,
        "calls_per_second": sandbox.calls_per_second,
        "quotas": [
            {
                "account": account,
                "region": region,
                "operation": operation,
                "calls_per_second": quota.calls_per_second,
                "burst": quota.burst,
                "left": round(quota.left(monotonic), 2),
            }
            for (account, region, operation), quota in sandbox.quotas.items()
        ],
        "calls": dict(sandbox.calls),
        "faults": dict(sandbox.struck),
        "faults_in_force": [fault_to_json(entry) for entry in sandbox.faults.in_force],
        "rules": book.rules.to_json(),
        "refusals": {
            code: {"count": count, **attrs.asdict(sandbox.causes[code])}
            for code, count in sandbox.refusals.items()
        },
        "statuses": dict(book.statuses),
        "products": sorted(book.products),
        "records": len(book),
    }
