"""A long list in pages, which are never moved once they are full."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, Generic, TypeVar, overload

PAGE: Final = 2**15
"""Entries of a page."""

_Entry = TypeVar("_Entry")


class Pages(Sequence[_Entry], Generic[_Entry]):
    """
    Entries in pages of PAGE, of which only the last may have fewer.

    One list of a million is moved again and again while it grows, which holds up the event loop
    for hundredths of a second each time.

    Attributes:
        pages: The pages, for those who go through many entries.
    """

    __slots__ = ("pages",)

    def __init__(self) -> None:
        self.pages: list[list[_Entry]] = [[]]

    def extend(self, entries: Sequence[_Entry]) -> None:
        """Append *entries*."""
        page = self.pages[-1]
        while len(entries) > (room := PAGE - len(page)):
            page += entries[:room]
            entries = entries[room:]
            page = []
            self.pages.append(page)
        page += entries

    @overload
    def __getitem__(self, index: int) -> _Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[_Entry]: ...
    def __getitem__(self, index: int | slice) -> _Entry | list[_Entry]:
        """Return the entry at *index*, or a list of those in a slice."""
        places = range(len(self))[index]
        if isinstance(places, int):
            return self.pages[places // PAGE][places % PAGE]
        return self.at(places)

    def at(self, indices: Sequence[int]) -> list[_Entry]:
        """Return the entries at *indices*, which count from the first."""
        pages = self.pages
        if len(pages) == 1:  # as there mostly is
            return list(map(pages[0].__getitem__, indices))
        return [pages[index // PAGE][index % PAGE] for index in indices]

    def put(self, index: int, entry: _Entry) -> None:
        """Replace the entry at *index*, which counts from the first."""
        self.pages[index // PAGE][index % PAGE] = entry

    def __len__(self) -> int:
        """Return the number of entries."""
        return (len(self.pages) - 1) * PAGE + len(self.pages[-1])

    def __iter__(self) -> Iterator[_Entry]:
        """Iterate over the entries."""
        return chain.from_iterable(self.pages)
