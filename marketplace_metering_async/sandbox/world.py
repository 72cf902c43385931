"""
The world that a sandbox stands for: all that the service remembers, and what happens in it.

It knows no HTTP. Sellers declare products, buyers subscribe and cancel, AWS suspends; clock, quota,
rules and faults are changed here, whoever asks: a test, the controls or the page.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import NoneType

from marketplace_metering_async.sandbox.advice import Advice, advice_on
from marketplace_metering_async.sandbox.clock import SandboxClock
from marketplace_metering_async.sandbox.expected import duration, mapping, require, several
from marketplace_metering_async.sandbox.faults import Fault, FaultFunction, Faults
from marketplace_metering_async.sandbox.history import ChangeCounter, History
from marketplace_metering_async.sandbox.service.agreements import Agreement
from marketplace_metering_async.sandbox.service.book import Book
from marketplace_metering_async.sandbox.service.catalogue import Product
from marketplace_metering_async.sandbox.service.principal import AccessKey, Principal
from marketplace_metering_async.sandbox.service.quota import Quota, Quotas
from marketplace_metering_async.sandbox.service.refusals import Cause, Refusal
from marketplace_metering_async.sandbox.service.resolve_customer import RegistrationForm
from marketplace_metering_async.sandbox.service.rules import Rules
from marketplace_metering_async.sandbox.service.signing_keys import SigningKeys


class World:
    """
    All that the service remembers, at the time that its clock shows.

    Attributes:
        book: What was metered, with products and agreements.
        clock: The service's time, which can be set.
        faults: The misbehaviour in force.
        quotas: Calls per second, by account, region and operation.
        keys: What RegisterUsage signs with.
        access_keys: Declared access keys; with any, others are refused and signatures verified.
        calls: Requests by operation.
        refusals: Refused requests by code, throttles among them.
        causes: Why the latest request was refused, by code.
        hits: Faults that hit a request, by kind.
        history: The latest calls.
        changes: Counts every change, for those who wait for one.
    """

    def __init__(
        self,
        *,
        clock: SandboxClock | None = None,
        calls_per_second: float | None = 10.0,
        burst: float = 10.0,
        faults: Iterable[Fault | FaultFunction] = (),
        seed: int = 0,
        rules: Rules | None = None,
        access_keys: Mapping[str, AccessKey] | None = None,
        history: int = 200,
    ) -> None:
        """
        Begin with nothing metered.

        Args:
            clock: The service's time; by default real.
            calls_per_second: The quota for each account (or access key), region and operation,
                half of it for RegisterUsage; None: off.
            burst: Calls that a rested account may make at once.
            faults: What goes wrong, asked in this order.
            seed: Of the faults' chance.
            rules: What the service's pages leave open.
            access_keys: Whose signatures to verify.
            history: How many of the latest calls are kept; 0: none.

        Raises:
            TypeError: for an argument of another type, which it names.
            ValueError: for a quota that is none, or a number of calls that cannot be kept.
        """
        require("clock", clock, SandboxClock, NoneType)
        require("seed", seed, int)
        require("rules", rules, Rules, NoneType)
        self._made_with = (rules or Rules(), calls_per_second, burst)
        self.book = Book(rules=rules)
        self.clock = clock or SandboxClock()
        self.changes = ChangeCounter()
        self.faults = Faults(faults, seed=seed)
        self.quotas = Quotas(calls_per_second, burst)
        self.keys = SigningKeys()
        keys = {} if access_keys is None else access_keys
        self.access_keys: dict[str, AccessKey] = mapping("access_keys", keys, AccessKey)
        self.calls: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.causes: dict[str, Cause] = {}
        self.hits: Counter[str] = Counter()
        self.history = History(history)

    def declare_product(
        self,
        product_code: str,
        *,
        dimensions: Iterable[str] | None = None,
        customers: Mapping[str, bool] | Iterable[str] | None = None,
        licenses: Mapping[str, str] | None = None,
        public_key_version: int = 1,
        title: str = "",
        registration_url: str | None = None,
        concurrent_agreements: bool = False,
        seller: str | None = None,
    ) -> Product:
        """
        Declare a product, or declare it anew; from then on the book refuses what is unknown.

        Args:
            product_code: Its code.
            dimensions: What may be metered; none: anything.
            customers: Account ids or customer identifiers, or a mapping of them to whether they
                are subscribed, where `subscribe()` would be too much; none: anybody is, until
                the first one subscribes.
            licenses: License ARNs to the account each belongs to, beside those of agreements.
            public_key_version: Of its key pair.
            title: For people.
            registration_url: Where the seller's page takes registration tokens by POST.
            concurrent_agreements: Whether a buyer may have several agreements at once; then it is
                metered by license only.
            seller: The publishing account; declared access keys of others are refused.

        Raises:
            TypeError, ValueError: for an argument that cannot be.
        """
        if not isinstance(product_code, str) or not product_code:
            raise ValueError(f"product_code: expected a text, got {product_code!r}")
        if not isinstance(customers, Mapping):
            named = () if customers is None else customers
            customers = dict.fromkeys(several("customers", named, str, what="texts"), True)
        product = Product(
            dimensions=() if dimensions is None else dimensions,
            customers=mapping("customers", customers, bool),
            licenses=mapping("licenses", {} if licenses is None else licenses, str),
            public_key_version=public_key_version,
            title=title,
            registration_url=registration_url,
            concurrent_agreements=concurrent_agreements,
            seller=seller,
        )
        self.book.products[product_code] = product
        self.changes.bump()
        return product

    def rotate_key(self, product_code: str) -> int:
        """
        Give a product its next key version, and return it; the one before has expired.

        RegisterUsage still takes the older version, and says when it was rotated.

        Raises:
            KeyError: for a product that is not declared.
            TypeError: for what is no text.
        """
        require("product_code", product_code, str)
        product = self.book.products[product_code]
        product.public_key_version += 1
        product.key_rotated = self.clock.now()
        self.changes.bump()
        return product.public_key_version

    def set_subscribed(self, product_code: str, customer: str, *, subscribed: bool) -> None:
        """
        Let a buyer without an agreement subscribe, or cancel, without a closing hour.

        Raises:
            KeyError: for a product that is not declared.
            TypeError, ValueError: for what is no customer, or neither true nor false.
        """
        require("product_code", product_code, str)
        require("subscribed", subscribed, bool)
        if not isinstance(customer, str) or not customer:
            raise ValueError(f"customer: expected an id, got {customer!r}")
        self.book.products[product_code].customers[customer] = subscribed
        self.changes.bump()

    def subscribe(
        self,
        product_code: str,
        customer_aws_account_id: str,
        *,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        begins: datetime | None = None,
        ends: datetime | None = None,
        free_trial: timedelta | None = None,
    ) -> Agreement:
        """
        Let a buyer subscribe, or subscribe again after the last agreement has ended.

        Args:
            product_code: Of a declared product.
            customer_aws_account_id: The buyer's account.
            customer_identifier: The buyer's legacy id, if the integration has such.
            license_arn: The license; by default a new one.
            begins: From when on usage is taken; by default now.
            ends: When it expires; None: not by itself.
            free_trial: How long usage costs the buyer nothing; it is metered as any other.

        Raises:
            ValueError: for a product that is not declared; where the buyer has an open agreement
                already, unless the product has concurrent agreements.
            TypeError: for an argument of another type, which it names.
        """
        require("product_code", product_code, str)
        require("free_trial", free_trial, timedelta, NoneType)
        agreement = self.book.catalogue.subscribe(
            product_code,
            customer_aws_account_id,
            begins=self.clock.now() if begins is None else begins,
            ends=ends,
            free_trial=free_trial,
            customer_identifier=customer_identifier,
            license_arn=license_arn,
        )
        self.changes.bump()
        return agreement

    def cancel(self, agreement_id: str) -> Agreement:
        """
        Let a buyer cancel: the agreement ends now, and its closing hour begins.

        Raises:
            KeyError: for an agreement that does not exist.
            TypeError: for what is no text.
            ValueError: for one that has ended before.
        """
        return self._end(agreement_id, "cancelled")

    def expire(self, agreement_id: str) -> Agreement:
        """Let an agreement run out now, as `cancel` does."""
        return self._end(agreement_id, "expired")

    def _end(self, agreement_id: str, reason: str) -> Agreement:
        require("agreement_id", agreement_id, str)
        catalogue = self.book.catalogue
        agreement = catalogue.end(agreement_id, now=self.clock.now(), reason=reason)
        self.changes.bump()
        return agreement

    def suspend(self, customer_aws_account_id: str) -> None:
        """Let AWS suspend an account: its usage is CustomerNotSubscribed. TypeError: no text."""
        require("customer_aws_account_id", customer_aws_account_id, str)
        self.book.catalogue.suspended.add(customer_aws_account_id)
        self.changes.bump()

    def restore(self, customer_aws_account_id: str) -> None:
        """Take a suspension back; TypeError for what is no text."""
        require("customer_aws_account_id", customer_aws_account_id, str)
        self.book.catalogue.suspended.discard(customer_aws_account_id)
        self.changes.bump()

    def issue_token(
        self,
        product_code: str,
        *,
        customer_aws_account_id: str | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        agreement_id: str | None = None,
    ) -> str:
        """
        Return a registration token for a buyer, of whom what is known may be left out.

        Raises:
            TypeError: for what is no text.
        """
        require("product_code", product_code, str)
        buyer = {
            "customer_aws_account_id": customer_aws_account_id,
            "customer_identifier": customer_identifier,
            "license_arn": license_arn,
            "agreement_id": agreement_id,
        }
        for name, value in buyer.items():
            require(name, value, str, NoneType)
        token = self.book.issue_token(product_code, now=self.clock.now(), **buyer)
        self.changes.bump()
        return token

    def set_up_account(self, agreement_id: str) -> RegistrationForm:
        """
        Return what a buyer's browser posts on "Set up your account", with a token of its own.

        `Sandbox.register_account()` posts it.

        Raises:
            KeyError: for an agreement that does not exist.
            ValueError: where the product has no registration_url.
        """
        require("agreement_id", agreement_id, str)
        agreement = self.book.catalogue.agreements[agreement_id]
        product = self.book.products.get(agreement.product_code)
        if product is None or product.registration_url is None:
            raise ValueError(f"declare {agreement.product_code!r} with a registration_url")
        token = self.issue_token(
            agreement.product_code,
            customer_aws_account_id=agreement.customer_aws_account_id,
            customer_identifier=agreement.customer_identifier,
            license_arn=agreement.license_arn,
            agreement_id=agreement_id,
        )
        fields = {"x-amzn-marketplace-token": token}
        if agreement.is_free(self.clock.now()):
            fields["x-amzn-marketplace-offer-type"] = "free-trial"
        return RegistrationForm(product.registration_url, fields)

    def change_rules(self, **changes: object) -> None:
        """
        Turn some switches of Rules from now on; times may be seconds.

        Raises:
            TypeError: for a rule that does not exist.
            ValueError: for a reading that does not exist.
        """
        self.book.rules = self.book.rules.changed(changes)
        self.changes.bump()

    def advance(self, **difference: float) -> None:
        """
        Move the clock: `advance(hours=2)`, with the words of timedelta.

        Raises:
            TypeError, ValueError, OverflowError: for what is none, or beyond what the clock shows.
        """
        self.clock.step(duration(difference))
        self.changes.bump()

    def inject(self, *faults: Fault | FaultFunction) -> None:
        """Let *faults* hit requests from now on, after those in force; TypeError for others."""
        self.faults.add(*faults)
        self.changes.bump()

    @property
    def calls_per_second(self) -> float | None:
        """The quota; set, it holds at once, and what is in the buckets stays there."""
        return self.quotas.calls_per_second

    @calls_per_second.setter
    def calls_per_second(self, calls_per_second: float | None) -> None:
        self.quotas.calls_per_second = calls_per_second
        self.changes.bump()

    def set_quota(self, calls_per_second: float | None, *, burst: float = 10.0) -> None:
        """Change the quota, with full buckets; None switches it off."""
        self.quotas.set(calls_per_second, burst)
        self.changes.bump()

    def quota_of(self, principal: Principal, operation: str) -> Quota:
        """Return the quota that a request counts against."""
        return self.quotas.of(principal.account, principal.region, operation)

    def public_key(self, version: int = 1) -> str:
        """
        Return the public half of what RegisterUsage signs with, as PEM.

        Raises:
            RuntimeError: where the extra `jwt` is not installed; the text says how to install it.
            TypeError, ValueError: for what is no version, which is 1 or more.
        """
        require("version", version, int)
        return self.keys.public_pem(version)

    def note_refusal(self, refusal: Refusal) -> None:
        """Count a refusal, and remember why it was the latest of its code."""
        self.refusals[refusal.code] += 1
        self.causes[refusal.code] = Cause(refusal.message, refusal.remedy)

    def advice(self) -> list[Advice]:
        """Return what to change in the client, by the latest calls; nothing where all is well."""
        return advice_on(self.history, self.book.double_billed())

    def reset(self, *, everything: bool = False) -> None:
        """
        Forget what was metered, the counts and the faults; declared products stay.

        Rules and quota are again those that it was made with, and all buckets are full.
        With *everything*, no product stays, and the clock shows the real time.

        Raises:
            TypeError: for what is neither true nor false.
        """
        require("everything", everything, bool)
        rules, calls_per_second, burst = self._made_with
        self.book.forget()
        self.book.rules = rules
        self.set_quota(calls_per_second, burst=burst)
        if everything:
            self.book.catalogue.clear()
            self.clock.reset()
        self.faults.clear()
        for counts in (self.calls, self.refusals, self.causes, self.hits):
            counts.clear()
        self.history.clear()
        self.changes.bump()
