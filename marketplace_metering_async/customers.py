"""Whose usage it is: a customer of a product, under one of the service's two schemes."""

from collections.abc import Iterator, Mapping

from attrs import field, fields_dict, frozen

from marketplace_metering_async import rules
from marketplace_metering_async.errors import Violation, mask


def exact_text(value: str) -> str:
    """Turn a subclass of str into str, so that nobody's override changes what is sent."""
    return value if type(value) is str or not isinstance(value, str) else str.__str__(value)


def masked(value: str | None) -> str:
    """Return an id as a repr shows it."""
    return "None" if value is None else repr(mask(value))


@frozen(kw_only=True)
class Customer:
    """
    A buyer, as the service knows them, together with the product.

    Either an account or a legacy identifier, of a product; or a license with its account.

    Attributes:
        customer_aws_account_id: The buyer's AWS account, digits.
        customer_identifier: The buyer in legacy integrations, in place of the account.
        license_arn: The buyer's license (Concurrent Agreements), together with the account.
        product_code: The product; None where the call that meters names it.

    Raises:
        InvalidRecordError: (a ValueError) with every rule of the service that it breaks.
        InvalidRecordTypeError: (a TypeError too) where a member is no text.
    """

    customer_aws_account_id: str | None = field(default=None, repr=masked)
    customer_identifier: str | None = field(default=None, repr=masked)
    license_arn: str | None = field(default=None, repr=masked)
    product_code: str | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what the service would refuse."""
        found = rules.identity(
            self.customer_aws_account_id, self.customer_identifier, self.license_arn
        )
        if self.product_code is not None:
            found += rules.product_code(self.product_code)
        rules.raise_if_any(found)
        for name in fields_dict(Customer):
            object.__setattr__(self, name, exact_text(getattr(self, name)))


def ids_of(customer: Customer | None, **given: str | None) -> dict[str, str | None]:
    """
    Return the ids that a caller means, by name: those that were *given*, or a customer's.

    Raises:
        InvalidRecordError: for what may not stand beside *customer*: any id, but for a product that
            it lacks.
    """
    if customer is None:
        return given
    rules.raise_if_any(_beside(customer, given))
    return {name: getattr(customer, name) or value for name, value in given.items()}


def _beside(customer: object, given: Mapping[str, str | None]) -> Iterator[Violation]:
    if not isinstance(customer, Customer):
        came = rules.describe(customer, masked=True)
        yield Violation("customer", "a Customer", came, wrong_type=True)
        return
    for name, value in given.items():
        may_stand = name == "product_code" and customer.product_code is None
        if value is not None and not may_stand:
            yield Violation(name, "None beside customer", "another one")
