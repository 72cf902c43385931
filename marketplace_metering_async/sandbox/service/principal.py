"""Who calls the service: access keys that are declared, and the caller behind a request."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import NoneType
from typing import Any, Final

from attrs import Attribute, define, field, frozen, setters

from marketplace_metering_async.sandbox.expected import of, one_of, require, texts
from marketplace_metering_async.sandbox.service.refusals import Refusal

_TEXT: Final[Any] = of(str, NoneType)
_PLATFORMS: Final = ("ec2", "ecs", "eks", "agentcore", None)


def _moment(_: object, attribute: "Attribute[Any]", value: datetime | None) -> None:
    require(attribute.name, value, datetime, NoneType)
    if value is not None and value.tzinfo is None:
        raise ValueError(f"{attribute.name}: expected a datetime with a time zone, got a naive one")


def _names(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else texts("may", names)


@frozen
class AccessKey:
    """
    A declared access key; requests under it must be signed right.

    Attributes:
        secret: The secret access key.
        session_token: The token that belongs to it, for temporary credentials.
        expires: Real time from which on the token is refused.
        account_id: The account it belongs to: keys of one account share its quota; as a seller it
            may only meter and resolve for its own products; as a buyer's workload it must be
            subscribed.
        region: The region its workload runs in; MeterUsage and RegisterUsage must be called there.
        platform: What its workload runs on: "ec2", "ecs", "eks" or "agentcore".
        may: The operations it may call; None: all.
    """

    secret: str = field(repr=False, validator=of(str))
    session_token: str | None = field(default=None, repr=False, validator=_TEXT)
    expires: datetime | None = field(default=None, validator=_moment)
    account_id: str | None = field(default=None, validator=_TEXT)
    region: str | None = field(default=None, validator=_TEXT)
    platform: str | None = field(default=None, validator=[_TEXT, one_of(*_PLATFORMS)])
    may: frozenset[str] | None = field(default=None, converter=_names)


@define(kw_only=True, on_setattr=setters.frozen)
class Principal:
    """
    Who made a request.

    Attributes:
        region: Of the endpoint, from the credential scope of the signature.
        access_key_id: Of the signature; for MeterUsage and RegisterUsage it is the workload.
        account_id: The account it belongs to, if declared.
        home_region: The region the workload runs in, if declared.
        may: The operations it may call; None: all.
        platform: What the workload runs on, if declared: "ec2", "ecs", "eks" or "agentcore".
    """

    region: str = "us-east-1"
    access_key_id: str = "sandbox"
    account_id: str | None = None
    home_region: str | None = None
    platform: str | None = None
    may: frozenset[str] | None = None

    @property
    def account(self) -> str:
        """What counts as one account: the declared one, or the access key."""
        return self.account_id or self.access_key_id

    def check_permission(self, operation: str, request: Mapping[str, Any]) -> None:
        """
        Refuse what the caller may not do.

        A dry run is refused by a name of its own (API reference of MeterUsage, Nov 2026).
        """
        if self.may is None or operation in self.may:
            return
        text = f"The caller is not authorized to perform: aws-marketplace:{operation}"
        dry = operation == "MeterUsage" and request.get("DryRun") is True
        raise Refusal("UnauthorizedException" if dry else "AccessDeniedException", text)
