"""`python tests/support/reference.py FOLDER`: the API reference, made of docstrings by pdoc."""

import sys
from contextlib import chdir
from importlib import import_module
from pathlib import Path

HALLS = (
    "marketplace_metering_async",
    "marketplace_metering_async.ledger",
    "marketplace_metering_async.sandbox",
    "marketplace_metering_async.testing",
)
"""The modules that a program imports from."""


def make(folder: Path) -> None:
    """Write a page for each hall into *folder*."""
    import pdoc  # noqa: PLC0415 - of the group `package`

    for name in HALLS:
        hall = import_module(name)
        for exported in hall.__all__:  # pdoc does not ask a lazy module
            vars(hall).setdefault(exported, getattr(hall, exported))
    folder.mkdir(parents=True, exist_ok=True)
    with chdir(folder):  # pdoc asks which is meant where a folder has the package's name
        pdoc.pdoc(*HALLS, output_directory=Path())


if __name__ == "__main__":
    make(Path(sys.argv[1]))
