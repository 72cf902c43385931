"""One request while it is dealt with, and what is remembered of it."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from attrs import Factory, define

from marketplace_metering_async.sandbox.history import Call
from marketplace_metering_async.sandbox.service.principal import Principal
from marketplace_metering_async.sandbox.service.refusals import Refusal

_LARGEST_KEPT: Final = 2**16


@define(kw_only=True)
class RequestContext:
    """What is known of a request so far; `call` makes it part of the history."""

    operation: str
    received: datetime
    began: float
    request_id: str = Factory(lambda: str(uuid.uuid4()))
    size: int = 0
    principal: Principal | None = None
    members: Mapping[str, Any] | None = None
    fault: str | None = None
    reply: Mapping[str, Any] | None = None
    refusal: Refusal | None = None
    status: int | None = None

    def call(self, number: int, seconds: float) -> Call:
        """Return the call that it was."""
        reply = self.reply or {}
        refusal = self.refusal
        return Call(
            number=number,
            received=self.received,
            operation=self.operation,
            request_id=self.request_id,
            region=self.principal.region if self.principal else None,
            access_key_id=self.principal.access_key_id if self.principal else None,
            request=self.members if self.size <= _LARGEST_KEPT else None,
            size=self.size,
            status=self.status,
            code=refusal.code if refusal else None,
            rule=refusal.message if refusal else None,
            remedy=refusal.remedy if refusal else None,
            results=tuple(reply.get("Results") or ()),
            unprocessed=len(reply.get("UnprocessedRecords") or ()),
            fault=self.fault,
            seconds=seconds,
        )
