"""What `send` and its like were asked for, and the question before something live."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Annotated, Any, Final

import typer
from attrs import asdict, frozen

from marketplace_metering_async.cli.exit_codes import MisuseError
from marketplace_metering_async.cli.input.lines import Line, Source, sources_of
from marketplace_metering_async.cli.input.reader import InputReader
from marketplace_metering_async.cli.interrupts import interruptible
from marketplace_metering_async.cli.options import ProductCode, Settings, Target, option
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.cli.output.progress import ProgressBar
from marketplace_metering_async.errors import ConfigurationError

CURRENT_HOUR: Final = "--include-current-hour"
_IN_MEMORY: Final = 2**20


@frozen(kw_only=True)
class UsageOptions:
    """
    Which usage it is about.

    Attributes:
        files: Where to read, by name.
        product_code: Of records that name none.
        coalesce: Whether lines are added up to hours.
        include_current_hour: Whether hours that are not over are sent too, when adding up.
    """

    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help=(
                "JSON lines, CSV, or JSON as `aws meteringmarketplace batch-meter-usage` takes it; "
                "also compressed with gzip. - is standard input."
            ),
        ),
    ]
    product_code: ProductCode = None
    coalesce: Annotated[bool, option("--coalesce", "Add usage up to one record an hour first.")] = (
        False
    )
    include_current_hour: Annotated[
        bool,
        option(CURRENT_HOUR, "With --coalesce: send the hour that is not over, too. It locks it."),
    ] = False

    def job(self, settings: Settings, *, for_ledger: bool, yes: bool = False) -> "SendJob":
        """
        Return what is to be done, once every file is known to be there and to begin well.

        Raises:
            UsageFileError: for the first file that is not.
            typer.BadParameter: for options that do not go together.
        """
        if self.include_current_hour and not self.coalesce:
            raise typer.BadParameter("only --coalesce holds hours back", param_hint=CURRENT_HOUR)
        sources = sources_of(self.files, for_ledger=for_ledger)
        usage = asdict(self, recurse=False)
        return SendJob(**usage, sources=sources, settings=settings, yes=yes)


@frozen(kw_only=True)
class SendJob(UsageOptions):
    """
    Which usage goes where.

    Attributes:
        sources: Where to read.
        settings: Where to send.
        yes: Whether to send without asking.
    """

    sources: Sequence[Source]
    settings: Settings
    yes: bool

    @property
    def size(self) -> int | None:
        """Bytes of input; None where a stream has no end yet."""
        sizes = [source.size for source in self.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    async def target_to_approve(self) -> Target | None:
        """
        Return where it goes, if a person is to be asked first: it is live, and somebody is there.

        Raises:
            ConfigurationError: no region, no credentials, or an endpoint that cannot be used.
        """
        if self.yes or not somebody_is_there():
            return None
        target = await self.settings.target()
        return target if target.is_live else None

    async def target_or_why_not(self) -> str:
        """Return where it would go, or why it would go nowhere: a plan needs no account."""
        try:
            return str(await self.settings.target())
        except ConfigurationError as error:
            return f"nowhere yet: {error}"

    async def read(
        self,
        console: Console,
        does: str,
        take: Callable[[Line], None],
        stop: asyncio.Event | None = None,
    ) -> None:
        """
        Hand all lines to *take*, or those that are read until *stop* is set; *does* is for the bar.

        Raises:
            UsageFileError: once all lines before it were taken.
        """
        reader = InputReader(self.sources, console.complain)
        with reader.ending_with(stop or asyncio.Event()):
            async with ProgressBar(console, does, total=self.size, unit="lines") as bar:
                async for block in reader.blocks():
                    for line in block:
                        take(line)
                        bar.advance(line.size)


class TemporaryLines(SpooledTemporaryFile[bytes]):
    """
    What is kept of lines until all are read; a little is kept in memory.

    Writing, and going back to the start, raise MisuseError with the folder that is full.
    """

    def __init__(self) -> None:
        super().__init__(_IN_MEMORY)

    def __exit__(self, *_: object) -> None:
        """Drop it all, also what could not be written."""
        with suppress(OSError):
            self.close()

    def write(self, s: Any) -> int:  # noqa: ANN401 - bytes, as the base class has them
        """Keep a line."""
        try:
            return super().write(s)
        except OSError as error:
            raise _full_folder(error) from error

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go back, once all that waits in a buffer is written."""
        try:
            return super().seek(offset, whence)
        except OSError as error:
            raise _full_folder(error) from error


def _full_folder(error: OSError) -> MisuseError:
    return MisuseError(
        f"{gettempdir()}: {error.strerror}: lines are kept there until all are read; TMPDIR names "
        "another folder"
    )


def somebody_is_there() -> bool:
    """Whether a person started this, and not a machine."""
    return any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def approved(console: Console) -> bool:
    """
    Ask on the terminal itself, since stdin may be the usage, and return the answer.

    Raises:
        MisuseError: if there is no terminal to ask on.
        KeyboardInterrupt: at once, whatever listens to Ctrl-C meanwhile.
    """
    console.print("[bold]What is metered is billed; it can be neither changed nor taken back.")
    try:
        handle = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        raise MisuseError("no terminal to ask on: --yes sends without asking") from None
    with os.fdopen(handle, encoding="utf-8", errors="replace") as terminal, interruptible():
        os.write(handle, b"Send? [y/N] ")
        answer = terminal.readline().strip().lower()
    if answer not in ("y", "yes"):
        console.print("Nothing was sent.")
        return False
    return True
