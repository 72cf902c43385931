"""What a book remembers, as values: for a state file, and for a copy in another process."""

from collections import Counter
from itertools import islice
from typing import Any

import attrs
from attrs import Factory, frozen

from marketplace_metering_async.sandbox.as_json import as_json
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
    What a book remembers beside its rules, or what of it is new.

    Attributes:
        records: With their keys, in the order in which they came.
        products: By product code.
        buyers: By product code: customers without agreement to whether they are subscribed, where
            that has changed since the product was declared.
        agreements: In the order in which they were made, or ended.
        suspended: Accounts to whether AWS has suspended them.
        tokens: Registration tokens, oldest first.
        taken_keys: Keys that were used up without a record.
        client_tokens: Access key, region and ClientToken; the request they came with; its record.
        registered: Access keys and product codes of workloads that have registered.
        statuses: How often BatchMeterUsage answered with each status.
    """

    records: tuple[Entry, ...] = ()
    products: dict[str, Product] = Factory(dict)
    buyers: dict[str, dict[str, bool]] = Factory(dict)
    agreements: tuple[Agreement, ...] = ()
    suspended: dict[str, bool] = Factory(dict)
    tokens: tuple[RegistrationToken, ...] = ()
    taken_keys: frozenset[Key] = frozenset()
    client_tokens: tuple[tuple[tuple[str, str, str], dict[str, Any], str], ...] = ()
    registered: frozenset[tuple[str, str]] = frozenset()
    statuses: dict[str, int] = Factory(dict)


@frozen(kw_only=True)
class Copy:
    """A whole book: its rules, of what there may be much, and the rest of its memory."""

    rules: Rules
    memory: Memory
    agreements: tuple[Agreement, ...]
    records: tuple[Entry, ...]


class News:
    """Says of one book what it remembers now and did not when it was asked before."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._generation = book.metered.generation
        self._records = self._client_tokens = 0
        self._products: dict[str, tuple[Any, dict[str, bool]]] = {}
        self._agreements: dict[str, Agreement] = {}
        self._tokens: dict[str, RegistrationToken] = {}
        self._suspended: set[str] = set()
        self._taken_keys: set[Key] = set()
        self._registered: set[tuple[str, str]] = set()
        self._statuses: dict[str, int] = {}

    @property
    def is_outdated(self) -> bool:
        """Whether the book has forgotten something that was news before."""
        return self._generation != self._book.metered.generation or bool(
            self._products.keys() - self._book.products.keys()
        )

    def take(self) -> Memory:
        """Return what is new; threads of tests may go on changing the book meanwhile."""
        book, catalogue, workloads = self._book, self._book.catalogue, self._book.workloads
        records = book.metered.entries(self._records)
        self._records += len(records)
        client_tokens = tuple(
            (whose, *kept)
            for whose, kept in islice(workloads.client_tokens.items(), self._client_tokens, None)
        )
        self._client_tokens += len(client_tokens)
        products, buyers = self._take_products()
        now_suspended = set(catalogue.suspended)
        suspended = {
            account: account in now_suspended for account in sorted(self._suspended ^ now_suspended)
        }
        self._suspended = now_suspended
        taken_keys = book.metered.taken_keys - self._taken_keys
        self._taken_keys |= taken_keys
        registered = workloads.registered - self._registered
        self._registered |= registered
        statuses = dict(book.statuses) if book.statuses != self._statuses else {}
        self._statuses = dict(book.statuses)
        return Memory(
            records=tuple(records),
            products=products,
            buyers=buyers,
            agreements=_changed(self._agreements, catalogue.agreements),
            suspended=suspended,
            tokens=_changed(self._tokens, {token.token: token for token in list(book.tokens)}),
            taken_keys=frozenset(taken_keys),
            client_tokens=client_tokens,
            registered=frozenset(registered),
            statuses=statuses,
        )

    def _take_products(self) -> tuple[dict[str, Product], dict[str, dict[str, bool]]]:
        """Return products that are new or changed, and of others the buyers that have changed."""
        products, buyers = {}, {}
        for code, product in self._book.products.copy().items():
            plain = as_json(attrs.evolve(product, customers={}))
            before, known = self._products.get(code, (None, {}))
            customers = dict(product.customers)
            if plain != before or known.keys() - customers.keys():
                products[code] = attrs.evolve(product, customers=customers)
            elif known != customers:
                buyers[code] = dict(sorted(customers.items() - known.items()))
            else:
                continue
            self._products[code] = (plain, customers)
        return products, buyers


def _changed(known: dict[str, Any], now: dict[str, Any]) -> tuple[Any, ...]:
    """Return the values of *now* that are not those of *known*, which has them then."""
    changed = {name: value for name, value in now.copy().items() if known.get(name) is not value}
    known.update(changed)
    return tuple(changed.values())


def remember(book: Book, memory: Memory) -> None:
    """Let *book* remember *memory* as well; of a key that came again, the later record counts."""
    for key, metered in memory.records:
        book.metered.forget_key(key)
        book.metered.add(key, metered)
    book.catalogue.products.update(memory.products)
    for product_code, customers in memory.buyers.items():
        book.catalogue.products[product_code].customers.update(customers)
    for agreement in memory.agreements:
        book.catalogue.add(agreement)
    for account, suspended in memory.suspended.items():
        if suspended:
            book.catalogue.suspended.add(account)
        else:
            book.catalogue.suspended.discard(account)
    for token in memory.tokens:
        book.tokens.add(token)
    for taken_key in memory.taken_keys:
        book.metered.take_key(taken_key)
    for whose, request, record_id in memory.client_tokens:
        book.workloads.client_tokens[whose] = (request, record_id)
    book.workloads.registered.update(memory.registered)
    if memory.statuses:
        book.statuses = Counter(memory.statuses)


def copy_of(book: Book) -> Copy:
    """Return all that *book* remembers, and its rules."""
    memory = News(book).take()
    rest = attrs.evolve(memory, agreements=(), records=())
    return Copy(rules=book.rules, memory=rest, agreements=memory.agreements, records=memory.records)


def book_of(copy: Copy) -> Book:
    """Return a book that remembers what `copy_of()` has said of another one."""
    book = Book(rules=copy.rules)
    memory = attrs.evolve(copy.memory, agreements=copy.agreements, records=copy.records)
    remember(book, memory)
    return book
