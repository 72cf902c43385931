"""MeterUsage and RegisterUsage: software in the buyer's account, under its credentials."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from attrs import Factory, define, frozen

from marketplace_metering_async.sandbox.agreements import AgreementState
from marketplace_metering_async.sandbox.allocations import allocations_of
from marketplace_metering_async.sandbox.callers import Caller
from marketplace_metering_async.sandbox.catalogue import Catalogue, Product
from marketplace_metering_async.sandbox.entitlement import check_dimension, product_named
from marketplace_metering_async.sandbox.members import (
    check_names,
    optional_text_of,
    quantity_of,
    required_product_code_of,
    text_of,
    timestamp_of,
)
from marketplace_metering_async.sandbox.metered import Key, Metered, MeteredRecords
from marketplace_metering_async.sandbox.refusals import Refusal, invalid, unreadable
from marketplace_metering_async.sandbox.rules import Rules
from marketplace_metering_async.sandbox.window import Window

_CONTAINERS: Final = (None, "ecs", "eks")


@define
class WorkloadMemory:
    """
    What the service remembers of workloads.

    Attributes:
        client_tokens: Access key, region and ClientToken to the request they came with, and the
            record id that it got.
        registered: Access keys and product codes of workloads that have registered.
    """

    client_tokens: dict[tuple[str, str, str], tuple[dict[str, Any], str]] = Factory(dict)
    registered: set[tuple[str, str]] = Factory(set)

    def clear(self) -> None:
        """Forget all."""
        self.client_tokens.clear()
        self.registered.clear()


@frozen
class Registration:
    """
    A registration that was taken.

    Attributes:
        claims: To be signed.
        rotated: When the public key version was replaced, if it was.
    """

    claims: dict[str, Any]
    rotated: datetime | None


@frozen(kw_only=True)
class Workload:
    """
    The operations of one workload at one moment.

    Attributes:
        records: What was metered so far.
        catalogue: Products and buyers.
        memory: What is known of workloads.
        rules: The switches.
        now: The sandbox's time.
        caller: Who asks, and where.
    """

    records: MeteredRecords
    catalogue: Catalogue
    memory: WorkloadMemory
    rules: Rules
    now: datetime
    caller: Caller

    def meter_usage(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """
        Answer MeterUsage: once for each hour, dimension and workload; a dry run meters nothing.

        Raises:
            Refusal: and nothing is applied.
        """
        check_names(request, "MeterUsage", self.rules)
        product_code = required_product_code_of(request)
        timestamp = timestamp_of(request)
        dimension = text_of(request, "UsageDimension", 255)
        quantity = quantity_of(request, "UsageQuantity", 0)
        allocations = allocations_of(
            request.get("UsageAllocations"), quantity, self.rules, "usageAllocations"
        )
        token = self._token_of(request)
        self._check_place("InvalidEndpointRegionException")
        product = self._product(product_code)
        if product is not None:
            check_dimension(product, dimension, "UsageDimension")
            self._check_entitled(product_code, product)
        objection = Window.of_workloads(self.rules, self.now).objection(timestamp.timestamp())
        if objection is not None:
            raise Refusal(
                "TimestampOutOfBoundsException",
                f"timestamp: {objection.rule}",
                remedy=objection.remedy,
            )
        if self._is_dry(request):
            if self.rules.dry_run == "success":
                return {}
            raise Refusal("DryRunOperation", "the request would have succeeded", 412)
        known = self._known_answer(token, request)
        if known is not None:
            return {"MeteringRecordId": known}
        metered = Metered(
            region=self.caller.region,
            product_code=product_code,
            license_arn=None,
            customer_aws_account_id=self.caller.account_id,
            customer_identifier=None,
            workload=self.caller.access_key_id,
            dimension=dimension,
            timestamp=timestamp,
            quantity=quantity,
            allocations=allocations,
            metering_record_id=self.records.next_id(),
            received=self.now,
        )
        record_id = self._take(metered, token)
        if token is not None:
            plain = _without_token(request)
            self.memory.client_tokens[self._token_key(token)] = (plain, record_id)
        return {"MeteringRecordId": record_id}

    def register_usage(self, request: Mapping[str, Any]) -> Registration:
        """
        Answer RegisterUsage, but for the signature.

        Raises:
            Refusal: when the workload may not run; a workload that has registered before may.
        """
        check_names(request, "RegisterUsage", self.rules)
        product_code = required_product_code_of(request)
        version = request.get("PublicKeyVersion")
        if version is None:
            raise invalid("publicKeyVersion", "Member must not be null")
        if type(version) is not int:
            raise unreadable("publicKeyVersion", "an integer")
        if version < 1:
            text = "Member must have value greater than or equal to 1"
            raise invalid("publicKeyVersion", text)
        nonce = optional_text_of(request, "Nonce", 255)
        self._check_place("InvalidRegionException")
        product = self._product(product_code)
        rotated = _rotation_of(product, version)
        registered = (self.caller.access_key_id, product_code)
        if registered not in self.memory.registered:
            if self.caller.platform not in _CONTAINERS:
                text = "the workload runs on no platform that containers are metered on"
                raise Refusal("PlatformNotSupportedException", text)
            if product is not None:
                self._check_entitled(product_code, product)
        self.memory.registered.add(registered)
        claims: dict[str, Any] = {"ProductCode": product_code, "PublicKeyVersion": version}
        if nonce is not None:
            claims["Nonce"] = nonce
        return Registration(claims, rotated)

    def _token_of(self, request: Mapping[str, Any]) -> str | None:
        if request.get("ClientToken") is not None:
            return text_of(request, "ClientToken", 64)
        if self.caller.platform == "agentcore":
            raise invalid("clientToken", "Member must not be null on AgentCore Runtime")
        return None

    def _is_dry(self, request: Mapping[str, Any]) -> bool:
        dry = request.get("DryRun")
        if dry is not None and not isinstance(dry, bool):
            raise unreadable("dryRun", "a boolean")
        return bool(dry)

    def _check_place(self, code: str) -> None:
        if self.caller.home_region not in (None, self.caller.region):
            raise Refusal(code, "the workload runs in another region than this endpoint's")

    def _product(self, product_code: str) -> Product | None:
        if not self.catalogue.products:
            return None
        return product_named(self.catalogue, product_code, None)

    def _check_entitled(self, product_code: str, product: Product) -> None:
        """Refuse a declared account that has no subscription; an undeclared one may be anybody."""
        account = self.caller.account_id
        if account is None or self.catalogue.is_open(product_code):
            return
        active = any(
            agreement.state(self.now, self.rules.closing) is AgreementState.ACTIVE
            for agreement in self.catalogue.agreements_of(product_code, account)
        )
        entitled = active or product.customers.get(account, False)
        if not entitled or account in self.catalogue.suspended:
            text = "the account has no active subscription to the product"
            raise Refusal("CustomerNotEntitledException", text)

    def _token_key(self, token: str) -> tuple[str, str, str]:
        return (self.caller.access_key_id, self.caller.region, token)

    def _known_answer(self, token: str | None, request: Mapping[str, Any]) -> str | None:
        if token is None or self._token_key(token) not in self.memory.client_tokens:
            return None
        earlier, record_id = self.memory.client_tokens[self._token_key(token)]
        if earlier != _without_token(request):
            raise Refusal(
                "IdempotencyConflictException",
                "clientToken: it came before, with other parameters",
                self.rules.idempotency_conflict_status,
            )
        return record_id

    def _take(self, metered: Metered, token: str | None) -> str:
        """Put usage on file; on AgentCore each token is usage of its own, elsewhere each hour."""
        by_token = self.caller.platform == "agentcore"
        unit = f"token {token}" if by_token else metered.hour.timestamp() // 3600
        key: Key = (
            metered.region,
            metered.product_code,
            None,
            None,
            f"workload {metered.workload}",
            metered.dimension,
            unit,
        )
        first = self.records.first(key)
        if first is None:
            self.records.add(key, metered)
            return metered.metering_record_id
        if (first.quantity, first.allocations) != (metered.quantity, metered.allocations):
            text = "the hour has another quantity on file for this workload and dimension"
            raise Refusal("DuplicateRequestException", text)
        return first.metering_record_id


def _without_token(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name != "ClientToken"}


def _rotation_of(product: Product | None, version: int) -> datetime | None:
    """Return when a key version was replaced; refuse one that has not come yet."""
    if product is None or version == product.public_key_version:
        return None
    if version > product.public_key_version or product.key_rotated is None:
        text = "publicKeyVersion: the product has no such version"
        raise Refusal("InvalidPublicKeyVersionException", text)
    return product.key_rotated
