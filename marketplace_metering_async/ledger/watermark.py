"""
How far a ledger has sealed, as it stands outside of its database.

A copy is known by what it lacks: a restored one has sealed less often than is written outside, or
than a process remembers.
"""

import json
from datetime import datetime
from typing import Final

from attrs import asdict, evolve, frozen

LEAP: Final = 1_000_000
"""
What adopting a copy adds to its counter: more than anybody has sealed since a backup, so that it is
above all that is remembered of what the copy lacks.
"""
_NOTES: Final = 100
"""Of usage that may be stored, as many are remembered; more of them without an answer, and none."""
UNKNOWN: Final = 2**53
"""Up to when usage is held while nobody knows how far the lost ledger has sealed."""


@frozen(kw_only=True)
class Watermark:
    """
    How far a ledger has sealed.

    Attributes:
        sealings: How many transactions have sealed hours.
        through: The latest hour that was sealed, in seconds since 1970.
    """

    sealings: int
    through: int

    def as_text(self) -> str:
        """Return what stands in the file."""
        return json.dumps(asdict(self)) + "\n"


def watermark_in(text: str) -> Watermark:
    """
    Return the watermark that a file has.

    Raises:
        ValueError: there is none in it.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not all(type(value) is int for value in found.values()):
        raise ValueError("expected two whole numbers")
    try:
        return Watermark(**found)
    except TypeError as error:
        raise ValueError(str(error)) from None


@frozen(kw_only=True)
class Place:
    """
    Where a ledger is found, and what stands there outside of its database.

    Attributes:
        mark: What tells the place of the database from another one.
        mark_is_proof: Whether a database that is put back into its place seldom has its mark.
        path: Where its watermark is; None where it has none.
        watermark: What stands there; None: nothing.
    """

    mark: str
    mark_is_proof: bool
    path: str | None
    watermark: Watermark | None


@frozen(kw_only=True)
class Memory:
    """
    What a process remembers of a ledger, and looks for in its next transaction.

    Attributes:
        sealings: How many transactions had sealed hours.
        notes: Those of its latest usage, of which one is there: that which is known to be stored,
            and those after it of which nobody knows. Empty where there is none to look for.
        stored_at: When the first of them was stored.
    """

    sealings: int = 0
    notes: tuple[str, ...] = ()
    stored_at: datetime | None = None

    def without_notes(self) -> "Memory":
        """Return what remains where no note is looked for."""
        return Memory(sealings=self.sealings)

    def or_with(self, note: str) -> "Memory":
        """Return what is remembered where *note* may have taken the place of the others."""
        if not self.notes or len(self.notes) == _NOTES:
            return self.without_notes()
        return evolve(self, notes=(*self.notes, note))

    def missing(self, sealings: int, *, note_found: bool = True) -> "Missing | None":
        """Return what is missing in a ledger with so many *sealings*; None: nothing."""
        was_adopted = sealings >= self.sealings + LEAP
        if self.notes and not note_found:
            text = (
                f"usage that this process stored at {self.stored_at:%Y-%m-%d %H:%M:%S} UTC is "
                "missing in the ledger, and so may be what others stored about then: give it again "
                "with its event ids"
            )
            return Missing(text, is_copy=not was_adopted)
        if sealings < self.sealings:
            text = f"the ledger has sealed {sealings} times, and had sealed {self.sealings} times"
            return Missing(text, is_copy=True)
        return None


@frozen
class Missing:
    """
    What a ledger lacks.

    Attributes:
        text: Says what.
        is_copy: Whether it makes a copy of it, and nobody has adopted that yet.
    """

    text: str
    is_copy: bool


def adopted(sealings: int, held_through: int, outside: Watermark | None, now: int) -> Watermark:
    """
    Return where a copy goes on from: usage up to there may have been metered by what it lacks.

    Args:
        sealings: Its own.
        held_through: What was known when it was found; UNKNOWN if nothing.
        outside: What stands outside of it.
        now: Seconds since 1970.
    """
    is_behind = outside is not None and outside.sealings > sealings
    if outside is not None and is_behind:
        return Watermark(sealings=outside.sealings + LEAP, through=outside.through)
    through = now if held_through == UNKNOWN else held_through
    return Watermark(sealings=sealings + LEAP, through=through)
