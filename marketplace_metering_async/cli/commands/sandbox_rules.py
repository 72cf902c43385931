"""`sandbox rules`: the switches of the sandbox, for people and as JSON lines."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from marketplace_metering_async.cli.output.console import Console, print_json_if_piped
from marketplace_metering_async.sandbox import Rules
from marketplace_metering_async.sandbox.as_json import as_json
from marketplace_metering_async.sandbox.service.readings import Reading, readings


def show(console: Console) -> None:
    """Print a row for each switch: what it decides, by which page, its default and how it reads."""
    table = Table(box=None, padding=(0, 2, 1, 0), pad_edge=False, header_style="bold")
    table.add_column("switch", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("other readings", no_wrap=True)
    table.add_column("decides, and what the pages say of it")
    for reading in readings(Rules()):
        print_json_if_piped(_members(reading))
        said = f"{reading.means}\n[dim]{escape(reading.source)}[/]"
        others = "\n".join(map(_word, reading.others))
        table.add_row(reading.switch, _word(reading.usual), others, said)
    console.print(table)


def _members(reading: Reading) -> dict[str, Any]:
    members: dict[str, Any] = as_json(reading)
    del members["value"]  # the default, where nothing runs
    return {**members, "others": as_json(reading.others)}


def _word(value: Any) -> str:  # noqa: ANN401 - a reading
    written = as_json(value)
    return f"{len(written)} named" if isinstance(written, list) else str(written)
