"""
What the service remembers and by which rules: records by key, first write wins.

Pure: the time comes in as *now*, nothing is read or written outside. A request that breaks a rule
raises Refusal and leaves nothing applied. Where the service's behaviour is unknown, Rules has a
switch, and its default is the reading that is worse for the client.
"""

import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from attrs import Factory, define, field, frozen

from marketplace_metering_async.sandbox.refusals import Refusal

_MOST_RECORDS: Final = 25
_INT32: Final = 2**31 - 1
_PRODUCT: Final = re.compile(r"[-a-zA-Z0-9/=:_.@]{0,255}")
_ACCOUNT: Final = re.compile(r"[0-9]{1,255}")
_TAG: Final = re.compile(r"[a-zA-Z0-9+ -=._:/@]+")
_LICENSE: Final = re.compile(
    r"arn:aws[a-zA-Z-]*:[A-Za-z0-9][A-Za-z0-9_/.-]{0,62}:[A-Za-z0-9_/.-]{0,63}"
    r":[A-Za-z0-9_/.-]{0,63}:[A-Za-z0-9][A-Za-z0-9:_/+=,@.-]{0,1023}"
)
_TOKEN_LIFE: Final = timedelta(hours=4)
_METER_WINDOW: Final = timedelta(hours=6)

Key = tuple[str, str | None, str | None, str | None, str | None, str, int]


@frozen(kw_only=True)
class Metered:
    """One record that the service has taken."""

    region: str
    product_code: str | None
    license_arn: str | None
    customer_aws_account_id: str | None
    customer_identifier: str | None
    dimension: str
    timestamp: datetime
    quantity: int
    allocations: tuple[Any, ...]
    metering_record_id: str
    received: datetime

    @property
    def customer(self) -> str:
        """The buyer, under whichever id."""
        return self.customer_aws_account_id or self.customer_identifier or ""


@define(kw_only=True)
class Rules:
    """
    What the service's pages leave open, and what it may change.

    Attributes:
        identical_resend: What a record gets that is on file already: "duplicate" or "success".
        key_by: Whether the clock "hour" or the exact "timestamp" makes a record another one.
        age: How old a timestamp may be.
        month_end: How long after a month's end its records are taken.
        future: How far ahead of the service's clock a timestamp may be.
        most_bytes: A request is smaller than this.
    """

    identical_resend: Literal["duplicate", "success"] = "duplicate"
    key_by: Literal["hour", "timestamp"] = "hour"
    age: timedelta = timedelta(hours=24)
    month_end: timedelta = timedelta(hours=6)
    future: timedelta = timedelta(0)
    most_bytes: int = 1_000_000


@define(kw_only=True)
class Product:
    """
    A declared product.

    Attributes:
        dimensions: What may be metered; empty: anything.
        customers: Account ids and customer identifiers to whether they are subscribed; empty:
            anybody is.
        licenses: License ARNs to the account each belongs to; empty: any license is valid.
        public_key_version: Of the product's key pair.
    """

    dimensions: frozenset[str] = frozenset()
    customers: dict[str, bool] = Factory(dict)
    licenses: dict[str, str] = Factory(dict)
    public_key_version: int = 1


@frozen
class _Token:
    product_code: str
    answer: dict[str, Any]
    made: datetime


