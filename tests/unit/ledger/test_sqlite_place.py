"""Whether files that are open were deleted or replaced: their folder knows, as a rule."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from marketplace_metering_async import LedgerUnusableError
from marketplace_metering_async.ledger.stores import sqlite_place
from marketplace_metering_async.ledger.stores.sqlite_place import OpenFiles

EXACT, WHOLE = 1_700_000_000_123_456_789, 1_700_000_000_000_000_000
"""Times of a folder, in nanoseconds: of a file system that knows them, and of one that does not."""


class Opened:
    """A file that is open, in a folder that was changed at a time, and a clock."""

    def __init__(self, folder: Path, changed: int) -> None:
        self.path, self.now, self._changed = folder / "usage.db", 0.0, changed
        self.path.touch()
        self.date()
        self.files = OpenFiles([self.path], lambda: self.now)
        self.files.require_same()

    def date(self) -> None:
        """Let the folder have been changed when it is always said to have been."""
        os.utime(self.path.parent, ns=(self._changed, self._changed))


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other.db")
    other.touch()
    other.rename(path)


@pytest.mark.parametrize("act", [deleted, replaced])
@pytest.mark.parametrize("seconds", [0.0, 0.05, 5.0])
def test_a_file_that_was_deleted_or_replaced_is_seen(
    tmp_path: Path, act: Callable[[Path], None], seconds: float
) -> None:
    """
    Soon after it was opened, and later.
    """
    opened = Opened(tmp_path, EXACT)
    opened.now = seconds
    opened.files.require_same()
    act(opened.path)

    for later in (0.0, 0.05, 5.0):  # and once it was seen, each time that it is asked again
        opened.now = seconds + later
        with pytest.raises(LedgerUnusableError, match=f"{opened.path} was {act.__name__} while"):
            opened.files.require_same()


@pytest.mark.parametrize(("changed", "seconds"), [(EXACT, 0.09), (WHOLE, 0.0), (WHOLE, 5.0)])
def test_a_change_that_has_the_time_of_another_is_seen(
    tmp_path: Path, changed: int, seconds: float
) -> None:
    """
    The folder looks as before where both fell into one tick of its clock, or one second.
    """
    opened = Opened(tmp_path, changed)
    opened.now = seconds
    deleted(opened.path)
    opened.date()

    with pytest.raises(LedgerUnusableError, match="deleted"):
        opened.files.require_same()


def test_a_folder_that_stays_as_it_is_is_all_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Files that are being written answer slowly; what else happens in the folder has them asked.
    """
    opened, asked = Opened(tmp_path, EXACT), list[Path]()
    number_of = sqlite_place._number_of

    def asking(file: Path) -> tuple[int, int] | None:
        asked.append(file)
        return number_of(file)

    monkeypatch.setattr(sqlite_place, "_number_of", asking)
    opened.now = 5.0
    opened.files.require_same()
    opened.files.require_same()
    assert [] == asked

    (tmp_path / "another").touch()
    opened.files.require_same()
    assert [opened.path] == asked
