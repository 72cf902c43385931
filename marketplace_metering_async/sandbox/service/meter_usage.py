"""MeterUsage: once for each hour, dimension and workload; a dry run meters nothing."""

from collections.abc import Mapping
from typing import Any

from marketplace_metering_async.sandbox.service.allocations import allocations_of
from marketplace_metering_async.sandbox.service.entitlement import check_dimension
from marketplace_metering_async.sandbox.service.metered import Key, Metered
from marketplace_metering_async.sandbox.service.parsing import (
    check_fraction,
    check_names,
    quantity_of,
    required_product_code_of,
    text_of,
    timestamp_of,
)
from marketplace_metering_async.sandbox.service.quantities import by_value
from marketplace_metering_async.sandbox.service.refusals import Refusal, invalid, unreadable
from marketplace_metering_async.sandbox.service.window import Window
from marketplace_metering_async.sandbox.service.workload import Workload


class MeterUsage(Workload):
    """The operation of one workload at one moment."""

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """
        Apply a request and return the reply.

        Raises:
            Refusal: and nothing is applied.
        """
        check_names(request, "MeterUsage", self.rules)
        product_code = required_product_code_of(request)
        timestamp = timestamp_of(request)
        dimension = text_of(request, "UsageDimension", 255)
        given = quantity_of(request, "UsageQuantity")
        quantity = given or 0
        check_fraction(quantity, self.rules, "usageQuantityAsDecimal")
        allocations = allocations_of(
            request.get("UsageAllocations"),
            quantity,
            self.rules,
            "usageAllocations",
            decimal=None if given is None else request.get("UsageQuantityAsDecimal") is not None,
        )
        token = self._token_of(request)
        self._check_region()
        product = self.product(product_code)
        if product is not None:
            check_dimension(product, dimension, "UsageDimension")
            self.check_entitled(product_code, product)
        Window.of_workloads(self.rules, self.now).check(timestamp.timestamp(), "timestamp")
        if self._is_dry(request):
            if self.rules.dry_run == "success":
                return {}
            raise Refusal("DryRunOperation", "the request would have succeeded")
        known = self._known_answer(token, request)
        if known is not None:
            return {"MeteringRecordId": known}
        metered = Metered(
            region=self.principal.region,
            product_code=product_code,
            license_arn=None,
            customer_aws_account_id=self.principal.account_id,
            customer_identifier=None,
            workload=self.principal.access_key_id,
            dimension=dimension,
            timestamp=timestamp,
            quantity=quantity,
            allocations=allocations,
            metering_record_id=self.records.next_id(),
            received=self.now,
        )
        record_id = self._take(metered, token)
        if token is not None:
            plain = _parameters(request)
            self.memory.client_tokens[self._token_key(token)] = (plain, record_id)
        return {"MeteringRecordId": record_id}

    def _check_region(self) -> None:
        """Refuse where nothing is metered: the service's model has one error for all of it."""
        code, platform = "InvalidEndpointRegionException", self.principal.platform
        self.check_offered(code, in_government=platform in (None, "ec2"))
        eks = self.rules.eks_regions
        if platform == "eks" and eks and self.principal.region not in eks:
            remedy = f"MeterUsage takes usage of Amazon EKS in {', '.join(sorted(eks))}."
            raise Refusal(code, "pods are not metered in this region", remedy=remedy)
        self.check_place(code)

    def _token_of(self, request: Mapping[str, Any]) -> str | None:
        if request.get("ClientToken") is not None:
            return text_of(request, "ClientToken", 64)
        if self.principal.platform == "agentcore":
            raise invalid("clientToken", "Member must not be null on AgentCore Runtime")
        return None

    def _is_dry(self, request: Mapping[str, Any]) -> bool:
        dry = request.get("DryRun")
        if dry is not None and not isinstance(dry, bool):
            raise unreadable("dryRun", "a boolean")
        return bool(dry)

    def _token_key(self, token: str) -> tuple[str, str, str]:
        return (self.principal.access_key_id, self.principal.region, token)

    def _known_answer(self, token: str | None, request: Mapping[str, Any]) -> str | None:
        if token is None or self._token_key(token) not in self.memory.client_tokens:
            return None
        earlier, record_id = self.memory.client_tokens[self._token_key(token)]
        if earlier != _parameters(request):
            raise Refusal(
                "IdempotencyConflictException",
                "clientToken: it came before, with other parameters",
                self.rules.idempotency_conflict_status,
            )
        return record_id

    def _take(self, metered: Metered, token: str | None) -> str:
        """Put usage on file; on AgentCore each token is usage of its own, elsewhere each hour."""
        seconds = metered.timestamp.timestamp()
        unit: float | str = seconds // 3600 if self.rules.key_by == "hour" else seconds
        if self.principal.platform == "agentcore":
            unit = f"token {token}"
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


def _parameters(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a repetition of a token has to repeat: quantities by value."""
    found: dict[str, Any] = by_value({n: part for n, part in request.items() if n != "ClientToken"})
    return found
