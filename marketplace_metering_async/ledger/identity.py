"""Which ledger a database holds: the region it serves, and whether it is a copy of another one."""

from typing import Final

from attrs import frozen

from marketplace_metering_async.errors import LedgerRegionMismatchError, LedgerUnusableError
from marketplace_metering_async.ledger.watermark import UNKNOWN, Place, Watermark

COPY: Final = (
    "this ledger is a copy, such as a restored backup: its open hours wait until somebody "
    "adopts it (ledger.adopt_copy(), or `ledger adopt-copy URL`)"
)


HIDDEN: Final = "-"
"""The part of a mark that the database does not show."""


@frozen(kw_only=True)
class Identity:
    """
    The ledger's one row.

    Attributes:
        ledger_id: Its own name; None before anybody has opened it.
        mark: What tells the place of its database from that of a copy.
        guarded_since: When it was found to be a copy that nobody has adopted; None otherwise.
        moved_to: Where it has moved; None if it has not.
        last_success_at: When the service last took a record.
        last_relay_at: When a relay last said that it works.
        claims: How many transactions have claimed records.
        claimed_through: The latest hour of what they have claimed.
        watermark: Where it was last written down outside; None: nowhere.
        held_through: Usage up to then may have been metered by the ledger that this is a copy of.
        adopted_at: When somebody said to go on with this copy.
        event_ids_since: Ids of events that were added before are forgotten.
    """

    ledger_id: str | None
    region_name: str | None
    host: str | None
    mark: str | None
    guarded_since: int | None
    moved_to: str | None
    last_success_at: int | None
    last_relay_at: int | None
    claims: int
    event_ids_since: int
    claimed_through: int
    watermark: str | None
    held_through: int | None
    adopted_at: int | None

    def claimed(self) -> Watermark:
        """Return how much it has claimed to send."""
        return Watermark(claims=self.claims, through=self.claimed_through)

    def require_host(self, region_name: str, host: str) -> None:
        """
        Refuse another region or host than the ledger's.

        Raises:
            LedgerRegionMismatchError: the ledger's records go elsewhere.
        """
        if (self.region_name, self.host) != (region_name, host):
            raise LedgerRegionMismatchError(
                f"the ledger's records go to {self.host} in {self.region_name}; "
                f"the client's endpoint is {host} in {region_name}"
            )

    def require_movable(self, to: str) -> None:
        """
        Refuse to move to the ledger *to*.

        Raises:
            LedgerUnusableError: this is that one, has moved to another one, or is none yet.
        """
        if self.ledger_id is None:
            raise LedgerUnusableError("there is no ledger at the URL of the old one")
        if self.ledger_id == to:
            raise LedgerUnusableError("name another ledger: one cannot take over itself")
        if self.moved_to not in (None, moved_name(to)):
            raise LedgerUnusableError(f"the old ledger has moved to {self.moved_to} already")


def moved_name(ledger_id: str) -> str:
    """Return what a ledger that moved to another one says of where it is."""
    return f"ledger {ledger_id}"


def require_here(moved_to: str | None) -> None:
    """
    Refuse to change a ledger that has moved.

    Raises:
        LedgerUnusableError: it can only be read.
    """
    if moved_to is not None:
        raise LedgerUnusableError(f"this ledger has moved to {moved_to}; use that one")


def require_known(min_compatible: int | None, known: int) -> None:
    """
    Refuse a schema that a process is too old for, which *known* is the newest one to.

    Raises:
        LedgerUnusableError: the process may not use the ledger, or not any more; or its own row,
            which says so, is missing: None.
    """
    if min_compatible is None:
        raise LedgerUnusableError(
            "restore a backup, or wait until one is restored: the ledger's own row is missing"
        )
    if min_compatible > known:
        raise LedgerUnusableError(
            f"start a newer version of the package: the ledger was upgraded, and needs one that "
            f"knows schema {min_compatible}; this one knows {known}"
        )


def introduction(ledger: Identity, region_name: str | None, sign: str | None) -> str | None:
    """
    Return what a person should know about a ledger that is opened; None: nothing.

    *sign* is what shows that it is a copy. One that has moved can only be read.

    Raises:
        LedgerRegionMismatchError: its records go to another region than *region_name*.
    """
    if ledger.moved_to is not None:
        return f"this ledger has moved to {ledger.moved_to}; it can only be read"
    if region_name is not None and ledger.region_name not in (None, region_name):
        raise LedgerRegionMismatchError(
            f"the ledger's records go to {ledger.region_name}, not to {region_name}"
        )
    return copy_text(ledger, sign)


def copy_text(ledger: Identity, sign: str | None) -> str | None:
    """Return what to say of a copy that nobody has adopted, with the *sign* that it is one."""
    if sign is not None:
        return f"{COPY}; {sign}"
    return None if ledger.guarded_since is None else COPY


def sign_of_a_copy(ledger: Identity, place: Place) -> str | None:
    """Return what shows that the *ledger* at a *place* is a copy; None: nothing does."""
    if ledger.moved_to is not None:
        return None
    outside = place.watermark
    if outside is not None and outside.claims > ledger.claims:
        or_else = "" if ledger.guarded_since is None else ", or was sent by this copy since"
        return (
            f"it has claimed records {ledger.claims} times, and {place.path} says "
            f"{outside.claims}: what came between is missing{or_else}"
        )
    if _differs(ledger.mark, place.mark):
        return "its database is not where it was made"
    was_here = place.path is not None and place.path == ledger.watermark
    if outside is None and was_here and not place.mark_is_proof:
        return f"its watermark is missing at {place.path}"
    return None


def _differs(mark: str | None, found: str) -> bool:
    """Whether two marks differ, but for what one of them does not show."""
    parts, others = (mark or "").split(), found.split()
    return len(parts) != len(others) or any(
        one != other and HIDDEN not in (one, other)
        for one, other in zip(parts, others, strict=True)
    )


def held_through(ledger: Identity, place: Place) -> int:
    """
    Return up to when a copy's usage may have been metered by what it lacks.

    A watermark that travels with its database, as a file's may, says nothing where it is no higher.
    """
    outside = place.watermark
    if outside is None or outside.claims < ledger.claims:
        return UNKNOWN
    known = outside.claims > ledger.claims or not place.mark_is_proof
    return outside.through if known else UNKNOWN


def claimed_by_a_copy(ledger: Identity, place: Place, through: int) -> Watermark | None:
    """
    Return what stands outside once a copy that nobody has adopted has claimed *through* an hour.

    It is above all that was counted, so that whoever adopts it, or goes back once more, learns of
    it. None where it would seem to be known what the lost ledger has sent, and is not.
    """
    outside = place.watermark
    if outside is None or held_through(ledger, place) == UNKNOWN:
        return None
    return Watermark(claims=outside.claims + 1, through=max(outside.through, through))


def require_watermark(ledger: Identity, path: str | None) -> None:
    """
    Refuse to send without writing down outside what the ledger claims, if that once was done.

    Raises:
        LedgerUnusableError: *path* is nowhere.
    """
    if path is None and ledger.watermark is not None:
        raise LedgerUnusableError(
            f"add watermark=FOLDER to the ledger's URL: its watermark was written at "
            f"{ledger.watermark}, and nothing is sent where it cannot be"
        )


def lost_watermark(ledger: Identity, place: Place) -> str | None:
    """Return what a person should know when a watermark is made where there is none."""
    if ledger.watermark is None or place.watermark is not None:
        return None
    return f"the ledger's watermark was at {ledger.watermark}; it is made anew at {place.path}"
