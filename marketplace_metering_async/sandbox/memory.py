"""What a book remembers as JSON, and back: for the state file, and a copy in another process."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from marketplace_metering_async.sandbox.agreements import Agreement
from marketplace_metering_async.sandbox.book import Book
from marketplace_metering_async.sandbox.catalogue import Product
from marketplace_metering_async.sandbox.metered import Key, Metered
from marketplace_metering_async.sandbox.registration import RegistrationToken
from marketplace_metering_async.sandbox.rules import Rules

_MOMENTS: Final = frozenset({"timestamp", "received", "begins", "ends", "free_until", "issued"})
_MOMENTS_OF_PRODUCTS: Final = frozenset({"key_rotated"})


def book_to_json(book: Book) -> dict[str, Any]:
    """Return all that *book* remembers, and its rules; `book_from_json()` takes it back."""
    return {
        "rules": book.rules.to_json(),
        "records": entries_to_json(book.metered.entries()),
        **rest_to_json(book),
    }


def book_from_json(kept: Mapping[str, Any]) -> Book:
    """Return a book that remembers what `book_to_json()` has *kept* of another one."""
    book = Book(rules=Rules().changed(kept["rules"]))
    remember_entries(book, kept["records"])
    remember_rest(book, kept)
    return book


def entries_to_json(entries: Iterable[tuple[Key, Metered]]) -> list[Any]:
    """Return keys and records, in their order."""
    return [[key, _plain(attrs.asdict(metered))] for key, metered in entries]


def remember_entries(book: Book, entries: Iterable[Any]) -> None:
    """Put records on file; of a key that came again, because it was forgotten, the later counts."""
    metered = book.metered
    for key, kept in entries:
        read = _read(kept)
        read["allocations"] = tuple(
            (tuple((name, value) for name, value in tags), share)
            for tags, share in read["allocations"]
        )
        metered.forget_key(tuple(key))
        metered.add(tuple(key), Metered(**read))


def rest_to_json(book: Book) -> dict[str, Any]:
    """Return what *book* remembers beside records: products, buyers, tokens, workloads, counts."""
    catalogue = book.catalogue
    return {
        "products": {code: _product_to_json(p) for code, p in catalogue.products.items()},
        "agreements": [_plain(attrs.asdict(a)) for a in catalogue.agreements.values()],
        "suspended": sorted(catalogue.suspended),
        "tokens": [_plain(attrs.asdict(token)) for token in book.tokens],
        "taken_keys": sorted(book.metered.taken_keys, key=str),
        "client_tokens": [[*w, *kept] for w, kept in book.workloads.client_tokens.items()],
        "registered": sorted(book.workloads.registered),
        "statuses": dict(book.statuses),
    }


def remember_rest(book: Book, kept: Mapping[str, Any]) -> None:
    """Take in what `rest_to_json()` said, in place of what was there."""
    catalogue, workloads = book.catalogue, book.workloads
    catalogue.clear()
    for code, product in kept["products"].items():
        catalogue.products[code] = Product(**_read(product, _MOMENTS_OF_PRODUCTS))
    for agreement in kept["agreements"]:
        catalogue.add(Agreement(**_read(agreement)))
    catalogue.suspended.update(kept["suspended"])
    book.tokens.clear()
    for token in kept["tokens"]:
        book.tokens.add(RegistrationToken(**_read(token)))
    for key in kept["taken_keys"]:
        book.metered.take_key(tuple(key))
    workloads.client_tokens.update(
        {
            (key, region, token): (request, id_)
            for key, region, token, request, id_ in kept["client_tokens"]
        }
    )
    workloads.registered.update((key, code) for key, code in kept["registered"])
    book.statuses.clear()
    book.statuses.update(kept["statuses"])


def _product_to_json(product: Product) -> dict[str, Any]:
    return {**_plain(attrs.asdict(product)), "dimensions": sorted(product.dimensions)}


def _plain(members: dict[str, Any]) -> dict[str, Any]:
    return {n: v.isoformat() if isinstance(v, datetime) else v for n, v in members.items()}


def _read(kept: dict[str, Any], moments: frozenset[str] = _MOMENTS) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value) if name in moments and value is not None else value
        for name, value in kept.items()
    }
