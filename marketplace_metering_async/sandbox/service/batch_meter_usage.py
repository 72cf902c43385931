"""BatchMeterUsage: a request is taken or refused as a whole; then each record has its status."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from marketplace_metering_async.sandbox.service.entitlement import (
    SUBSCRIBED,
    Subscription,
    product_named,
    subscription_by_license,
    subscription_by_product,
)
from marketplace_metering_async.sandbox.service.metered import Key, Metered
from marketplace_metering_async.sandbox.service.operation import Operation
from marketplace_metering_async.sandbox.service.parsing import check_names, product_code_of
from marketplace_metering_async.sandbox.service.refusals import Refusal, invalid, unreadable
from marketplace_metering_async.sandbox.service.usage import Usage, usage_of
from marketplace_metering_async.sandbox.service.window import Window

_MOST_RECORDS: Final = 25
_PATHS: Final = tuple(f"usageRecords.{position}.member" for position in range(1, 26))


class BatchMeterUsage(Operation):
    """The operation at one moment."""

    def answer(self, request: Mapping[str, Any], unprocessed: Iterable[int] = ()) -> dict[str, Any]:
        """
        Apply a request, but for the records at the indices *unprocessed*, and return the reply.

        Raises:
            Refusal: and nothing is applied.
        """
        check_names(request, "BatchMeterUsage", self.rules)
        product_code = product_code_of(request)
        usages = self._usages_of(request, product_code)
        window = Window.of_batches(self.rules, self.now)
        for seconds, path in {usage.seconds: usage.path for usage in reversed(usages)}.items():
            window.check(seconds, f"{path}.timestamp")
        subscriptions = self._subscriptions(usages, product_code)
        keys = [self._key_of(usage, product_code) for usage in usages]
        if self.rules.repeated_key == "refuse" and len(set(keys)) < len(keys):
            text = "usageRecords: two records of one customer, dimension and hour"
            raise Refusal("ValidationException", text)
        left = {index for index in unprocessed if 0 <= index < len(usages)}
        if self.rules.same_instant:
            left.update(index for index, key in enumerate(keys) if self._has_just_come(key))
        results = [
            self._take(usage, keys[index], subscriptions[index], product_code)
            for index, usage in enumerate(usages)
            if index not in left
        ]
        if self.rules.result_order == "reversed":
            results.reverse()
        open_records = [usage.echo for index, usage in enumerate(usages) if index in left]
        return {"Results": results, "UnprocessedRecords": open_records}

    def _has_just_come(self, key: Key) -> bool:
        """Return whether a record comes so soon after the first of its key that both race."""
        first = self.records.first(key)
        return first is not None and self.now - first.received < self.rules.same_instant

    def _usages_of(self, request: Mapping[str, Any], product_code: str | None) -> list[Usage]:
        records = request.get("UsageRecords")
        if records is None:
            raise invalid("usageRecords", "Member must not be null")
        if not isinstance(records, list):
            raise unreadable("usageRecords", "a list")
        if len(records) > _MOST_RECORDS:
            text = f"Member must have length less than or equal to {_MOST_RECORDS}"
            raise invalid("usageRecords", text)
        return [
            usage_of(path, record, product_code, self.rules)
            for path, record in zip(_PATHS, records, strict=False)
        ]

    def _subscriptions(self, usages: list[Usage], product_code: str | None) -> list[Subscription]:
        """Until a product is declared, everything is taken."""
        if not self.catalogue.products:
            return [SUBSCRIBED] * len(usages)
        if product_code is not None:
            product = product_named(self.catalogue, product_code, self.principal.account_id)
            return [subscription_by_product(usage, product_code, product, self) for usage in usages]
        licenses = [usage.license_arn or "" for usage in usages]  # each has one
        subscriptions = [
            subscription_by_license(usage, license_arn, self)
            for usage, license_arn in zip(usages, licenses, strict=True)
        ]
        if len({self.catalogue.product_of_license(arn) for arn in {*licenses}}) > 1:
            text = "usageRecords: licenses of more than one product"
            raise Refusal("InvalidLicenseException", text)
        return subscriptions

    def _key_of(self, usage: Usage, product_code: str | None) -> Key:
        rules = self.rules
        region = self.principal.region if rules.key_scope == "region" else ""
        unit = usage.seconds // 3600 if rules.key_by == "hour" else usage.seconds
        return (
            region,
            product_code,
            usage.license_arn,
            usage.account,
            usage.identifier,
            usage.dimension,
            unit,
        )

    def _take(
        self, usage: Usage, key: Key, subscription: Subscription, product_code: str | None
    ) -> dict[str, Any]:
        if not subscription.subscribed:
            if self.rules.not_subscribed_takes_key:
                self.records.take_key(key)
            return {"UsageRecord": usage.echo, "Status": "CustomerNotSubscribed"}
        first = self._first(key)
        if first is None:
            if self.records.is_taken(key):
                return {"UsageRecord": usage.echo, "Status": "DuplicateRecord"}
            metering_record_id = self.records.next_id()
            metered = Metered(  # by position: by name it takes half as long again
                self.principal.region,
                product_code,
                usage.license_arn,
                usage.account,
                usage.identifier,
                None,
                usage.dimension,
                usage.timestamp,
                usage.quantity,
                usage.allocations,
                metering_record_id,
                self.now,
                subscription.free,
            )
            self.records.add(key, metered)
        elif self.rules.identical_resend == "success" and self._is_the_same(usage, first):
            metering_record_id = first.metering_record_id
        else:
            return {"UsageRecord": usage.echo, "Status": "DuplicateRecord"}
        return {
            "UsageRecord": usage.echo,
            "MeteringRecordId": metering_record_id,
            "Status": "Success",
        }

    def _first(self, key: Key) -> Metered | None:
        first = self.records.first(key)
        if first is None:
            return None
        memory = self.rules.key_memory
        if memory and self.now - first.received >= memory:
            self.records.forget_key(key)
            return None
        return first

    def _is_the_same(self, usage: Usage, first: Metered) -> bool:
        if (usage.timestamp, usage.quantity) != (first.timestamp, first.quantity):
            return False
        return self.rules.identical_means == "quantity" or usage.allocations == first.allocations
