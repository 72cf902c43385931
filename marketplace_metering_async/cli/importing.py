"""
Lines of files into a ledger, each once.

A line's event id is made of the name of the input, the number of the line and what it says, so that
the same file may be imported again, and a file that grew is imported from where it grew.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, Final

from attrs import frozen

from marketplace_metering_async.cli import results
from marketplace_metering_async.cli.exits import Exit, MisuseError
from marketplace_metering_async.cli.intake import Intake
from marketplace_metering_async.cli.reading import STDIN, Line, Source
from marketplace_metering_async.errors import InvalidRecordError, Violation
from marketplace_metering_async.ledger import AddedUsage, UsageLedger
from marketplace_metering_async.records import UsageRecord

RECORDED: Final = "Recorded"
REPEATED: Final = "Repeated"
_AT_ONCE: Final = 1_000
"""Lines that share a commit."""


@frozen
class Imported:
    """
    What became of one line.

    Attributes:
        members: Of its result line.
        code: What it asks the command to end with.
    """

    members: results.Members
    code: Exit


def require_names(sources: Sequence[Source], name: str | None) -> None:
    """Raise MisuseError where an input has no name that its lines could be known by again."""
    if name is None and any(source.name == STDIN for source in sources):
        raise MisuseError("-: standard input needs --name, so that a repetition is known as one")


async def import_lines(
    ledger: UsageLedger, sources: Sequence[Source], product_code: str | None, name: str | None
) -> AsyncIterator[Imported]:
    """
    Add each line of *sources* to *ledger*, and yield what became of it, in order.

    Raises:
        UsageFileError: once all that was read before is stored and yielded.
        LedgerError: the ledger cannot store it; import again.
    """
    async for block in Intake(sources).blocks():
        for start in range(0, len(block), _AT_ONCE):
            lines = block[start : start + _AT_ONCE]
            adding = (_add(ledger, line, product_code, name) for line in lines)
            for line, imported in zip(lines, await asyncio.gather(*adding), strict=True):
                place = {"file": line.file, "line": line.number}
                yield Imported(place | imported.members, imported.code)


async def _add(
    ledger: UsageLedger, line: Line, product_code: str | None, name: str | None
) -> Imported:
    place = f"{line.file}:{line.number}"
    try:
        members = _members(line.record, product_code)
        added = await ledger.add_usage(**members, event_id=_event_id(line, members, name))
    except InvalidRecordError as error:
        return Imported(results.of_refusal(error, place), Exit.REJECTED)
    return Imported(_result(added), Exit.REJECTED if added.ended else Exit.METERED)


def _members(record: UsageRecord | InvalidRecordError, product_code: str | None) -> dict[str, Any]:
    if isinstance(record, InvalidRecordError):
        raise record
    if record.usage_allocations:
        expected = "none: a ledger adds up quantities, not their allocations"
        came = f"{len(record.usage_allocations)} allocations"
        raise InvalidRecordError([Violation("usage_allocations", expected, came)])
    return {
        "dimension": record.dimension,
        "quantity": record.quantity,
        "customer_aws_account_id": record.customer_aws_account_id,
        "customer_identifier": record.customer_identifier,
        "license_arn": record.license_arn,
        "product_code": record.product_code or product_code,
        "at": record.timestamp,
    }


def _event_id(line: Line, members: dict[str, Any], name: str | None) -> str:
    said = json.dumps([name or PurePath(line.file).name, line.number, members], default=str)
    return f"import-{blake2b(said.encode(), digest_size=16).hexdigest()}"


def _result(added: AddedUsage) -> results.Members:
    if added.repeated:
        return {"status": REPEATED}
    if added.ended is not None:
        return {"status": added.ended.value, "advice": "`ledger retry` moves it to this hour."}
    return {"status": RECORDED, "hour": added.hour, "late": added.late}
