"""What a book remembers, as values: for a state file, and for a copy in another process."""

from collections import Counter
from typing import Any

from attrs import frozen

from marketplace_metering_async.sandbox.service.agreements import Agreement
from marketplace_metering_async.sandbox.service.book import Book
from marketplace_metering_async.sandbox.service.catalogue import Product
from marketplace_metering_async.sandbox.service.metered import Key, Metered
from marketplace_metering_async.sandbox.service.resolve_customer import RegistrationToken
from marketplace_metering_async.sandbox.service.rules import Rules

Entry = tuple[Key, Metered]


@frozen(kw_only=True)
class Memory:
    """
    What a book remembers beside its records and rules.

    Attributes:
        products: By product code.
        agreements: In the order in which they were made.
        suspended: Accounts that AWS has suspended.
        tokens: Registration tokens, oldest first.
        taken_keys: Keys that were used up without a record.
        client_tokens: Access key, region and ClientToken; the request they came with; its record.
        registered: Access keys and product codes of workloads that have registered.
        statuses: How often BatchMeterUsage answered with each status.
    """

    products: dict[str, Product]
    agreements: tuple[Agreement, ...]
    suspended: frozenset[str]
    tokens: tuple[RegistrationToken, ...]
    taken_keys: frozenset[Key]
    client_tokens: tuple[tuple[tuple[str, str, str], dict[str, Any], str], ...]
    registered: frozenset[tuple[str, str]]
    statuses: dict[str, int]


@frozen(kw_only=True)
class Copy:
    """A whole book: its rules, its records with their keys, and the rest."""

    rules: Rules
    records: tuple[Entry, ...]
    memory: Memory


def memory_of(book: Book) -> Memory:
    """Return what *book* remembers beside its records and rules."""
    catalogue, workloads = book.catalogue, book.workloads
    return Memory(
        products=dict(catalogue.products),
        agreements=tuple(catalogue.agreements.values()),
        suspended=frozenset(catalogue.suspended),
        tokens=tuple(book.tokens),
        taken_keys=frozenset(book.metered.taken_keys),
        client_tokens=tuple((whose, *kept) for whose, kept in workloads.client_tokens.items()),
        registered=frozenset(workloads.registered),
        statuses=dict(book.statuses),
    )


def remember(book: Book, memory: Memory) -> None:
    """Let *book* remember *memory*, in place of what it remembered beside records and rules."""
    book.catalogue.clear()
    book.catalogue.products.update(memory.products)
    for agreement in memory.agreements:
        book.catalogue.add(agreement)
    book.catalogue.suspended.update(memory.suspended)
    book.tokens.clear()
    for token in memory.tokens:
        book.tokens.add(token)
    for key in memory.taken_keys:
        book.metered.take_key(key)
    book.workloads.clear()
    for whose, request, record_id in memory.client_tokens:
        book.workloads.client_tokens[whose] = (request, record_id)
    book.workloads.registered.update(memory.registered)
    book.statuses = Counter(memory.statuses)


def remember_records(book: Book, entries: tuple[Entry, ...]) -> None:
    """Put records on file; of a key that came again, because it was forgotten, the later counts."""
    for key, metered in entries:
        book.metered.forget_key(key)
        book.metered.add(key, metered)


def copy_of(book: Book) -> Copy:
    """Return all that *book* remembers, and its rules."""
    return Copy(rules=book.rules, records=tuple(book.metered.entries()), memory=memory_of(book))


def book_of(copy: Copy) -> Book:
    """Return a book that remembers what `copy_of()` has said of another one."""
    book = Book(rules=copy.rules)
    remember_records(book, copy.records)
    remember(book, copy.memory)
    return book
