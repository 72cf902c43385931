"""Whose usage it is: a customer of a product, under one of the service's two schemes."""

from attrs import field, frozen

from marketplace_metering_async import rules
from marketplace_metering_async.errors import mask


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
