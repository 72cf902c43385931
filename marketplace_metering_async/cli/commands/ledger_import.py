"""
Lines of files into a ledger, each once.

A line that has no event id gets one, of the name of the input and the number of the line. So the
same file may be imported again, compressed or not, a file that grew is imported from where it grew,
and another file of the name is known by what its lines say.
"""

import json
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import PurePath
from typing import IO, Any, Final

from attrs import evolve, frozen

from marketplace_metering_async.cli.exit_codes import REFUSED_USAGE, Exit, MisuseError
from marketplace_metering_async.cli.input.bad_lines import BadLines, record_of
from marketplace_metering_async.cli.input.formats import UsageFileError
from marketplace_metering_async.cli.input.line_numbers import LineNumbers
from marketplace_metering_async.cli.input.lines import STDIN, Line, Source
from marketplace_metering_async.cli.output.result_fields import Fate, of_blocked, of_refusal
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import InvalidRecordError, MeteringError, Violation
from marketplace_metering_async.ledger import AddedUsage, UsageLedger
from marketplace_metering_async.ledger.explanations import EXPLANATIONS
from marketplace_metering_async.ledger.usage import UsageReader
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions, refusal
from marketplace_metering_async.records import Key, UsageRecord, utc_of

FIX_AND_IMPORT: Final = (
    "Fix what the text names and import the file again: lines that were imported add nothing."
)
_PREFIX: Final = "import-"
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
        fate: What became of it, if that is known already.
    """

    file: str
    number: int
    usage: Mapping[str, Any] | None = None
    key: Key | None = None
    fate: Fate | None = None


@frozen
class Naming:
    """
    What lines without an event id are known by.

    Attributes:
        name: Of the input; None: its file's.
        changed: Whether lines of a known name that say something else are added.
    """

    name: str | None = None
    changed: bool = False

    def of(self, file: str) -> str:
        """Return the name of the lines of *file*, which is the same one once it is compressed."""
        return self.name or PurePath(file).name.removesuffix(".gz")


def require_names(sources: Sequence[Source], naming: Naming) -> None:
    """Raise MisuseError where two lines would be known by one name and number, or one by none."""
    if naming.name is None and any(source.name == STDIN for source in sources):
        raise MisuseError("-: standard input needs --name, so that a repetition is known as one")
    names = Counter(naming.of(source.name) for source in sources)
    if twice := [name for name, files in names.items() if files > 1]:
        raise MisuseError(
            f"import each file by a command of its own, with a --name of its own: lines are known "
            f"by name and number, and two files would be {twice[0]}"
        )


class ImportedLines:
    """Makes entries of lines, by all rules of a ledger: what has usage will be added."""

    def __init__(
        self, product_code: str | None, naming: Naming, advice: str, whole: WholeDimensions
    ) -> None:
        """
        Note what is the same for all lines.

        *advice* is for lines that break a rule; *whole* are the ledger's whole dimensions.
        """
        self._product_code = product_code
        self._naming = naming
        self._advice = advice
        self._whole = whole
        self._reader = UsageReader()

    def of(self, line: Line) -> ImportedLine:
        """Return the entry of a line."""
        try:
            record = self._record(line)
            members = _usage_of(record, self._product_code)
            event_id = line.event_id
            if event_id is None:
                event_id = _event_id(self._naming.of(line.file), line.number)
            usage = self._reader.usage(SystemClock().now(), **members, event_id=event_id)
            if (refused := refusal(usage, self._whole)) is not None:
                raise refused
        except InvalidRecordError as error:
            fate = of_refusal(error, line.place, advice=self._advice)
            return ImportedLine(line.file, line.number, fate=fate)
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


def _event_id(*parts: object) -> str:
    said = "\n".join(map(str, parts)).encode(errors="surrogatepass")  # as names of files may be
    return f"{_PREFIX}{blake2b(said, digest_size=16).hexdigest()}"


async def import_lines(
    ledger: UsageLedger, blocks: AsyncIterable[Sequence[ImportedLine]], *, changed: bool
) -> AsyncIterator[tuple[str, int, Fate]]:
    """
    Add what there is to add to *ledger*; yield file, number and fate of every line, in order.

    Raises:
        UsageFileError: once all that was read before is stored and yielded; also where a file is
            another one than that which was imported under its name, unless *changed* ones are to
            be added.
        LedgerError: the ledger cannot store it; import again.
    """
    reader = UsageReader()

    def digest(usage: Mapping[str, Any]) -> bytes:
        return reader.usage(SystemClock().now(), **usage).digest

    async for block in blocks:
        for start in range(0, len(block), _AT_ONCE):
            some = block[start : start + _AT_ONCE]
            some = await _looked_up(ledger, some, digest, changed=changed)
            for result in await _added(ledger, some):
                yield result


async def _looked_up(
    ledger: UsageLedger,
    entries: Sequence[ImportedLine],
    digest: Callable[[Mapping[str, Any]], bytes],
    *,
    changed: bool,
) -> list[ImportedLine]:
    """Return *entries* as they are to be added; see import_lines."""
    names = [entry.usage["event_id"] for entry in entries if entry.usage is not None]
    known = await ledger.known_events(name for name in names if name.startswith(_PREFIX))
    found = []
    for entry in entries:
        usage = entry.usage
        said = None if usage is None else known.get(usage["event_id"])
        if usage is None or said is None or said == (now := digest(usage)):
            found.append(entry)
        elif changed:
            name = _event_id(usage["event_id"], now.hex())
            found.append(evolve(entry, usage={**usage, "event_id": name}))
        else:
            raise UsageFileError(
                f"{entry.file}:{entry.number}: another line was imported under this name and "
                "number: nothing was added from here on. Import another file with a --name of its "
                "own; --changed adds what differs beside what was added before"
            )
    return found


async def _added(
    ledger: UsageLedger, entries: Sequence[ImportedLine]
) -> list[tuple[str, int, Fate]]:
    usages: list[Any] = [entry.usage for entry in entries if entry.usage is not None]
    outcomes = iter(await ledger.add_many(usages))
    return [
        (one.file, one.number, one.fate or _fate(next(outcomes), f"{one.file}:{one.number}"))
        for one in entries
    ]


def _fate(added: AddedUsage | MeteringError, place: str) -> Fate:
    if isinstance(added, REFUSED_USAGE):
        return of_refusal(added, place)
    if isinstance(added, MeteringError):
        raise added
    code = Exit.REJECTED if added.ended else Exit.OK
    if added.repeated:
        return Fate({"status": "Repeated"}, code)
    if added.ended is not None:
        advice = EXPLANATIONS[added.ended].advice
        return Fate({"status": added.ended.value, "advice": advice}, code)
    return Fate({"status": "Recorded", "hour": added.hour, "late": added.late}, code)


class KeptLines:
    """
    Keeps entries in a temporary file until it is known which hours a bad line may belong to.

    Of those nothing is added: whatever relays from the ledger would seal them.

    Attributes:
        held: The hours of which nothing is added; complete once all blocks were taken.
        anywhere: The first line that may belong to any hour, as `file:line`; None if there is none.
    """

    def __init__(self, product_code: str | None, file: IO[bytes]) -> None:
        """*product_code* is that of lines which name none, *file* a temporary one."""
        self.held: set[Key] = set()
        self.anywhere: str | None = None
        self._bad = BadLines(product_code)
        self._places = LineNumbers()
        self._file = file

    def add(self, line: Line, entry: ImportedLine) -> None:
        """Keep the entry of a line."""
        number = self._places.add(line.file, line.number)
        said: Any = None if entry.fate is None else entry.fate.members
        if entry.usage is None:
            self._bad.add(number, line)
            if self._bad.is_anywhere(number):
                self.anywhere = self._places(number)
        else:
            said = {**entry.usage, "at": int(entry.usage["at"].timestamp())}
        row = json.dumps([entry.file, entry.number, entry.key, said], default=str)
        self._file.write(f"{row}\n".encode("ascii"))

    async def blocks(self) -> AsyncIterator[list[ImportedLine]]:
        """Yield all entries in order; those of hours that are held add nothing."""
        self._file.seek(0)
        block: list[ImportedLine] = []
        for row in self._file:
            block.append(self._entry(*json.loads(row)))
            if len(block) == _AT_ONCE:
                yield block
                block = []
        yield block

    def _entry(
        self, file: str, number: int, key: list[Any] | None, said: dict[str, Any]
    ) -> ImportedLine:
        if key is None:
            return ImportedLine(file, number, fate=Fate(said, Exit.REJECTED))
        hour = tuple(key)
        bad = self._bad.of(hour)
        if bad is not None:
            self.held.add(hour)
            return ImportedLine(file, number, fate=of_blocked(self._places(bad)))
        usage = {**said, "at": utc_of(said["at"])}
        return ImportedLine(file, number, usage, hour)
