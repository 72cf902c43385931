"""Which line of which file something is about, in few bytes a line."""

from array import array
from bisect import bisect_right
from typing import Final

_KEPT: Final = 2**16
"""Several times what a client has in flight at once."""
_NUMBER_BITS: Final = 40


class RecentLineNumbers:
    """The places of the newest records given to a client, by position; older ones are gone."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._ring = array("Q", bytes(8 * _KEPT))
        self._size = 0

    def add(self, file: str, number: int) -> int:
        """Note the place of the next record, and return the record's position."""
        if not self._files or self._files[-1] != file:
            self._files.append(file)
        self._ring[self._size % _KEPT] = (len(self._files) - 1 << _NUMBER_BITS) | number
        self._size += 1
        return self._size - 1

    def __call__(self, position: int) -> str:
        """Return `file:line`."""
        if not self._size - _KEPT <= position < self._size:
            return "an earlier line"
        packed = self._ring[position % _KEPT]
        return f"{self._files[packed >> _NUMBER_BITS]}:{packed & (1 << _NUMBER_BITS) - 1}"


class LineNumbers:
    """
    The places of all lines of the input, by running number.

    Takes memory only where a line does not simply follow the one before it: at the start of a
    file, or after a blank line.
    """

    def __init__(self) -> None:
        self._files: list[str] = []
        self._starts = array("Q")  # the first running number of each run of lines
        self._numbers = array("Q")  # its line in the file, with the file's index above
        self._size = 0
        self._next = -1  # what would continue the last run

    def add(self, file: str, number: int) -> int:
        """Note the place of the next line, and return its running number."""
        if not self._files or self._files[-1] != file:
            self._files.append(file)
        packed = (len(self._files) - 1 << _NUMBER_BITS) | number
        if packed != self._next:
            self._starts.append(self._size)
            self._numbers.append(packed)
        self._next = packed + 1
        self._size += 1
        return self._size - 1

    def at(self, index: int) -> tuple[str, int]:
        """Return the file and the line number of the line with running number *index*."""
        run = bisect_right(self._starts, index) - 1
        packed = self._numbers[run] + index - self._starts[run]
        return self._files[packed >> _NUMBER_BITS], packed & (1 << _NUMBER_BITS) - 1

    def __call__(self, index: int) -> str:
        """Return `file:line`."""
        file, number = self.at(index)
        return f"{file}:{number}"
