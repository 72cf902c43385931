"""What goes to the terminal: result lines on stdout, everything for people on stderr."""

import json
import os
import sys
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.results import RecordResult, RecordStatus

STYLES = {
    RecordStatus.SUCCESS: "green",
    RecordStatus.CUSTOMER_NOT_SUBSCRIBED: "yellow",
    RecordStatus.DUPLICATE_RECORD: "yellow",
    RecordStatus.REJECTED: "red",
    RecordStatus.UNPROCESSED: "magenta",
    RecordStatus.UNCONFIRMED: "magenta",
}


def people() -> Console:
    """Return the console on stderr; rich honours NO_COLOR and plain pipes by itself."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def complain(problem: object) -> None:
    """Tell people of a problem; the text may hold anything, so it is not read as markup."""
    people().print(str(problem), style="red", markup=False)


class ResultLines:
    """
    Writes one JSON line a result to stdout.

    Once the reader has gone (`| head`), lines are dropped silently; nothing else changes.
    """

    def __init__(self) -> None:
        self._closed = False

    def write(self, members: dict[str, Any]) -> None:
        """Write one line, in ASCII, so that any locale and terminal can show it."""
        if self._closed:
            return
        try:
            sys.stdout.write(json.dumps(members) + "\n")
        except BrokenPipeError:
            self._give_up()

    def flush(self) -> None:
        """Write out what is buffered."""
        if not self._closed:
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                self._give_up()

    def _give_up(self) -> None:
        """Let the interpreter's own flush at exit go nowhere instead of failing."""
        self._closed = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def of_result(result: RecordResult) -> dict[str, Any]:
    """Return the members of a result line."""
    members: dict[str, Any] = {"status": result.status.value, "metered": result.metered}
    if result.metering_record_id is not None:
        members["metering_record_id"] = result.metering_record_id
    if result.service_status not in (None, result.status.value):
        members["service_status"] = result.service_status
    if result.status is not RecordStatus.SUCCESS:
        members |= error_members(result.error)
        members["advice"] = result.advice
    members["attempts"] = result.attempts
    if result.request_id is not None:
        members["request_id"] = result.request_id
    return members


def error_members(error: MeteringError | None) -> dict[str, Any]:
    """Return what a result line says of an error."""
    if error is None:
        return {}
    code = getattr(error, "code", type(error).__name__)
    message = getattr(error, "message", "")
    return {"error": code, "message": message or str(error)}


def summary(counts: Counter[str], *, seconds: float, title: str = "verdict") -> Table:
    """Return a table of verdicts."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    table.add_column("records", justify="right")
    for status in [*RecordStatus, "Held"]:
        if counts[status]:
            style = STYLES.get(RecordStatus(status), "") if status != "Held" else "cyan"
            table.add_row(f"[{style}]{status}[/]", f"{counts[status]:,}")
    total = sum(counts.values())
    table.add_row("[bold]all[/]", f"[bold]{total:,}[/]")
    table.caption = f"in {seconds:.1f} s"
    table.caption_justify = "left"
    return table
