"""What the marketplace knows: products, buyers, agreements and licenses, and their life cycle."""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
from attrs import Factory, define, field
from attrs.validators import ge, optional

from marketplace_metering_async.sandbox.expected import mapping, of, texts
from marketplace_metering_async.sandbox.service.agreements import Agreement, whole_second

_LICENSE: Final = "arn:aws:license-manager::{seller}:license:l-{number}"
_SANDBOX_ACCOUNT: Final = "000000000000"


def _web_address(_: object, __: object, value: str) -> None:
    if urlsplit(value).scheme not in ("http", "https"):
        raise ValueError(f"registration_url: expected http:// or https://, got {value!r}")


_TEXT: Final = of(str)


def _dimensions(values: Iterable[str]) -> frozenset[str]:
    return texts("dimensions", values)


@define(kw_only=True)
class Product:
    """
    A declared product.

    Attributes:
        dimensions: What may be metered; empty: anything.
        customers: Account ids and customer identifiers to whether they are subscribed, for a
            product without agreements; empty, and no agreement: anybody is.
        licenses: License ARNs to the account each belongs to, beside those of agreements.
        public_key_version: Of the product's key pair now; older versions have been rotated.
        key_rotated: When the version before was replaced.
        title: For people.
        registration_url: Where the seller's page takes registration tokens by POST.
        concurrent_agreements: Metered by license only: no ProductCode, no CustomerIdentifier.
        seller: The publishing account; with it, access keys of other accounts are refused.
    """

    dimensions: frozenset[str] = field(default=frozenset(), converter=_dimensions)
    customers: dict[str, bool] = field(
        factory=dict, validator=lambda _, attribute, given: mapping(attribute.name, given, bool)
    )
    licenses: dict[str, str] = field(
        factory=dict, validator=lambda _, attribute, given: mapping(attribute.name, given, str)
    )
    public_key_version: int = field(default=1, validator=[of(int), ge(1)])
    key_rotated: datetime | None = None
    title: str = field(default="", validator=_TEXT)
    registration_url: str | None = field(default=None, validator=optional([_TEXT, _web_address]))
    concurrent_agreements: bool = field(default=False, validator=of(bool))
    seller: str | None = field(default=None, validator=optional(_TEXT))


