"""What goes out: JSON for programs on stdout, everything for people, or for a log, on stderr."""

import io
import json
import os
import select
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import IO, Any, Final

import rich.console
from attrs import frozen

from marketplace_metering_async.cli.exit_codes import MisuseError
from marketplace_metering_async.cli.input.formats import worded
from marketplace_metering_async.cli.output.advice import advice_on
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import (
    InvalidRecordError,
    MarketplaceMeteringException,
    MeteringError,
)


class LogFormat(StrEnum):
    """What stderr is read by."""

    TEXT = "text"
    """People, on a terminal or in a file."""
    JSON = "json"
    """A collector of logs: one JSON object a line."""


@frozen
class Log:
    """
    How much a command says on stderr, and in what form.

    Attributes:
        verbose: Whether it tells of every call, retry and search.
        format: For whom.
    """

    verbose: bool = False
    format: LogFormat = LogFormat.TEXT


PLAIN: Final = Log()


class _Stderr:
    """Stderr as it is now; what a full disk or a terminal that is gone cannot take is dropped."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever stderr has there
        return getattr(sys.stderr, name)

    def write(self, text: str) -> None:
        """Write it, if that is possible."""
        self._try(lambda: sys.stderr.write(text))

    def flush(self) -> None:
        """Let it be read, if that is possible."""
        self._try(sys.stderr.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except BrokenPipeError:
            raise  # the console then says no more
        except OSError:
            pass


class _Stdout:
    """Stdout as it is now, written as `write_out()` does."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever stdout has there
        return getattr(sys.stdout, name)

    def write(self, text: str) -> None:
        """Write it."""
        write_out(text, styled=True)


class Console(rich.console.Console):
    """
    The console on stderr, or with `stderr=False` on stdout. That the reader of stderr goes away, or
    that it cannot be written, must not end what is being metered.

    Attributes:
        log_as: How much it says, and in what form.
    """

    def __init__(self, log: Log = PLAIN, **how: Any) -> None:  # noqa: ANN401 - as rich has it
        # rich honours NO_COLOR by itself, and would read `:100:` as a picture.
        on_screen = sys.stderr is not None and sys.stderr.isatty()
        usual: dict[str, Any] = {
            "stderr": True,
            "soft_wrap": not on_screen,
        }  # a screen breaks words
        if how.get("stderr", True):
            usual["file"] = None if sys.stderr is None else _Stderr()
        else:
            usual["file"] = None if sys.stdout is None else _Stdout()
        super().__init__(**(usual | how), highlight=False, emoji=False)
        self.log_as = log

    def print(self, *what: Any, **how: Any) -> None:  # noqa: ANN401 - as rich has it
        """
        Print for people, where no text controls the terminal, or as a line of the log.

        Who makes a table sees to its cells.
        """
        if self.log_as.format is LogFormat.TEXT:
            shown = (printable(one) if isinstance(one, str) else one for one in what)
            super().print(*shown, **how)
            return
        text = io.StringIO()
        plain = rich.console.Console(file=text, width=200, color_system=None, emoji=False)
        plain.print(*what, **{**how, "style": None}, highlight=False, soft_wrap=True)
        self.note("info", text.getvalue())

    def note(self, level: str, message: str, **members: object) -> None:
        """Write a line of the log."""
        if message := message.strip():
            time = SystemClock().now().isoformat()
            line = {"time": time, "level": level, "message": message, **members}
            super().print(json_line(line), end="", markup=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Say no more."""
        self.quiet = True
        _drop_the_rest(self.file)

    def complain(self, problem: object) -> None:
        """Tell of a problem; its text may come from anywhere, so it is only text."""
        if self.log_as.format is LogFormat.JSON:
            self.note("warning", str(problem))
        else:
            self.print(str(problem), style="red", markup=False)

    def tell(self, name: str, text: str, members: Mapping[str, object]) -> None:
        """Tell of a step on the way, where that is asked for."""
        if not self.log_as.verbose:
            return
        if self.log_as.format is LogFormat.JSON:
            self.note("debug", text, event=name, **members)
        else:
            self.print(text, style="dim", markup=False)

    @property
    def has_screen(self) -> bool:
        """Whether a person sees it on a screen: what forces colours does not make one."""
        for_people = self.log_as.format is LogFormat.TEXT and not self.is_dumb_terminal
        return for_people and sys.stderr is not None and sys.stderr.isatty()

    @property
    def shares_screen(self) -> bool:
        """Whether stdout and stderr are both a terminal, and so most likely the same."""
        return self.has_screen and sys.stdout is not None and sys.stdout.isatty()


def counted(number: int, what: str) -> str:
    """`1 call`, `2,000 calls`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def are(number: int, what: str = "") -> str:
    """`1 hour is`, `2,000 hours are`; without *what*, `1 is`."""
    said = counted(number, what) if what else f"{number:,}"
    return f"{said} is" if number == 1 else f"{said} are"


def lasting(seconds: float) -> str:
    """`45 s`, `12 min`, `1 h 7 min`."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def at_minute(when: datetime, now: datetime) -> str:
    """Return the first full minute from *when* on, with its day where that is another than now."""
    last = when + timedelta(minutes=1) - timedelta(microseconds=1)
    whole = last.replace(second=0, microsecond=0)
    return f"{whole:%H:%M} UTC" if whole.date() == now.date() else f"{whole:%Y-%m-%d %H:%M} UTC"


def printable(text: str) -> str:
    """Show control characters instead of letting them control the terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1]
        for character in text
    )


