"""
How much a ledger has claimed to send, as it stands outside of its database.

A copy is known by what it lacks: a restored one has claimed records less often than is written
outside, or than a process remembers. What was not claimed was not sent, and nothing is lost by it.
"""

import re
from datetime import datetime
from typing import Final

from attrs import evolve, frozen

LEAP: Final = 1_000_000_000
"""
What adopting a copy adds to its counter: more than all claims since any backup, so that it is above
all that is remembered of what the copy lacks.
"""
_NAME: Final = re.compile(r"(\d+)-(\d+)", re.ASCII)
_NOTES: Final = 100
"""Of usage that may be stored, as many are remembered; more of them without an answer, and none."""
UNKNOWN: Final = 2**53
"""Up to when usage is held while nobody knows what the lost ledger has sent."""


@frozen(kw_only=True, order=True)
class Watermark:
    """
    How much a ledger has claimed to send.

    Attributes:
        claims: How many transactions have claimed records.
        through: The latest hour of them, in seconds since 1970.
    """

    claims: int
    through: int

    def as_name(self) -> str:
        """Return the name that it stands by."""
        return f"{self.claims}-{self.through}"


def watermark_named(name: str) -> Watermark | None:
    """Return the watermark that stands by a *name*; None: it is none."""
    found = _NAME.fullmatch(name)
    return None if found is None else Watermark(claims=int(found[1]), through=int(found[2]))


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
        claims: How many transactions had claimed records.
        notes: Those of its latest usage, of which one is there: that which is known to be stored,
            and those after it of which nobody knows. Empty where there is none to look for.
        stored_at: When the first of them was stored.
    """

    claims: int = 0
    notes: tuple[str, ...] = ()
    stored_at: datetime | None = None

    def without_notes(self) -> "Memory":
        """Return what remains where no note is looked for."""
        return Memory(claims=self.claims)

    def or_with(self, note: str) -> "Memory":
        """Return what is remembered where *note* may have taken the place of the others."""
        if not self.notes or len(self.notes) == _NOTES:
            return self.without_notes()
        return evolve(self, notes=(*self.notes, note))

    def missing(self, claims: int, *, note_found: bool = True) -> "Missing | None":
        """Return what is missing in a ledger with so many *claims*; None: nothing."""
        was_adopted = claims >= self.claims + LEAP // 2  # from what a copy had, which was less
        if self.notes and not note_found:
            text = (
                f"usage that this process stored at {self.stored_at:%Y-%m-%d %H:%M:%S} UTC is "
                "missing in the ledger, and so may be what others stored about then: give it again "
                "with its event ids"
            )
            return Missing(text, is_copy=not was_adopted)
        if claims < self.claims:
            text = f"the ledger has claimed records {claims} times, and had {self.claims} times"
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


def adopted(claims: int, held_through: int, outside: Watermark | None, now: int) -> Watermark:
    """
    Return where a copy goes on from: usage up to there may have been metered by what it lacks.

    Args:
        claims: Its own.
        held_through: What was known when it was found; UNKNOWN if nothing.
        outside: What stands outside of it.
        now: Seconds since 1970.
    """
    if outside is not None and outside.claims > claims:
        return Watermark(claims=outside.claims + LEAP, through=outside.through)
    through = now if held_through == UNKNOWN else held_through
    return Watermark(claims=claims + LEAP, through=through)
