"""
The programs in the guides: `python tests/support/guides.py FOLDER` writes each into a file.

Each begins with its name, so that it is found again, and is whole.
"""

import re
import sys
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
GUIDES: Final = (
    ROOT / "README.md",
    *sorted((ROOT / "marketplace_metering_async").glob("*/*.md")),
    *sorted((ROOT / ".github").glob("*.md")),
    ROOT / "tests" / "README.md",
)


class Program(NamedTuple):
    """A program, its name, and the guide that it is from."""

    guide: Path
    name: str
    text: str


def programs() -> list[Program]:
    """Return all of them, in order."""
    return [
        Program(guide, name, block)
        for guide in GUIDES
        for block in re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.DOTALL)
        for name in [block.partition("\n")[0].removeprefix("# ")]
    ]


def named(name: str) -> str:
    """Return the text of the program *name*."""
    (found,) = (program.text for program in programs() if program.name == name)
    return found


if __name__ == "__main__":
    for program in programs():
        Path(sys.argv[1], program.name).write_text(program.text, encoding="utf-8")