def json_line(members: Mapping[str, Any]) -> str:
    """Return a line of JSON, in ASCII, so that any locale and terminal can show it."""
    return json.dumps(members, default=_plain) + "\n"


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_json_if_piped(members: dict[str, Any]) -> None:
    """Write a line of JSON to stdout, where nobody is shown the same on a terminal."""
    if sys.stdout is not None and not sys.stdout.isatty():
        print_json(members)


def print_json(members: dict[str, Any], *, done: str = "") -> bool:
    """Write a line of JSON to stdout, as `write_out()` does."""
    return write_out(json_line(members), done=done)


def write_out(text: str, *, done: str = "", styled: bool = False) -> bool:
    """
    Write *text* to stdout, and return whether anybody is there to read it.

    What stdout has no characters for is escaped, and so is on a terminal what would control it,
    unless it is *styled*.

    Raises:
        MisuseError: it cannot be written, as on a full disk; the text says what is *done* already.
    """
    if sys.stdout is None:  # closed by whoever started us
        return False
    encoding = sys.stdout.encoding or "utf-8"
    try:
        if not styled and sys.stdout.isatty():
            text = printable(text)
        stdout()(text.encode(encoding, "backslashreplace"))
    except BrokenPipeError:
        _drop_the_rest(sys.stdout)
        return False
    except OSError as error:
        _drop_the_rest(sys.stdout)
        said = f"{done}, but " if done else ""
        raise MisuseError(f"{said}{unwritten(error)}") from error
    return True


def unwritten(error: OSError) -> str:
    """Return what to tell people of results that stdout does not take."""
    return f"results cannot be written to stdout: {error.strerror or error}"


def stdout() -> Callable[[bytes], None]:
    """
    Return what writes all of some bytes to stdout, past the buffer of `sys.stdout`.

    A thread that waits in that keeps the process from ending; and where Python runs unbuffered, it
    says nothing of bytes that a full disk, or a pipe that does not block, did not take.
    """
    stream = sys.stdout
    if stream is None:
        return nowhere
    try:
        handle = stream.fileno()
    except OSError:  # no file, but a buffer of a caller in this process
        return lambda data: (stream.write(data.decode(stream.encoding or "utf-8")), None)[1]
    stream.flush()

    def put(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(handle, rest) :]
            except BlockingIOError:  # others have it so that share a pipe or terminal with us
                select.select([], [handle], [])

    return put


def nowhere(_: bytes) -> None:
    """Drop it."""


def end_output() -> None:
    """Drop what stdout and stderr still have and cannot write: Python would end with 120 for it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                _drop_the_rest(stream)


def _drop_the_rest(stream: IO[str]) -> None:
    """Lead *stream* to nowhere, also what waits in its buffer for the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def error_text(error: MeteringError) -> str:
    """Return what an error says, the service's own words included, and what to do about it."""
    if isinstance(error, InvalidRecordError):
        return worded(error)
    said = f": {error.message}" if isinstance(error, MarketplaceMeteringException) else ""
    return f"{error}{said}. {advice_on(error)}"
