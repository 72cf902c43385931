"""Which ledger a database holds: the region it serves, and whether it is a copy of another one."""

from typing import Final

from attrs import frozen

from marketplace_metering_async.errors import LedgerRegionMismatchError, LedgerUnusableError

_COPY: Final = (
    "this ledger is a copy, such as a restored backup: its open hours wait until somebody "
    "adopts it (ledger.adopt_copy(), or `ledger adopt-copy URL`)"
)


@frozen(kw_only=True)
class Identity:
    """
    The ledger's one row.

    Attributes:
        ledger_id: Its own name; None before anybody has opened it.
        mark: What tells the place of its database from that of a copy.
        guarded_since: When it was found to be a copy that nobody has released; None otherwise.
        moved_to: Where it has moved; None if it has not.
        sealings: How many transactions have sealed hours.
        event_ids_since: Ids of events that were added before are forgotten.
    """

    ledger_id: str | None
    region_name: str | None
    host: str | None
    mark: str | None
    guarded_since: int | None
    moved_to: str | None
    last_success_at: int | None
    sealings: int
    event_ids_since: int

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


def require_known(min_compatible: int, known: int) -> None:
    """
    Refuse a schema that a process is too old for, which *known* is the newest one to.

    Raises:
        LedgerUnusableError: the process may not use the ledger, or not any more.
    """
    if min_compatible > known:
        raise LedgerUnusableError(
            f"start a newer version of the package: the ledger was upgraded, and needs one that "
            f"knows schema {min_compatible}; this one knows {known}"
        )


def introduction(ledger: Identity, region_name: str | None, mark: str) -> tuple[bool, str | None]:
    """
    Compare a ledger that is opened with its database's *mark*.

    A ledger that finds a foreign mark is a copy, such as a restored backup, and is guarded from
    then on. One that has moved can only be read.

    Returns: whether it is found to be a copy now, and what a person should know about it.

    Raises:
        LedgerRegionMismatchError: its records go to another region than *region_name*.
    """
    if ledger.moved_to is not None:
        return False, f"this ledger has moved to {ledger.moved_to}; it can only be read"
    if region_name is not None and ledger.region_name not in (None, region_name):
        raise LedgerRegionMismatchError(
            f"the ledger's records go to {ledger.region_name}, not to {region_name}"
        )
    if ledger.mark != mark:
        return True, _COPY
    return False, None if ledger.guarded_since is None else _COPY