@define
class Book:
    """
    The memory of the service.

    Until a product is declared, every product, customer and dimension is taken; from then on
    unknown ones are refused.
    """

    rules: Rules = Factory(Rules)
    products: dict[str, Product] = Factory(dict)
    _records: dict[Key, Metered] = field(factory=dict, alias="records")
    _tokens: dict[str, _Token] = Factory(dict)
    _client_tokens: dict[str, tuple[dict[str, Any], str]] = Factory(dict)
    statuses: Counter[str] = field(factory=Counter)

    @property
    def records(self) -> list[Metered]:
        """All records taken, in the order in which they came."""
        return list(self._records.values())

    def __len__(self) -> int:
        """Return how many records were taken."""
        return len(self._records)

    def totals(self, *, by: str = "dimension") -> dict[str, int]:
        """Return the sums of quantities by an attribute of Metered, such as `customer`."""
        sums: Counter[str] = Counter()
        for record in self._records.values():
            sums[str(getattr(record, by))] += record.quantity
        return dict(sorted(sums.items()))

    def differences(self, expected: Mapping[tuple[str, str, datetime], int]) -> list[str]:
        """
        Compare with *expected*, (customer, dimension, hour) to quantity; a line for each gap.

        An empty list means that the book holds exactly what was expected.
        """
        actual: Counter[tuple[str, str, datetime]] = Counter()
        for record in self._records.values():
            actual[record.customer, record.dimension, _hour_of(record.timestamp)] += record.quantity
        lines = []
        for key in sorted(expected.keys() | actual.keys()):
            want, have = expected.get(key), actual.get(key)
            if want != have:
                customer, dimension, hour = key
                place = f"{customer} {dimension} {hour:%Y-%m-%dT%H:00Z}"
                lines.append(f"{place}: expected {_amount(want)}, metered {_amount(have)}")
        return lines

    def assert_metered(self, expected: Mapping[tuple[str, str, datetime], int]) -> None:
        """
        Assert that the book holds exactly *expected*, for tests.

        Args:
            expected: (customer, dimension, any moment of the hour) to quantity.

        Raises:
            AssertionError: with a line for each gap.
        """
        by_hour = {
            (customer, dimension, _hour_of(moment)): quantity
            for (customer, dimension, moment), quantity in expected.items()
        }
        if lines := self.differences(by_hour):
            raise AssertionError("\n  ".join(["the book is not as expected:", *lines]))

    def forget(self) -> None:
        """Forget all records, tokens and counts; declared products stay."""
        self._records.clear()
        self._tokens.clear()
        self._client_tokens.clear()
        self.statuses.clear()

    # BatchMeterUsage

    def batch_meter_usage(
        self,
        request: Mapping[str, Any],
        *,
        now: datetime,
        region: str,
        unprocessed: Iterable[int] = (),
    ) -> dict[str, Any]:
        """Answer BatchMeterUsage; the records at the indices *unprocessed* are left alone."""
        records = request.get("UsageRecords")
        if not isinstance(records, list):
            raise Refusal("ValidationException", "UsageRecords is required and must be a list")
        if len(records) > _MOST_RECORDS:
            raise Refusal("ValidationException", "UsageRecords must have at most 25 elements")
        product_code = _product_code(request)
        keyed = [self._checked(record, product_code, now, region) for record in records]
        self._check_mixture(records)
        if len({key for key, _ in keyed}) < len(keyed):
            raise Refusal("ValidationException", "two records of one customer, dimension and hour")
        left = frozenset(unprocessed)
        results = [
            self._take(records[index], key, metered)
            for index, (key, metered) in enumerate(keyed)
            if index not in left
        ]
        self.statuses.update(result["Status"] for result in results)
        self.statuses["Unprocessed"] += len(left)
        return {
            "Results": results,
            "UnprocessedRecords": [records[i] for i in sorted(left) if i < len(records)],
        }

    def _take(self, record: dict[str, Any], key: Key, metered: Metered) -> dict[str, Any]:
        """Apply one record of a request that breaks no rule."""
        if not self._subscribed(metered):
            return {"UsageRecord": record, "Status": "CustomerNotSubscribed"}
        first = self._records.setdefault(key, metered)
        if first is metered or (self.rules.identical_resend == "success" and _same(first, metered)):
            status = "Success"
        else:
            return {"UsageRecord": record, "Status": "DuplicateRecord"}
        return {
            "UsageRecord": record,
            "MeteringRecordId": first.metering_record_id,
            "Status": status,
        }

    def _checked(
        self, record: object, product_code: str | None, now: datetime, region: str
    ) -> tuple[Key, Metered]:
        if not isinstance(record, dict):
            raise Refusal("SerializationException", "a usage record must be a structure")
        timestamp = _timestamp(record.get("Timestamp"))
        dimension = _text(record, "Dimension", 255)
        quantity = _quantity(record.get("Quantity", 0), "Quantity")
        account, identifier = record.get("CustomerAWSAccountId"), record.get("CustomerIdentifier")
        license_arn = record.get("LicenseArn")
        _check_identity(product_code, account, identifier, license_arn)
        allocations = _allocations(record.get("UsageAllocations"), quantity)
        self._check_catalogue(product_code, dimension, account, identifier, license_arn)
        self._check_window(timestamp, now)
        metered = Metered(
            region=region,
            product_code=product_code,
            license_arn=license_arn,
            customer_aws_account_id=account,
            customer_identifier=identifier,
            dimension=dimension,
            timestamp=timestamp,
            quantity=quantity,
            allocations=allocations,
            metering_record_id=str(uuid.uuid4()),
            received=now,
        )
        seconds = int(timestamp.timestamp())
        unit = seconds // 3600 if self.rules.key_by == "hour" else seconds
        key = (region, product_code, license_arn, account, identifier, dimension, unit)
        return key, metered

    def _check_window(self, timestamp: datetime, now: datetime) -> None:
        month = datetime(now.year, now.month, 1, tzinfo=UTC)
        too_old = now - timestamp >= self.rules.age
        last_month = timestamp < month and now >= month + self.rules.month_end
        if too_old or last_month or timestamp > now + self.rules.future:
            raise Refusal(
                "TimestampOutOfBoundsException", "a timestamp is out of the allowed range"
            )

    def _check_catalogue(
        self,
        product_code: str | None,
        dimension: str,
        account: str | None,
        identifier: str | None,
        license_arn: str | None,
    ) -> None:
        if not self.products:
            return
        if license_arn is not None:
            product = next((p for p in self.products.values() if license_arn in p.licenses), None)
            if product is None or product.licenses[license_arn] != account:
                raise Refusal("InvalidLicenseException", "the license is not valid")
        else:
            product = self.products.get(product_code or "")
            if product is None:
                raise Refusal("InvalidProductCodeException", "the product code is not valid")
            if product.customers and (account or identifier) not in product.customers:
                raise Refusal("InvalidCustomerIdentifierException", "the customer is not known")
        if product.dimensions and dimension not in product.dimensions:
            raise Refusal("InvalidUsageDimensionException", "the dimension is not valid")

    def _check_mixture(self, records: list[dict[str, Any]]) -> None:
        owners = {
            code
            for record in records
            if (arn := record.get("LicenseArn")) is not None
            for code, product in self.products.items()
            if arn in product.licenses
        }
        if len(owners) > 1:
            raise Refusal("InvalidLicenseException", "licenses of more than one product")

    def _subscribed(self, metered: Metered) -> bool:
        product = self.products.get(metered.product_code or "")
        if metered.license_arn is not None:
            owners = (p for p in self.products.values() if metered.license_arn in p.licenses)
            product = next(owners, None)
        return product is None or product.customers.get(metered.customer, True)

    # The other operations

    def meter_usage(
        self, request: Mapping[str, Any], *, now: datetime, region: str, caller: str
    ) -> dict[str, Any]:
        """Answer MeterUsage for the workload *caller*: once an hour and dimension."""
        product_code = _text(request, "ProductCode", 255)
        timestamp = _timestamp(request.get("Timestamp"))
        dimension = _text(request, "UsageDimension", 255)
        quantity = _quantity(request.get("UsageQuantity", 0), "UsageQuantity")
        allocations = _allocations(request.get("UsageAllocations"), quantity)
        token = request.get("ClientToken")
        if token is not None:
            _text(request, "ClientToken", 64)
        self._check_catalogue_of_workload(product_code, dimension)
        if now - timestamp > _METER_WINDOW or timestamp > now + self.rules.future:
            raise Refusal("TimestampOutOfBoundsException", "older than 6 hours, or in the future")
        if request.get("DryRun"):
            raise Refusal("DryRunOperation", "the request would have succeeded", 412)
        plain = {name: value for name, value in request.items() if name != "ClientToken"}
        if token in self._client_tokens:
            earlier, record_id = self._client_tokens[token]
            if earlier != plain:
                raise Refusal("IdempotencyConflictException", "the token had other parameters")
            return {"MeteringRecordId": record_id}
        hour = timestamp.replace(minute=0, second=0, microsecond=0)
        seconds = int(hour.timestamp()) // 3600
        key = (region, product_code, None, None, f"workload {caller}", dimension, seconds)
        metered = Metered(
            region=region,
            product_code=product_code,
            license_arn=None,
            customer_aws_account_id=None,
            customer_identifier=key[4],
            dimension=dimension,
            timestamp=hour,
            quantity=quantity,
            allocations=allocations,
            metering_record_id=str(uuid.uuid4()),
            received=now,
        )
        first = self._records.setdefault(key, metered)
        if first.quantity != quantity:
            raise Refusal("DuplicateRequestException", "the hour has another quantity")
        if token is not None:
            self._client_tokens[token] = (plain, first.metering_record_id)
        return {"MeteringRecordId": first.metering_record_id}

    def register_usage(self, request: Mapping[str, Any]) -> int:
        """Check RegisterUsage and return the public key version to sign for."""
        product_code = _text(request, "ProductCode", 255)
        version = request.get("PublicKeyVersion")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise Refusal("ValidationException", "PublicKeyVersion must be 1 or more")
        if request.get("Nonce") is not None and len(str(request["Nonce"])) > 255:
            raise Refusal("ValidationException", "Nonce must have at most 255 characters")
        self._check_catalogue_of_workload(product_code, None)
        product = self.products.get(product_code)
        if product is not None and version != product.public_key_version:
            raise Refusal("InvalidPublicKeyVersionException", "no such version of the public key")
        return version

    def _check_catalogue_of_workload(self, product_code: str, dimension: str | None) -> None:
        if not self.products:
            return
        product = self.products.get(product_code)
        if product is None:
            raise Refusal("InvalidProductCodeException", "the product code is not valid")
        if dimension is not None and product.dimensions and dimension not in product.dimensions:
            raise Refusal("InvalidUsageDimensionException", "the dimension is not valid")

    def issue_token(
        self,
        product_code: str,
        *,
        now: datetime,
        customer_aws_account_id: str | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        agreement_id: str | None = None,
    ) -> str:
        """Return a registration token, as the buyer's browser brings it; it lives four hours."""
        answer: dict[str, Any] = {
            "CustomerIdentifier": customer_identifier or "",
            "ProductCode": product_code,
            "CustomerAWSAccountId": customer_aws_account_id,
            "LicenseArn": license_arn,
        }
        if agreement_id is not None:
            answer["Metadata"] = {"AgreementId": agreement_id}
        token = f"sandbox-token-{uuid.uuid4().hex}"
        kept = {name: value for name, value in answer.items() if value is not None}
        self._tokens[token] = _Token(product_code, kept, now)
        return token

    def resolve_customer(self, request: Mapping[str, Any], *, now: datetime) -> dict[str, Any]:
        """Answer ResolveCustomer: who is behind a registration token."""
        token = self._tokens.get(_text(request, "RegistrationToken", 10_000))
        if token is None:
            raise Refusal("InvalidTokenException", "the registration token is not valid")
        if now - token.made >= _TOKEN_LIFE:
            raise Refusal("ExpiredTokenException", "the registration token has expired")
        return token.answer


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _amount(quantity: int | None) -> str:
    return "nothing" if quantity is None else str(quantity)


