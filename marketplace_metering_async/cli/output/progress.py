"""How far it has come: a bar on a terminal, a line now and then anywhere else."""

import asyncio
from typing import Final, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from marketplace_metering_async.cli.output.console import Console, counted, lasting, printable
from marketplace_metering_async.clock import SystemClock

_CLOCK: Final = SystemClock()
_TICK: Final = 0.2
_PLAIN_EVERY: Final = 5.0


class ProgressBar:
    """
    Shows progress while it is entered. Only the event loop draws, so nothing draws over it.

    Attributes:
        done: How many records are through.
        trouble: What holds it up at the moment, if anything.
    """

    def __init__(
        self,
        console: Console,
        does: str,
        *,
        total: int | None = None,
        unit: str = "records",
        stays: bool = False,
    ) -> None:
        """
        Prepare to show what the command *does*.

        *total* is in whatever `advance` counts, such as bytes; None where nobody knows the end.
        The bar goes away in the end, unless it *stays*.
        """
        self.done = 0
        self.trouble = ""
        self._console = console
        self._does = does
        self._unit = unit
        self._total = total
        self._steps = 0
        self._since = _CLOCK.monotonic()
        self._last_word = self._since
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            TextColumn("[yellow]{task.fields[trouble]}"),
            console=console,
            disable=not console.has_screen,
            auto_refresh=False,
            transient=not stays,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(does, total=total, text="", trouble="")
        self._ticking: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return _CLOCK.monotonic() - self._since

    def advance(self, steps: int = 1) -> None:
        """One more record is through, and *steps* of the total."""
        self.done += 1
        self._steps += steps

    async def __aenter__(self) -> Self:
        """Begin to show."""
        self._bar.start()
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take the bar away."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        if self._console.has_screen:
            self.trouble = ""
            self._show()
        self._bar.stop()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._show()

    def _show(self) -> None:
        done = counted(self.done, self._unit.removesuffix("s"))
        text = f"{done}, {self.done / max(self.seconds, _TICK):,.0f}/s"
        if self._console.has_screen:
            completed = self._steps if self._total is None else min(self._steps, self._total)
            trouble = printable(self.trouble)
            self._bar.update(self._task, completed=completed, text=text, trouble=trouble)
            self._bar.refresh()
        elif _CLOCK.monotonic() - self._last_word >= _PLAIN_EVERY:
            self._last_word = _CLOCK.monotonic()
            self._console.print(
                f"{self._does}: {text}{self._left()}{self._held_up()}", markup=False
            )

    def _left(self) -> str:
        if not self._total or not self._steps:
            return ""
        seconds = self.seconds * max(0.0, self._total / self._steps - 1)
        return f", {lasting(seconds)} left"

    def _held_up(self) -> str:
        return f" ({self.trouble})" if self.trouble else ""