@define
class Catalogue:
    """
    Products, agreements and buyers.

    Attributes:
        products: By product code.
        agreements: By agreement id, in the order in which they were made.
        suspended: Accounts that AWS has suspended.
    """

    products: dict[str, Product] = Factory(dict)
    agreements: dict[str, Agreement] = Factory(dict)
    suspended: set[str] = Factory(set)
    _by_license: dict[str, str] = field(factory=dict, init=False)
    _by_customer: dict[tuple[str, str], list[str]] = field(factory=dict, init=False)
    _of_product: dict[str, list[str]] = field(factory=dict, init=False)

    def clear(self) -> None:
        """Forget all."""
        for kept in (self.products, self.agreements, self.suspended):
            kept.clear()
        for index in (self._by_license, self._by_customer, self._of_product):
            index.clear()

    def subscribe(
        self,
        product_code: str,
        customer_aws_account_id: str,
        *,
        begins: datetime,
        ends: datetime | None = None,
        free_trial: timedelta | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
    ) -> Agreement:
        """
        Let a buyer subscribe, or subscribe again, and return the agreement.

        Raises:
            ValueError: for a product that is not declared; a second agreement while one is open,
                of a product that does not have concurrent agreements; a license that exists.
        """
        product = self.products.get(product_code)
        if product is None:
            raise ValueError(f"product_code: {product_code!r} is not declared")
        if not product.concurrent_agreements:
            self._require_no_other(product_code, customer_aws_account_id, begins)
        number = uuid.uuid4().hex
        license_arn = license_arn or _LICENSE.format(
            seller=product.seller or _SANDBOX_ACCOUNT, number=number
        )
        if license_arn in self._by_license:
            raise ValueError(f"license_arn: {license_arn!r} belongs to another agreement")
        agreement = Agreement(
            agreement_id=f"agmt-{number[:25]}",
            product_code=product_code,
            customer_aws_account_id=customer_aws_account_id,
            customer_identifier=None if product.concurrent_agreements else customer_identifier,
            license_arn=license_arn,
            begins=begins,
            ends=ends,
            free_until=None if free_trial is None else whole_second(begins) + free_trial,
        )
        self.add(agreement)
        return agreement

    def _require_no_other(self, product_code: str, account: str, begins: datetime) -> None:
        for agreement in self.agreements_of(product_code, account):
            if agreement.ends is None or agreement.ends > begins:
                raise ValueError(
                    f"{account} has an open agreement over {product_code!r}; "
                    "declare the product with concurrent_agreements=True to allow several"
                )

    def add(self, agreement: Agreement) -> None:
        """Take note of an agreement, or of its new state."""
        known = agreement.agreement_id in self.agreements
        self.agreements[agreement.agreement_id] = agreement
        if known:
            return
        self._of_product.setdefault(agreement.product_code, []).append(agreement.agreement_id)
        if agreement.license_arn is not None:
            self._by_license[agreement.license_arn] = agreement.agreement_id
        names = {agreement.customer_aws_account_id, agreement.customer_identifier} - {None}
        for name in names:
            of_customer = self._by_customer.setdefault((agreement.product_code, str(name)), [])
            of_customer.append(agreement.agreement_id)

    def end(self, agreement_id: str, *, now: datetime, reason: str = "cancelled") -> Agreement:
        """
        End an agreement: its closing hour begins *now*.

        Raises:
            KeyError: for an agreement that does not exist.
            ValueError: for one that has ended before.
        """
        agreement = self.agreements[agreement_id]
        if agreement.ends is not None and agreement.ends <= now:
            raise ValueError(f"{agreement_id} has ended at {agreement.ends:%Y-%m-%dT%H:%M:%SZ}")
        ended = attrs.evolve(agreement, ends=max(now, agreement.begins), reason=reason)
        self.add(ended)
        return ended

    def agreements_of(self, product_code: str, customer: str) -> list[Agreement]:
        """Return a customer's agreements over a product, oldest first."""
        ids = self._by_customer.get((product_code, customer))
        return [self.agreements[agreement_id] for agreement_id in ids] if ids else []

    def latest_agreements(self, product_code: str, most: int) -> tuple[list[Agreement], int]:
        """Return the latest agreements over a product, newest first, and how many there are."""
        ids = self._of_product.get(product_code, [])
        latest = ids[: -most - 1 : -1]
        return [self.agreements[agreement_id] for agreement_id in latest], len(ids)

    def agreement_of_license(self, license_arn: str) -> Agreement | None:
        """Return the agreement that granted a license."""
        agreement_id = self._by_license.get(license_arn)
        return None if agreement_id is None else self.agreements[agreement_id]

    def product_of_license(self, license_arn: str) -> str | None:
        """Return the code of the product that a license is for, if it is known."""
        agreement = self.agreement_of_license(license_arn)
        if agreement is not None:
            return agreement.product_code
        products = self.products.copy().items()  # a test's thread may declare more meanwhile
        return next((code for code, p in products if license_arn in p.licenses), None)

    def is_open(self, product_code: str) -> bool:
        """Return whether anybody may be metered for a product: nobody was named for it."""
        product = self.products[product_code]
        return not product.customers and product_code not in self._of_product

    def owners(self) -> tuple[Any, ...]:
        """
        Return what `product_of_license` and `buyer_of` go by, to see whether it has changed.

        Agreements only come, until all is forgotten, and stay whose they are.
        """
        licenses = [(code, *product.licenses) for code, product in self.products.copy().items()]
        return (len(self.agreements), licenses)

    def buyer_of(self, product_code: str | None, customer: str) -> str:
        """Return the account behind *customer*, or *customer* where that is not known."""
        for agreement in self.agreements_of(product_code or "", customer):
            return agreement.customer_aws_account_id
        return customer
