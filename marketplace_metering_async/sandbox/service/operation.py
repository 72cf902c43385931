"""What each operation on records goes by: what is known, who asks, and when."""

from datetime import datetime

from attrs import define

from marketplace_metering_async.sandbox.service.catalogue import Catalogue
from marketplace_metering_async.sandbox.service.metered import MeteredRecords
from marketplace_metering_async.sandbox.service.principal import Principal
from marketplace_metering_async.sandbox.service.rules import Rules


@define(kw_only=True)
class Operation:
    """
    An operation at one moment.

    Attributes:
        records: What was metered so far.
        catalogue: Products and buyers.
        rules: The switches.
        now: The sandbox's time.
        principal: Who asks, and where.
    """

    records: MeteredRecords
    catalogue: Catalogue
    rules: Rules
    now: datetime
    principal: Principal
