"""
The service's model beside what is known of it: `python tests/support/service_model.py FILE`.

FILE is the `service-2.json` of any botocore, also one that cannot be installed here, for
aiobotocore holds it back. Says a line for each difference, and ends with 0 all the same: that the
service has moved on is news, and no fault of the code.
"""

import argparse
import gzip
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import fields_dict
from botocore import xform_name

from marketplace_metering_async import MarketplaceMeteringClient, limits, records, results
from marketplace_metering_async.sandbox.service.parsing import MEMBERS
from marketplace_metering_async.service_errors import MODELLED_ERRORS

Model = dict[str, Any]

OPERATIONS = ("BatchMeterUsage", "MeterUsage", "RegisterUsage", "ResolveCustomer")
NUMBERS = [
    ("UsageRecordList", "max", limits.MAX_RECORDS_PER_REQUEST),
    ("UsageQuantity", "max", limits.MAX_QUANTITY),
    ("AllocatedUsageQuantity", "max", limits.MAX_QUANTITY),
    ("UsageQuantityAsDecimalString", "max", len(str(limits.MAX_DECIMAL_QUANTITY))),
    ("AllocatedUsageQuantityAsDecimalString", "max", len(str(limits.MAX_DECIMAL_QUANTITY))),
    ("UsageDimension", "max", limits.MAX_TEXT),
    ("ProductCode", "max", limits.MAX_TEXT),
    ("CustomerIdentifier", "max", limits.MAX_TEXT),
    ("CustomerAWSAccountId", "max", limits.MAX_TEXT),
    ("Nonce", "max", limits.MAX_TEXT),
    ("UsageAllocations", "max", limits.MAX_ALLOCATIONS),
    ("TagList", "max", limits.MAX_TAGS),
    ("TagKey", "max", limits.MAX_TAG_KEY),
    ("TagValue", "max", limits.MAX_TAG_VALUE),
    ("ClientToken", "max", limits.MAX_CLIENT_TOKEN),
]
PATTERNS = [
    ("UsageQuantityAsDecimalString", limits.DECIMAL_QUANTITY),
    ("AllocatedUsageQuantityAsDecimalString", limits.DECIMAL_QUANTITY),
    ("LicenseArn", limits.LICENSE_ARN),
]
RESULTS = {
    "MeterUsageResult": results.MeterUsageResult,
    "RegisterUsageResult": results.RegisterUsageResult,
    "ResolveCustomerResult": results.ResolveCustomerResult,
}
KNOWN_RESULTS = {"BatchMeterUsageResult": {"Results", "UnprocessedRecords"}}


def model_of(file: Path) -> Model:
    """Read a model, as a wheel of botocore packs it or as plain JSON."""
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    model: Model = json.loads(text)
    return model


def differences(model: Model) -> Iterator[str]:
    """Yield a line for each thing that the model and this package say differently."""
    shapes = model["shapes"]
    yield from _compared("operations", set(model["operations"]), set(OPERATIONS))
    modelled = {name for name, shape in shapes.items() if shape.get("exception")}
    yield from _compared("errors", modelled, set(MODELLED_ERRORS))
    for name, bound, ours in NUMBERS:
        theirs = shapes.get(name, {}).get(bound)
        if theirs != ours:
            yield f"{name}: its {bound} is {theirs}, ours {ours}"
    for name, pattern in PATTERNS:
        theirs = shapes.get(name, {}).get("pattern", "").removeprefix("^").removesuffix("$")
        if theirs != pattern.pattern:
            yield f"{name}: its pattern is {theirs!r}, ours {pattern.pattern!r}"
    yield from _members(shapes)


def _members(shapes: Model) -> Iterator[str]:
    def of(shape: str) -> set[str]:
        return set(shapes.get(shape, {}).get("members", ()))

    ours = {
        "UsageRecord": set(records._RECORD.known) - {"ProductCode"},
        "UsageAllocation": set(records._ALLOCATION.known),
        "Tag": set(records._TAG.known),
    }
    for name, members in ours.items():
        yield from _compared(f"members of {name}", of(name), members)
        yield from _compared(f"members of {name}, sandbox", of(name), set(MEMBERS[name]))
    for name in OPERATIONS:
        yield from _compared(
            f"members of {name}, sandbox", of(f"{name}Request"), set(MEMBERS[name])
        )
    for name in OPERATIONS[1:]:
        arguments = inspect.signature(
            getattr(MarketplaceMeteringClient, xform_name(name))
        ).parameters
        for member in sorted(of(f"{name}Request")):
            # One argument stands for both members of a quantity.
            if xform_name(member.removesuffix("AsDecimal")) not in arguments:
                yield f"{name}: it takes {member}, and our method does not"
    for name, kind in RESULTS.items():
        for member in sorted(of(name) - {"Metadata"}):
            if xform_name(member) not in fields_dict(kind):
                yield f"{name}: it has {member}, and ours does not"
    yield from _compared("members of Metadata", of("Metadata"), {"AgreementId"})
    for name, members in KNOWN_RESULTS.items():
        yield from _compared(f"members of {name}", of(name), members)


def _compared(what: str, theirs: set[str], ours: set[str]) -> Iterator[str]:
    if new := sorted(theirs - ours):
        yield f"{what}: the model has {', '.join(new)}, and we do not know it"
    if gone := sorted(ours - theirs):
        yield f"{what}: we know {', '.join(gone)}, and the model does not have it"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    for line in differences(model_of(parser.parse_args().file)):
        print(line)  # noqa: T201
