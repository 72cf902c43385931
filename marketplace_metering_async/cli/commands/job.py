"""What `send` and its like were asked for, and the question before something live."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from attrs import frozen

from marketplace_metering_async.cli.exit_codes import MisuseError
from marketplace_metering_async.cli.input.lines import Source
from marketplace_metering_async.cli.options import Settings, Target
from marketplace_metering_async.cli.output.console import Console
from marketplace_metering_async.errors import ConfigurationError


@frozen(kw_only=True)
class SendJob:
    """
    Which usage goes where.

    Attributes:
        sources: Where to read.
        settings: Where to send.
        product_code: Of records that name none.
        include_current_hour: Whether hours that are not over are sent too, when adding up.
        yes: Whether to send without asking.
    """

    sources: Sequence[Source]
    settings: Settings
    product_code: str | None = None
    include_current_hour: bool = False
    yes: bool = False

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


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end at once what waits for a person, and with it the event loop."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
