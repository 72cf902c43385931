"""What a round of relaying came to."""

from collections import Counter

from attrs import define, field

from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.events import Observer, UsageEndedUnmetered, WarningIssued, emit
from marketplace_metering_async.ledger.model import ENDED, HourState, Settlement
from marketplace_metering_async.quantities import Quantity, millionths, of_millionths


@define
class RelayReport:
    """
    What one round of relaying came to.

    Attributes:
        sealed: Hours that were closed and frozen.
        metered: Records that the service has taken.
        ended: Records that ended in another way, by state.
        returned: Records that stay frozen, to be sent again later.
        units: Units metered: an int where whole, else a Decimal.
        stopped_by: What lies with the account and ended the round; None otherwise.
        copy: What to say of a copy that nobody has adopted, and that seals nothing; None otherwise.
    """

    sealed: int = 0
    metered: int = 0
    ended: Counter[HourState] = field(factory=Counter)
    returned: int = 0
    units: Quantity = 0
    stopped_by: MeteringError | None = None
    copy: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.sealed or self.metered or self.ended or self.returned)


class RelayNews:
    """
    What a round learns, for its report and for a person.

    Attributes:
        report: What it came to, as far as it is known.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.report = RelayReport()
        self._lifted: Counter[HourState] = Counter()

    def hear(self, one: Settlement) -> None:
        """Count a verdict that was written down."""
        if one.before is not HourState.FROZEN:
            self._lifted[one.before] += 1
        if one.before is HourState.REOPENED:
            return
        if one.state is HourState.METERED:
            self.report.metered += 1
            units = millionths(self.report.units) + one.claim.quantity
            self.report.units = of_millionths(units)
        elif one.state in ENDED:
            self.report.ended[one.state] += 1
        else:
            self.report.returned += 1

    def hear_sealed(self, hours: int, held: int, copy: str | None) -> None:
        """Count hours that were closed, of which some were *held*; a *copy* closes none."""
        self.report.sealed += hours
        if held:
            self.report.ended[HourState.UNCONFIRMED] += held
        self.report.copy = copy

    def tell(self, observer: Observer) -> None:
        """Report what a person should know of."""
        if self.report.copy is not None:
            emit(observer, WarningIssued(text=self.report.copy))
        for state, count in self.report.ended.items():
            emit(observer, UsageEndedUnmetered(state=state.value, records=count))
        for state, count in self._lifted.items():
            emit(observer, WarningIssued(text=_lifted_text(state, count)))


def _lifted_text(state: HourState, count: int) -> str:
    if state is HourState.REOPENED:
        return (
            f"ask AWS Support for a refund: {count} records are metered, by a success that came "
            "late, whose usage was moved to another hour, which bills the customers again"
        )
    return f"bill none of it again: {count} records that had ended as {state} are metered after all"
