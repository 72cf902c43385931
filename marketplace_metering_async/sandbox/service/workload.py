"""What MeterUsage and RegisterUsage check alike: software that runs in the buyer's account."""

from typing import Any, Final

from attrs import Factory, define

from marketplace_metering_async.sandbox.service.agreements import AgreementState
from marketplace_metering_async.sandbox.service.catalogue import Product
from marketplace_metering_async.sandbox.service.entitlement import product_named
from marketplace_metering_async.sandbox.service.operation import Operation
from marketplace_metering_async.sandbox.service.refusals import Refusal
from marketplace_metering_async.sandbox.service.regions import GOVERNMENT

_OFFERED: Final = "Use a region where the operation is offered, such as us-east-1."


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


@define(kw_only=True)
class Workload(Operation):
    """
    One workload at one moment.

    Attributes:
        memory: What is known of workloads.
    """

    memory: WorkloadMemory

    def check_offered(self, code: str, *, in_government: bool) -> None:
        """Refuse, with *code*, where the operation is not offered; *in_government*: in GovCloud."""
        region, offered = self.principal.region, self.rules.workload_regions
        if offered and (region not in offered or (region in GOVERNMENT and not in_government)):
            raise Refusal(code, "the operation is not offered in this region", remedy=_OFFERED)

    def check_place(self, code: str) -> None:
        """Refuse, with *code*, a workload that runs in another region than it calls."""
        if self.principal.home_region not in (None, self.principal.region):
            raise Refusal(code, "the workload runs in another region than this endpoint's")

    def product(self, product_code: str) -> Product | None:
        """Return the product, or refuse; None until one is declared."""
        if not self.catalogue.products:
            return None
        return product_named(self.catalogue, product_code, None)

    def check_entitled(self, product_code: str, product: Product) -> None:
        """Refuse a declared account that has no subscription; an undeclared one may be anybody."""
        account = self.principal.account_id
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