def _same(one: Metered, other: Metered) -> bool:
    return (one.timestamp, one.quantity, one.allocations) == (
        other.timestamp,
        other.quantity,
        other.allocations,
    )


def _product_code(request: Mapping[str, Any]) -> str | None:
    value = request.get("ProductCode")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Refusal("SerializationException", "ProductCode must be a string")
    if not _PRODUCT.fullmatch(value):
        raise Refusal("ValidationException", "ProductCode does not match its pattern")
    return value


def _text(members: Mapping[str, Any], name: str, longest: int) -> str:
    value = members.get(name)
    if value is None:
        raise Refusal("ValidationException", f"{name} is required")
    if not isinstance(value, str):
        raise Refusal("SerializationException", f"{name} must be a string")
    if not 1 <= len(value) <= longest:
        raise Refusal("ValidationException", f"{name} must have 1 to {longest} characters")
    return value


def _timestamp(value: object) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal("SerializationException", "Timestamp must be a number of seconds")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise Refusal("SerializationException", "Timestamp must be seconds since 1970") from None


def _quantity(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refusal("SerializationException", f"{name} must be an integer")
    if not 0 <= value <= _INT32:
        raise Refusal("ValidationException", f"{name} must be 0 to {_INT32}")
    return value


def _check_identity(
    product_code: str | None, account: object, identifier: object, license_arn: object
) -> None:
    _check_id_types(account, identifier, license_arn)
    if account and identifier:
        raise Refusal("ValidationException", "CustomerIdentifier and CustomerAWSAccountId both")
    if license_arn is not None:
        if product_code is not None:
            raise Refusal("ValidationException", "ProductCode and LicenseArn exclude each other")
        if not account:
            raise Refusal("ValidationException", "LicenseArn needs CustomerAWSAccountId")
    elif not account and not identifier:
        raise Refusal("ValidationException", "a customer is required")
    elif product_code is None:
        raise Refusal("InvalidProductCodeException", "ProductCode is required")


def _check_id_types(account: object, identifier: object, license_arn: object) -> None:
    for name, value in (
        ("CustomerAWSAccountId", account),
        ("CustomerIdentifier", identifier),
        ("LicenseArn", license_arn),
    ):
        if value is not None and not isinstance(value, str):
            raise Refusal("SerializationException", f"{name} must be a string")
    if isinstance(account, str) and not _ACCOUNT.fullmatch(account):
        raise Refusal("ValidationException", "CustomerAWSAccountId does not match its pattern")
    if license_arn is not None and not _LICENSE.fullmatch(str(license_arn)):
        raise Refusal("ValidationException", "LicenseArn does not match its pattern")


def _allocations(value: object, quantity: int) -> tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Refusal("SerializationException", "UsageAllocations must be a list")
    if not 1 <= len(value) <= 2500:
        raise Refusal("ValidationException", "UsageAllocations must have 1 to 2500 elements")
    found: dict[frozenset[tuple[str, str]], int] = {}
    for part in value:
        if not isinstance(part, dict):
            raise Refusal("SerializationException", "an allocation must be a structure")
        share = _quantity(part.get("AllocatedUsageQuantity"), "AllocatedUsageQuantity")
        tags = _tags(part.get("Tags"))
        if tags in found:
            raise Refusal("InvalidUsageAllocationsException", "two allocations of one tag set")
        found[tags] = share
    if sum(found.values()) != quantity:
        raise Refusal("InvalidUsageAllocationsException", "the allocations do not add up")
    return tuple(sorted((tuple(sorted(tags)), share) for tags, share in found.items()))


def _tags(value: object) -> frozenset[tuple[str, str]]:
    if value is None:
        return frozenset()
    if not isinstance(value, list):
        raise Refusal("SerializationException", "Tags must be a list")
    if not 1 <= len(value) <= 5:
        raise Refusal("InvalidTagException", "an allocation has 1 to 5 tags")
    tags: set[tuple[str, str]] = set()
    for tag in value:
        if not isinstance(tag, dict):
            raise Refusal("SerializationException", "a tag must be a structure")
        key, text = tag.get("Key"), tag.get("Value")
        if not isinstance(key, str) or not isinstance(text, str):
            raise Refusal("InvalidTagException", "a tag needs Key and Value")
        if not (_TAG.fullmatch(key) and len(key) <= 100 and _TAG.fullmatch(text)):
            raise Refusal("InvalidTagException", "a tag does not match its pattern")
        if len(text) > 256 or key in {known for known, _ in tags}:
            raise Refusal("InvalidTagException", "a tag is too long, or its key is repeated")
        tags.add((key, text))
    return frozenset(tags)
