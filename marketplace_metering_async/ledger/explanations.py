"""What each state of the ledger means, and what to do about it: for people who find one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from marketplace_metering_async.ledger.model import HourState


class Explanation(NamedTuple):
    """
    What to know of usage in a state.

    Attributes:
        meaning: What has happened.
        advice: What to do, with the commands for it.
    """

    meaning: str
    advice: str


_COMPARE: Final = (
    "Compare with CloudTrail (BatchMeterUsage, some 15 minutes late) or the daily usage report."
)

EXPLANATIONS: Final[Mapping[HourState, Explanation]] = MappingProxyType(
    {
        HourState.OPEN: Explanation(
            "The hour still takes usage.",
            "Nothing to do: a relay seals it once it is over and its grace, too (`ledger status` "
            "says when). An hour of nothing but zeros stays open for four hours.",
        ),
        HourState.FROZEN: Explanation(
            "The hour is closed permanently, and its record waits to be sent, or is being sent.",
            "Let a relay run. `ledger status` says until when records are claimed, and when others "
            "are sent again; `ledger retry --state frozen` sends those that wait now.",
        ),
        HourState.METERED: Explanation(
            "The service has taken the record; the customer is billed.", "Nothing to do."
        ),
        HourState.NOT_SUBSCRIBED: Explanation(
            "The service said CustomerNotSubscribed: the record was not taken.",
            "Stop serving the customer. If the customer subscribes within the record's window, "
            "`ledger retry --state not_subscribed` sends it again. Otherwise `ledger write-off`, "
            "or `ledger reopen` to bill the usage in an hour with a subscription.",
        ),
        HourState.CONFLICT: Explanation(
            "The service has another record of this customer, dimension and hour, which is not "
            "ours: no attempt of ours may have been acted upon before.",
            "Find what else meters the customer (another ledger, a script, a cron job) and stop "
            f"it. {_COMPARE} If that record has the same usage: `ledger resolve --as metered`. If "
            "ours is missing: `ledger reopen`. If nobody is to pay: `ledger write-off`.",
        ),
        HourState.PROBABLY_METERED: Explanation(
            "The service has a record of this hour. It is most likely ours, since an attempt had "
            "no answer before.",
            f"{_COMPARE} If the quantity is ours: `ledger resolve --as metered`. If it is "
            "another's: `ledger resolve --as not_metered`, then `ledger reopen`.",
        ),
        HourState.REJECTED: Explanation(
            "The service, or a rule of it, refused the record; `ledger history` has its words.",
            "Fix what they name, such as a dimension of the listing, and `ledger retry --state "
            "rejected` within the record's window. What is wrong in the usage itself: `ledger "
            "write-off`, and add it anew with the right names.",
        ),
        HourState.TOO_LATE: Explanation(
            "The service takes no records of this hour any more.",
            "See why it waited (was a relay running?). If no attempt was in doubt: `ledger reopen` "
            f"bills the usage in the hour that runs. Otherwise {_COMPARE[0].lower()}{_COMPARE[1:]} "
            "Then `ledger resolve`.",
        ),
        HourState.MONTH_OVER: Explanation(
            "Late usage that only an hour of another month could have carried; it was never sent.",
            "`ledger retry --state month_over` bills it in the hour that runs, and so in another "
            "month; `ledger write-off --state month_over` gives it up.",
        ),
        HourState.SUBSCRIPTION_OVER: Explanation(
            "Usage after a subscription had ended, or too late for its last hour; it was never "
            "sent.",
            "If the customer is back: `ledger close-customer --reopen`, then `ledger retry --state "
            "subscription_over`. Otherwise `ledger write-off --state subscription_over`.",
        ),
        HourState.OTHER_SCHEME: Explanation(
            "Usage by product code in an hour that the same customer has by license, or the other "
            "way round; it was never sent, for the service would bill both.",
            "Add usage of a customer by one scheme, the license where the listing has licenses, "
            "and fix what uses the other one. If it is the same usage twice: `ledger write-off "
            "--state other_scheme`. If it is not in the other scheme's record: `ledger retry "
            "--state other_scheme` bills it in the first hour that the other one does not have.",
        ),
        HourState.DAMAGED: Explanation(
            "The stored record does not match its digest: the disk, or somebody's hand, changed "
            "it. It is not sent.",
            f"Check the disk and restore a backup beside it to see what was stored. {_COMPARE} "
            "Then `ledger resolve --as metered`, or `ledger write-off` and add the usage anew.",
        ),
        HourState.QUARANTINED: Explanation(
            "Relay after relay died with this record in its hands, so it is left alone.",
            "See why the relays died (memory, a defect). Once that is fixed, `ledger retry --state "
            f"quarantined` sends it again within its window. {_COMPARE} Then `ledger resolve`.",
        ),
        HourState.UNCONFIRMED: Explanation(
            "It may have been metered or not, and nothing proves either: an attempt had no answer, "
            "and later ones were refused for a reason that need not have been there before; or the "
            "ledger that this one, which was adopted, is a copy of may have sent it.",
            f"{_COMPARE} What the service has: `ledger resolve --as metered`. What it has not: "
            "`ledger resolve --as not_metered`, then `ledger retry --state not_metered`, or "
            "`ledger reopen` where the record's window is closed.",
        ),
        HourState.NOT_METERED: Explanation(
            "A person has found that the service does not have the record.",
            "`ledger retry --state not_metered` sends the identical record within its window; "
            "`ledger reopen` bills the usage in the hour that runs.",
        ),
        HourState.WRITTEN_OFF: Explanation(
            "A person has decided that nobody is billed for it.",
            "Nothing to do. To take it back: `ledger retry --state written_off` within the "
            "record's window, or `ledger resolve`.",
        ),
        HourState.REOPENED: Explanation(
            "A person has moved the usage to another hour, which bills it; `ledger history` shows "
            "there where it came from.",
            "Nothing to do.",
        ),
    }
)
