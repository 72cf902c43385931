"""MarketplaceMeteringClient: validate, plan, send, merge; and the three operations beside."""

import asyncio
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from uuid import uuid4

from marketplace_metering_async import limits, rules
from marketplace_metering_async.aws import wire
from marketplace_metering_async.aws.connection import RepairedError, ServiceConnection
from marketplace_metering_async.aws.endpoints import Endpoint
from marketplace_metering_async.aws.signing import Signer
from marketplace_metering_async.aws.transport import Transport
from marketplace_metering_async.clock import Clock, SystemClock
from marketplace_metering_async.delivery.batch import Batch, require_iterable
from marketplace_metering_async.delivery.call import Shared
from marketplace_metering_async.delivery.stream import Stream
from marketplace_metering_async.errors import (
    DeliveryTimeoutError,
    InvalidResponseError,
    MeteringError,
)
from marketplace_metering_async.events import LoggingObserver, Observer
from marketplace_metering_async.flow.pacing import AdaptivePacer, Pacer
from marketplace_metering_async.flow.permits import CallPermits
from marketplace_metering_async.flow.retries import RetryPolicy, retrying
from marketplace_metering_async.quantities import kept
from marketplace_metering_async.records import (
    UsageAllocation,
    UsageRecord,
    allocation_violations,
    allocations_tuple,
    quantity_members,
    travel_whole,
    utc_of,
    whole_utc_seconds,
)
from marketplace_metering_async.results import (
    BatchMeterUsageResult,
    MeterUsageResult,
    RecordResult,
    RegisterUsageResult,
    ResolveCustomerResult,
)

if TYPE_CHECKING:
    from aiobotocore.session import AioSession

_Result = TypeVar("_Result")

RecordLike = UsageRecord | Mapping[str, Any]
"""What may be handed in for a record: a UsageRecord, or a mapping as boto3 takes it."""


