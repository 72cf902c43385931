"""What `send` and its like were asked for."""

from collections.abc import Sequence

from attrs import frozen

from marketplace_metering_async.cli.approval import somebody_is_there
from marketplace_metering_async.cli.options import Settings, Target
from marketplace_metering_async.cli.reading import Source
from marketplace_metering_async.errors import ConfigurationError


@frozen(kw_only=True)
class Order:
    """
    Which usage goes where.

    Attributes:
        sources: Where to read.
        settings: Where to send.
        product_code: Of records that name none.
        include_current_hour: Whether hours that are not over are sent too, when adding up.
        yes: Whether to send without asking.
    """

    sources: Sequence[Source]
    settings: Settings
    product_code: str | None = None
    include_current_hour: bool = False
    yes: bool = False

    @property
    def size(self) -> int | None:
        """Bytes of input; None where a stream has no end yet."""
        sizes = [source.size for source in self.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    async def target_to_approve(self) -> Target | None:
        """
        Return where it goes, if a person is to be asked first: it is live, and somebody is there.

        Raises:
            ConfigurationError: no region, no credentials, or an endpoint that cannot be used.
        """
        if self.yes or not somebody_is_there():
            return None
        target = await self.settings.target()
        return target if target.is_live else None

    async def target_or_why_not(self) -> str:
        """Return where it would go, or why it would go nowhere: a plan needs no account."""
        try:
            return str(await self.settings.target())
        except ConfigurationError as error:
            return f"nowhere yet: {error}"
