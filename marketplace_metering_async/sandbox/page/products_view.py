"""What the page shows of products, agreements and buyers, and when the clock will change it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from marketplace_metering_async.sandbox.figures import agreement_figures
from marketplace_metering_async.sandbox.service.agreements import Agreement, AgreementState
from marketplace_metering_async.sandbox.service.catalogue import Product
from marketplace_metering_async.sandbox.world import World

_MOST_PRODUCTS: Final = 50
_MOST_AGREEMENTS: Final = 30
_MOST_BUYERS: Final = 50


class ProductsView:
    """What there is to see of one sandbox's products, as of its clock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def figures(self) -> list[dict[str, Any]]:
        """Return the products, each with its latest agreements, newest first, and its buyers."""
        now = self._world.clock.now()
        return [self._product(code, product, now) for code, product in self._products()]

    def seconds_to_next_change(self) -> float | None:
        """
        Return in how many real seconds an agreement that is shown becomes something else.

        Nothing tells of it but the clock: an agreement runs out, a closing hour is over, a free
        trial ends. None: as the clock runs, never.
        """
        clock = self._world.clock
        if clock.speed == 0:
            return None
        now = clock.now()
        changes = [change for change in self._changes(now) if change > now]
        return (min(changes) - now).total_seconds() / clock.speed if changes else None

    def _products(self) -> Iterator[tuple[str, Product]]:
        return islice(self._world.book.products.copy().items(), _MOST_PRODUCTS)

    def _changes(self, now: datetime) -> Iterator[datetime]:
        closing = self._world.book.rules.closing
        catalogue = self._world.book.catalogue
        for code, _ in self._products():
            for agreement in catalogue.latest_agreements(code, _MOST_AGREEMENTS)[0]:
                yield agreement.begins
                if agreement.ends is not None:
                    yield agreement.ends
                if agreement.free_until is not None:
                    yield agreement.free_until
                closes = _closes(agreement, now, closing)
                if closes is not None:
                    yield closes

    def _product(self, code: str, product: Product, now: datetime) -> dict[str, Any]:
        catalogue = self._world.book.catalogue
        latest, count = catalogue.latest_agreements(code, _MOST_AGREEMENTS)
        customers = product.customers.copy().items()
        return {
            "product_code": code,
            "title": product.title,
            "registration_url": product.registration_url,
            "concurrent_agreements": product.concurrent_agreements,
            "dimensions": sorted(product.dimensions),
            "open": catalogue.is_open(code),
            "agreements": [
                # From 1 for the oldest: what tells two agreements of one buyer apart.
                {"number": number, **self._agreement(agreement, product, now)}
                for number, agreement in zip(range(count, 0, -1), latest, strict=False)
            ],
            "more_agreements": count - len(latest),
            "customers": [
                {"customer": customer, "subscribed": subscribed}
                for customer, subscribed in islice(customers, _MOST_BUYERS)
            ],
            "more_customers": max(0, len(customers) - _MOST_BUYERS),
            "licenses": dict(islice(product.licenses.items(), _MOST_BUYERS)),
            "public_key_version": product.public_key_version,
        }

    def _agreement(self, agreement: Agreement, product: Product, now: datetime) -> dict[str, Any]:
        book = self._world.book
        closing = book.rules.closing
        closes = _closes(agreement, now, closing)
        account = agreement.customer_aws_account_id
        return {
            **agreement_figures(agreement, now, closing),
            "closes": None if closes is None else closes.isoformat(),
            "free": agreement.is_free(now),
            "suspended": account in book.catalogue.suspended,
            "may_subscribe_again": product.concurrent_agreements
            or all(
                other.ends is not None and other.ends <= now
                for other in book.catalogue.agreements_of(agreement.product_code, account)
            ),
        }


def _closes(agreement: Agreement, now: datetime, closing: timedelta) -> datetime | None:
    """Return when usage under an agreement that is closing is taken no longer."""
    if agreement.ends is None or agreement.state(now, closing) is not AgreementState.CLOSING:
        return None
    return agreement.ends + closing
