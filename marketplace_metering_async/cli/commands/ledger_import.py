"""
Lines of files into a ledger, each once.

A line's event id is made of the name of the input, the number of the line and what it says, so that
the same file may be imported again, and a file that grew is imported from where it grew.
"""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, Final

from attrs import frozen

from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.input.bad_lines import record_of
from marketplace_metering_async.cli.input.lines import STDIN, Line, Source
from marketplace_metering_async.cli.output import result_fields
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import InvalidRecordError, Violation
from marketplace_metering_async.ledger import AddedUsage, UsageLedger
from marketplace_metering_async.ledger.explanations import EXPLANATIONS
from marketplace_metering_async.ledger.usage import UsageReader
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions, refusal
from marketplace_metering_async.records import Key, UsageRecord

RECORDED: Final = "Recorded"
REPEATED: Final = "Repeated"
FIX_AND_IMPORT: Final = (
    "Fix what the text names and import the file again: lines that were imported add nothing."
)
_AT_ONCE: Final = 1_000
"""Lines that share a commit."""


@frozen
class ImportedLine:
    """
    A line on its way into a ledger.

    Attributes:
        file: Where it stands.
        number: Of the line in the file.
        usage: What to add, its event id included; None where nothing is to be added.
        key: Of the hour that usage belongs to.
        result: The members of its result line, if they are known already.
        code: What the result asks the command to end with.
    """

    file: str
    number: int
    usage: Mapping[str, Any] | None = None
    key: Key | None = None
    result: result_fields.ResultFields | None = None
    code: Exit = Exit.OK


def require_names(sources: Sequence[Source], name: str | None) -> None:
    """Raise MisuseError where an input has no name that its lines could be known by again."""
    if name is None and any(source.name == STDIN for source in sources):
        raise MisuseError("-: standard input needs --name, so that a repetition is known as one")


class ImportedLines:
    """Makes entries of lines, by all rules of a ledger: what has usage will be added."""

    def __init__(
        self, product_code: str | None, name: str | None, advice: str, whole: WholeDimensions
    ) -> None:
        """
        Note what is the same for all lines.

        *name* is the input's, by default its file's; *advice* is for lines that break a rule;
        *whole* are the ledger's whole dimensions.
        """
        self._product_code = product_code
        self._name = name
        self._advice = advice
        self._whole = whole
        self._reader = UsageReader()

    def of(self, line: Line) -> ImportedLine:
        """Return the entry of a line."""
        try:
            record = self._record(line)
            members = _usage_of(record, self._product_code)
            event_id = _event_id(line, members, self._name)
            usage = self._reader.usage(SystemClock().now(), **members, event_id=event_id)
            if (refused := refusal(usage, self._whole)) is not None:
                raise refused
        except InvalidRecordError as error:
            place = f"{line.file}:{line.number}"
            result = result_fields.of_refusal(error, place, advice=self._advice)
            return ImportedLine(line.file, line.number, result=result, code=Exit.REJECTED)
        members["event_id"] = event_id
        return ImportedLine(line.file, line.number, members, record.key(self._product_code))

    def _record(self, line: Line) -> UsageRecord:
        record = record_of(line, self._product_code)
        if isinstance(record, InvalidRecordError):
            raise record
        if record.usage_allocations:
            expected = "none: a ledger adds up quantities, not their allocations"
            came = f"{len(record.usage_allocations)} allocations"
            raise InvalidRecordError([Violation("usage_allocations", expected, came)])
        return record


def _usage_of(record: UsageRecord, product_code: str | None) -> dict[str, Any]:
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


async def import_lines(
    ledger: UsageLedger, blocks: AsyncIterable[Sequence[ImportedLine]]
) -> AsyncIterator[ImportedLine]:
    """
    Add what there is to add to *ledger*, and yield each entry with its result, in order.

    Raises:
        UsageFileError: once all that was read before is stored and yielded.
        LedgerError: the ledger cannot store it; import again.
    """
    async for block in blocks:
        for start in range(0, len(block), _AT_ONCE):
            for entry in await asyncio.gather(
                *(_add(ledger, entry) for entry in block[start : start + _AT_ONCE])
            ):
                yield entry


async def _add(ledger: UsageLedger, entry: ImportedLine) -> ImportedLine:
    if entry.usage is None:
        return entry
    added = await ledger.add_usage(**entry.usage)
    code = Exit.REJECTED if added.ended else Exit.OK
    return ImportedLine(entry.file, entry.number, result=_result(added), code=code)


def _result(added: AddedUsage) -> result_fields.ResultFields:
    if added.repeated:
        return {"status": REPEATED}
    if added.ended is not None:
        advice = EXPLANATIONS[added.ended].advice
        return {"status": added.ended.value, "advice": advice}
    return {"status": RECORDED, "hour": added.hour, "late": added.late}
