"""Whether a buyer may be metered: catalogue and usage in, refusal or subscription out."""

from typing import Final

from attrs import frozen

from marketplace_metering_async.sandbox.service.agreements import Agreement, AgreementState
from marketplace_metering_async.sandbox.service.catalogue import Catalogue, Product
from marketplace_metering_async.sandbox.service.operation import Operation
from marketplace_metering_async.sandbox.service.parsing import path_of
from marketplace_metering_async.sandbox.service.refusals import ANOTHER_SELLER, Cause, Refusal
from marketplace_metering_async.sandbox.service.rules import Rules
from marketplace_metering_async.sandbox.service.usage import Usage

_TAKING: Final = (AgreementState.ACTIVE, AgreementState.CLOSING)


@frozen
class Subscription:
    """
    What a buyer's usage is, where the request breaks no rule.

    Attributes:
        subscribed: Whether it is metered; otherwise it is CustomerNotSubscribed.
        free: Whether it falls into a free trial.
    """

    subscribed: bool
    free: bool = False


SUBSCRIBED: Final = Subscription(subscribed=True)
NOT_SUBSCRIBED: Final = Subscription(subscribed=False)


def product_named(catalogue: Catalogue, product_code: str, seller: str | None) -> Product:
    """Return a declared product by its code, or refuse; *seller* is the caller's account."""
    product = catalogue.products.get(product_code)
    if product is None:
        declared = f"Declared: {', '.join(sorted(catalogue.products))}."
        raise _no_product(Cause("no such product is declared", declared))
    if seller is not None and product.seller not in (None, seller):
        raise _no_product(ANOTHER_SELLER)
    return product


def _no_product(why: Cause) -> Refusal:
    text = f"productCode: {why.rule}"
    return Refusal("InvalidProductCodeException", text, remedy=why.remedy)


def check_dimension(product: Product, dimension: str, name: str, where: str = "") -> None:
    """Refuse a dimension that the product does not have; letter case counts."""
    if product.dimensions and dimension not in product.dimensions:
        raise Refusal(
            "InvalidUsageDimensionException",
            f"{path_of(where, name)}: the product has no such dimension",
            remedy=f"The product's dimensions: {', '.join(sorted(product.dimensions))}.",
        )


def subscription_by_product(
    usage: Usage, product_code: str, product: Product, asked: Operation
) -> Subscription:
    """Return the subscription of usage that came under the code of a product."""
    catalogue = asked.catalogue
    if product.concurrent_agreements:
        # Reported from the field; which error is not known.
        text = "productCode: the product has concurrent agreements, send LicenseArn instead"
        raise Refusal("InvalidProductCodeException", text)
    customer = usage.customer
    agreements = catalogue.agreements_of(product_code, customer)
    subscribed = product.customers.get(customer)
    is_open = catalogue.is_open(product_code)
    unknown = not agreements and subscribed is None and not is_open
    if unknown and asked.rules.unknown_customer == "refuse":
        raise Refusal(
            "InvalidCustomerIdentifierException", f"{usage.path}: the customer is not known"
        )
    check_dimension(product, usage.dimension, "Dimension", usage.path)
    suspended = catalogue.suspended
    if suspended and catalogue.buyer_of(product_code, customer) in suspended:
        return NOT_SUBSCRIBED
    if agreements:
        return _subscription_under(agreements, usage, asked)
    return SUBSCRIBED if subscribed or is_open else NOT_SUBSCRIBED


def _subscription_under(
    agreements: list[Agreement], usage: Usage, asked: Operation
) -> Subscription:
    rules = asked.rules
    taking = [a for a in agreements if a.state(asked.now, rules.closing) in _TAKING]
    if not taking:
        return NOT_SUBSCRIBED
    for agreement in reversed(taking):
        if agreement.covers(usage.timestamp, rules):
            return Subscription(subscribed=True, free=agreement.is_free(usage.timestamp))
    return _outside(usage, rules, "TimestampOutOfBoundsException")


def _outside(usage: Usage, rules: Rules, code: str) -> Subscription:
    if rules.outside_agreement == "refuse":
        raise Refusal(
            code,
            f"{usage.path}.timestamp: before the agreement began, or after it ended",
            remedy="Stamp usage between the agreement's begin and its end.",
        )
    return SUBSCRIBED if rules.outside_agreement == "take" else NOT_SUBSCRIBED


def subscription_by_license(usage: Usage, license_arn: str, asked: Operation) -> Subscription:
    """Return the subscription of usage that came under a license."""
    catalogue, rules, seller = asked.catalogue, asked.rules, asked.principal.account_id
    code = catalogue.product_of_license(license_arn)
    if code is None:
        raise Refusal("InvalidLicenseException", f"{usage.path}.licenseArn: it is not known")
    product, agreement = catalogue.products[code], catalogue.agreement_of_license(license_arn)
    owner = agreement.customer_aws_account_id if agreement else product.licenses[license_arn]
    if owner != usage.account:
        text = f"{usage.path}.licenseArn: it belongs to another account"
        raise Refusal("InvalidLicenseException", text)
    if seller is not None and product.seller not in (None, seller):
        text = f"{usage.path}.licenseArn: {ANOTHER_SELLER.rule}"
        raise Refusal("InvalidLicenseException", text, remedy=ANOTHER_SELLER.remedy)
    check_dimension(product, usage.dimension, "Dimension", usage.path)
    if usage.account in catalogue.suspended:
        return NOT_SUBSCRIBED
    if agreement is None:
        return SUBSCRIBED if product.customers.get(owner, True) else NOT_SUBSCRIBED
    if agreement.state(asked.now, rules.closing) is AgreementState.ENDED:
        return NOT_SUBSCRIBED
    if agreement.covers(usage.timestamp, rules):
        return Subscription(subscribed=True, free=agreement.is_free(usage.timestamp))
    return _outside(usage, rules, "InvalidLicenseException")