class MarketplaceMeteringClient:
    """
    A client of the AWS Marketplace Metering Service, for one region and one event loop.

    Making one does no I/O and needs no running loop; the first call finds credentials and region
    the way every AWS SDK does. Use it with `async with`, or `await aclose()` at the end, and keep
    one for the life of the program: its calls share connections, quota and clock.
    """

    SERVICE_NAME: ClassVar[str] = limits.SERVICE_NAME

    def __init__(
        self,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        profile_name: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        session: "AioSession | None" = None,
        calls_per_second: float | None = limits.CALLS_PER_SECOND,
        max_concurrency: int = 32,
        retry: RetryPolicy | None = None,
        pacer: Pacer | None = None,
        observer: Observer | None = None,
        clock: Clock | None = None,
        transport: Transport | None = None,
        random: Random | None = None,
    ) -> None:
        """
        Note the settings; nothing is looked up before the first call.

        Args:
            region_name: The AWS region; by default that of environment or profile.
            endpoint_url: Another endpoint, such as the sandbox's; plain HTTP on loopback only.
            profile_name: A profile of the shared config.
            aws_access_key_id: With the secret key: credentials in place of those found.
            aws_secret_access_key: See above.
            aws_session_token: The token of temporary credentials.
            session: An aiobotocore session of yours, for credentials and config; never closed.
            calls_per_second: The account's quota for BatchMeterUsage; None: no limit but what
                throttling teaches. Unused with *pacer*.
            max_concurrency: The most requests on the wire at once.
            retry: When to send again and when to give up.
            pacer: A pacer of yours, to share a quota between clients.
            observer: Gets every event; by default the package's logger.
            clock: A clock of yours, for tests.
            transport: A transport of yours, for tests; never closed.
            random: Where jitter comes from, for tests.

        Raises:
            TypeError: for a setting of another type than is said here.
            ValueError: for a rate or a concurrency that is not above 0, an infinite rate, or half a
                call at once; for an empty region, URL or profile, as of a variable that is not set.
        """
        rules.require_count("max_concurrency", max_concurrency)
        rules.require_place("region_name", region_name)
        rules.require_place("endpoint_url", endpoint_url)
        rules.require_place("profile_name", profile_name)
        rules.require_optional("retry", retry, RetryPolicy)
        rules.require_optional("pacer", pacer, Pacer)
        rules.require_optional("observer", observer, Observer)
        rules.require_optional("clock", clock, Clock)
        rules.require_optional("transport", transport, Transport)
        rules.require_optional("random", random, Random)
        policy = RetryPolicy() if retry is None else retry
        self._connection = ServiceConnection(
            signer=Signer(
                region_name=region_name,
                endpoint_url=endpoint_url,
                profile_name=profile_name,
                aws_access_key_id=aws_access_key_id,
                aws_secret_access_key=aws_secret_access_key,
                aws_session_token=aws_session_token,
                session=session,
            ),
            transport=transport,
            clock=SystemClock() if clock is None else clock,
            observer=LoggingObserver() if observer is None else observer,
            attempt_timeout=policy.attempt_timeout,
            max_concurrency=max_concurrency,
        )
        if pacer is None:
            pacer = AdaptivePacer(calls_per_second, burst=limits.CALL_BURST)
        self._shared = Shared(
            connection=self._connection,
            permits=CallPermits(pacer, self._connection.clock, max_concurrency),
            policy=policy,
            random=Random() if random is None else random,
        )

    @property
    def retry(self) -> RetryPolicy:
        """When it sends again and when it gives up."""
        return self._shared.policy

    async def endpoint(self) -> Endpoint:
        """
        Return the URL and region that requests go to, found as the first call would.

        Raises:
            ClientClosedError, ConfigurationError: as `batch_meter_usage`.
        """
        return await self._connection.open()

    async def batch_meter_usage(
        self,
        records: Iterable[RecordLike] | AsyncIterable[RecordLike],
        *,
        product_code: str | None = None,
        timeout: float | None = None,
    ) -> BatchMeterUsageResult:
        """
        Meter *records*, any number of them, and return one result for each, in their order.

        Records are validated, grouped by product, sent in chunks of at most 25, and sent again
        until each has a verdict or the retry policy gives up. A record that fails is a result and
        not an exception; look at the results, or call `raise_for_failures()` on them.

        Cancelling stops what has not started and leaves nothing running, but the verdicts known
        by then are lost to you although records may be metered. Use *timeout* instead.

        Args:
            records: UsageRecord objects or mappings as boto3 takes them.
            product_code: The product of all records that name none.
            timeout: Seconds from the call on, reading and finding credentials included, after
                which nothing new starts; requests on the wire are awaited, every verdict known is
                returned, and the rest is Unprocessed, or Unconfirmed where an attempt had no
                response. What an asynchronous source did not give by then has no result.

        Raises:
            TypeError, ValueError: if *records* is no iterable, *product_code* no text, or
                *timeout* no number.
            ClientClosedError: after aclose(), or on another event loop or in a forked process.
            ConfigurationError: no region, no credentials, or an endpoint that cannot be used.
        """
        require_iterable(records)
        rules.require_optional("product_code", product_code, str)
        rules.require_optional_timeout(timeout)
        self._connection.require_home()
        batch = Batch(self._shared, product_code=product_code)
        return await batch.deliver(records, timeout)

    def iter_batch_meter_usage(
        self,
        records: Iterable[RecordLike] | AsyncIterable[RecordLike],
        *,
        product_code: str | None = None,
        stop: asyncio.Event | None = None,
        linger: float = 1.0,
    ) -> AsyncGenerator[RecordResult, None]:
        """
        Meter a stream of *records* in flat memory, and yield a result for each as chunks end.

        Sending starts before the source ends, and the source is held back while the service, or
        whoever takes the results, is slow. A record goes as soon as its request is full, or has
        waited for *linger* seconds. Results come in the order in which they are known; `position`
        tells which record each is of. If the source raises, what was read is still
        delivered, all results come out, and then the error does. KeyboardInterrupt and SystemExit
        end the event loop at once, as everywhere in asyncio: what was read has no results then.

        Records of one key are compared while they are in flight; beyond that the service's
        `DuplicateRecord` speaks. Closing the iterator early, or cancelling one of its steps (as a
        time limit on it does), ends it: that stops what has not started, and leaves nothing
        running; verdicts that were not taken are lost.

        Set *stop* to end it and lose none: nothing more is read and nothing new starts, requests
        on the wire are awaited, and every record that was read gets its result, be it Unprocessed
        or, where an attempt had no response, Unconfirmed.

        What the account is at fault for (a product, the credentials) stops, and is tried again
        every minute; records that come meanwhile are Unprocessed.

        Args:
            records: UsageRecord objects or mappings as boto3 takes them.
            product_code: The product of all records that name none.
            stop: Set it to end the stream.
            linger: Seconds that a record waits for company at the most.

        Raises:
            TypeError, ValueError: as `batch_meter_usage`; for a *stop* that is no asyncio.Event, or
                a linger that is no number, or negative.

        Raises, at the first step: as `batch_meter_usage`; RuntimeError for a *stop* that waits on
            another event loop.
        """
        require_iterable(records)
        rules.require_optional("product_code", product_code, str)
        rules.require_optional("stop", stop, asyncio.Event)
        stream = Stream(self._shared, records, product_code=product_code, linger=linger, stop=stop)
        return stream.results()

    async def meter_usage(
        self,
        *,
        product_code: str,
        timestamp: datetime,
        usage_dimension: str,
        usage_quantity: int | Decimal | str,
        dry_run: bool = False,
        usage_allocations: Iterable[UsageAllocation] = (),
        client_token: str | None = None,
        timeout: float = 10.0,
    ) -> MeterUsageResult:
        """
        Meter the usage of software in the buyer's account (AMI, container, AgentCore).

        The service floors the timestamp to the hour, takes one record an hour and dimension, and
        none older than 6 hours. A client token is made once a call and kept over retries, so that
        a repetition counts once. Source: API_marketplace-metering_MeterUsage.

        Args:
            product_code: The product.
            timestamp: When it was used; aware.
            usage_dimension: One of the product's dimensions.
            usage_quantity: As the quantity of a UsageRecord: exact, so never a float.
            dry_run: Only ask whether the call would be allowed; that it would be is a result,
                whether the service says so with a response or with the error DryRunOperation.
            usage_allocations: How the quantity splits by tags.
            client_token: Yours, of 1 to 64 characters, to repeat a request of earlier. Without one,
                that of the call is the result's, or stands in a note of the error; give one where a
                call that was cancelled is to be repeated.
            timeout: Seconds, from the call on, after which no further attempt starts.

        Raises:
            InvalidRecordError: an argument breaks a rule of the service; nothing was sent.
            TypeError, ValueError: if *timeout* is no number, or *dry_run* no bool; nothing was
                sent.
            MarketplaceMeteringException: the service refused, under its own name.
            TransportError: no response; with the same client token it may be sent again. With
                another one it may count twice (on AgentCore).
            InvalidResponseError: a response that is none of the service's.
            DeliveryTimeoutError: no credentials within *timeout*, or none is left; not sent.
            ClientClosedError, ConfigurationError: as `batch_meter_usage`.

        Cancelling leaves open whether the usage is metered.
        """
        rules.require_kind("dry_run", dry_run, bool)
        token = str(uuid4()) if client_token is None else client_token
        allocations, quantity = allocations_tuple(usage_allocations), kept(usage_quantity)
        moment = whole_utc_seconds(timestamp)
        rules.raise_if_any(
            rules.product_code(product_code)
            + rules.timestamp("timestamp", moment)
            + rules.text("usage_dimension", usage_dimension)
            + rules.quantity("usage_quantity", quantity)
            + rules.text("client_token", token, longest=limits.MAX_CLIENT_TOKEN)
            + allocation_violations(quantity, allocations)
        )
        members: dict[str, Any] = {
            "ProductCode": product_code,
            "Timestamp": int(moment.timestamp()),
            "UsageDimension": usage_dimension,
            **quantity_members(
                "UsageQuantity", quantity, allocations, whole=travel_whole(quantity, allocations)
            ),
            "ClientToken": token,
        }
        if dry_run:
            members["DryRun"] = True

        def result(found: Mapping[str, Any], request_id: str | None) -> MeterUsageResult:
            record_id = None if dry_run else _text(found, "MeteringRecordId", request_id)
            return MeterUsageResult(
                metering_record_id=record_id,
                dry_run=dry_run,
                client_token=token,
                request_id=request_id,
            )

        try:
            return await self._call("MeterUsage", members, timeout, result)
        except MeteringError as error:
            if dry_run and getattr(error, "code", None) == "DryRunOperation":
                return result({}, getattr(error, "request_id", None))
            error.add_note(f"to repeat this very request, give client_token={token!r}")
            raise

    async def register_usage(
        self,
        *,
        product_code: str,
        public_key_version: int,
        nonce: str | None = None,
        timeout: float = 10.0,
    ) -> RegisterUsageResult:
        """
        Register a paid container at its start, so that AWS meters it by the second.

        Source: API_marketplace-metering_RegisterUsage. At start-up, stop the container for any
        error but throttling.

        Args:
            product_code: The product.
            public_key_version: Of the product's key pair, from 1.
            nonce: At most 255 characters, echoed in the signature against replays.
            timeout: Seconds, from the call on, after which no further attempt starts.

        Raises: as `meter_usage`. Cancelling leaves open whether the container is registered.
        """
        rules.raise_if_any(
            rules.product_code(product_code)
            + rules.key_version("public_key_version", public_key_version)
            + (() if nonce is None else rules.text("nonce", nonce))
        )
        members: dict[str, Any] = {
            "ProductCode": product_code,
            "PublicKeyVersion": public_key_version,
        }
        if nonce is not None:
            members["Nonce"] = nonce
        return await self._call("RegisterUsage", members, timeout, _registered)

    async def resolve_customer(
        self, registration_token: str, *, timeout: float = 10.0
    ) -> ResolveCustomerResult:
        """
        Return who is behind the token that AWS Marketplace posted to the registration page.

        Source: API_marketplace-metering_ResolveCustomer. The token lives four hours; form-decode
        it once. Keep it out of cookies and logs.

        Args:
            registration_token: The form field `x-amzn-marketplace-token`.
            timeout: Seconds, from the call on, after which no further attempt starts.

        Raises: as `meter_usage`. Cancelling changes nothing: the call only reads.
        """
        rules.raise_if_any(
            rules.text("registration_token", registration_token, longest=100_000, masked=True)
        )
        members = {"RegistrationToken": registration_token}
        return await self._call("ResolveCustomer", members, timeout, _resolved)

    @staticmethod
    def service_metadata() -> limits.ServiceMetadata:
        """Return the service's names, regions and hosts, without asking it."""
        return limits.service_metadata()

    async def _call(
        self,
        operation: str,
        members: Mapping[str, Any],
        timeout: float,
        result: Callable[[Mapping[str, Any], str | None], _Result],
    ) -> _Result:
        """
        One call of an operation without a batch, sent again while that is worth it.

        Returns: the *result* of what the response says, and of the service's id of the request.
        """
        rules.require_timeout(timeout)
        connection, clock, body = self._connection, self._connection.clock, wire.dumps(members)
        end = clock.monotonic() + timeout
        lacking = "no credentials within the time allowed" if timeout > 0 else "no time was allowed"
        failure: MeteringError = DeliveryTimeoutError(f"{lacking}; nothing was sent")

        async def attempt() -> _Result:
            """Send it, and once more after a repair; the time is over unless it leaves by then."""
            nonlocal failure
            for _ in range(2):
                if clock.monotonic() >= end:
                    break
                try:
                    async with asyncio.timeout(end - clock.monotonic()) as limit:
                        await connection.open()
                        leaving = partial(limit.reschedule, None)
                        response = await connection.call(operation, body, leaving=leaving)
                        return result(wire.decode(response.body), response.request_id)
                except RepairedError as repaired:
                    failure = repaired.error
                except MeteringError as error:
                    failure = error
                    raise
                except TimeoutError:  # but what left earlier may have been acted upon
                    break
            raise failure

        policy, random = self._shared.policy, self._shared.random
        return await retrying(policy, clock=clock, random=random, end=end)(attempt)

    async def aclose(self) -> None:
        """
        Close the connections; calling it again does nothing.

        Deliveries under way start no further attempt; their open records are Unprocessed, or
        Unconfirmed where an attempt has no response. What was handed in stays open.

        Raises:
            ClientClosedError: in a forked process, or on another event loop while its own is open.
        """
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the client."""
        await self.aclose()

    def __repr__(self) -> str:
        """Return nothing secret."""
        return f"<{type(self).__name__} {'open' if self._connection.is_open else 'not open'}>"

    def __del__(self) -> None:
        """Warn of a client that nobody closed."""
        connection = getattr(self, "_connection", None)
        if connection is not None and connection.is_open:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)


def shared_of(client: MarketplaceMeteringClient) -> Shared:
    """Return what the deliveries of *client* have in common, for the doors beside its own."""
    return client._shared  # noqa: SLF001


def _registered(found: Mapping[str, Any], request_id: str | None) -> RegisterUsageResult:
    return RegisterUsageResult(
        signature=_text(found, "Signature", request_id),
        public_key_rotation_timestamp=_moment(found.get("PublicKeyRotationTimestamp")),
        request_id=request_id,
    )


def _resolved(found: Mapping[str, Any], request_id: str | None) -> ResolveCustomerResult:
    account = _name(found, "CustomerAWSAccountId")
    identifier = _name(found, "CustomerIdentifier")
    if account is None and identifier is None:
        raise InvalidResponseError("no customer in the response", 200, request_id)
    metadata = found.get("Metadata")
    return ResolveCustomerResult(
        customer_identifier=identifier,
        customer_aws_account_id=account,
        license_arn=_name(found, "LicenseArn"),
        product_code=_name(found, "ProductCode"),
        agreement_id=_name(metadata, "AgreementId") if isinstance(metadata, dict) else None,
        request_id=request_id,
    )


def _text(members: Mapping[str, Any], member: str, request_id: str | None) -> str:
    value = _name(members, member)
    if value is None:
        raise InvalidResponseError(f"no {member} in the response", 200, request_id)
    return value


def _name(members: Mapping[str, Any], member: str) -> str | None:
    """Return a text that a response has to say; an empty one, or a number, says nothing."""
    value = members.get(member)
    return value if value and isinstance(value, str) else None


def _moment(value: object) -> datetime | None:
    """Read the service's timestamp; one that no calendar has does not undo what was done."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    try:
        return utc_of(float(value))
    except (ValueError, OverflowError):
        return None
