"""What a store and its verbs are asked with, and what they return."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from attrs import frozen

FailPoint = Callable[[str], None]
"""Called with the name of each point at which a process may die; a seam for fault injection."""


Warn = Callable[[str], None]
"""Called with what a person should know."""


def no_failure(point: str, /) -> None:
    """Pass every point by."""


class Sealed(NamedTuple):
    """
    How many hours were closed.

    Attributes:
        hours: All of them.
        held: Those that are not sent, since the ledger that this is a copy of may have sent them.
        copy: What to say of a copy that nobody has adopted, and that seals none; None: it is none.
    """

    hours: int = 0
    held: int = 0
    copy: str | None = None


@frozen(kw_only=True)
class ClaimRules:
    """
    What a relay may take.

    Attributes:
        begun: When its round has begun: what is put back later waits for the next one.
        limit: How many records at most.
        lease: For how many seconds.
        region_name: Of which region.
        host: Where they are sent to.
        without: Lanes that are left alone; see UsageKey.lane.
        among: Hours that were seen to be fit; None: any. In SQLite only.
    """

    begun: int
    limit: int
    lease: float
    region_name: str
    host: str
    without: Sequence[str] = ()
    among: Sequence[int] | None = None
