"""Triage: the whole table, whatever the message says."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async import errors
from marketplace_metering_async.error_kinds import (
    classify,
    is_foreign_too_large,
    may_have_been_applied,
)
from marketplace_metering_async.errors import (
    InvalidResponseError,
    MarketplaceMeteringException,
    MeteringError,
    TransportError,
)
from marketplace_metering_async.service_codes import ErrorKind
from marketplace_metering_async.service_errors import MODELLED_ERRORS, ExpiredTokenException


def error(
    code: str, status: int = 400, message: str = "", operation: str = "BatchMeterUsage"
) -> MarketplaceMeteringException:
    kind = MODELLED_ERRORS.get(code, MarketplaceMeteringException)
    return kind(code, message, operation=operation, status=status)


BATCH_FAULTS = {
    "DisabledApiException": ErrorKind.ACCOUNT,
    "InternalServiceErrorException": ErrorKind.SERVICE,
    "InvalidCustomerIdentifierException": ErrorKind.CONTENT,
    "InvalidLicenseException": ErrorKind.STATE,
    "InvalidProductCodeException": ErrorKind.PRODUCT,
    "InvalidTagException": ErrorKind.CONTENT,
    "InvalidUsageAllocationsException": ErrorKind.CONTENT,
    "InvalidUsageDimensionException": ErrorKind.CONTENT,
    "ThrottlingException": ErrorKind.THROTTLE,
    "TimestampOutOfBoundsException": ErrorKind.STATE,
}


@pytest.mark.parametrize(("code", "fault"), BATCH_FAULTS.items())
@given(message=st.text())
def test_modelled_errors_of_the_batch_operation(code: str, fault: ErrorKind, message: str) -> None:
    """
    Each has its fault; its text may be reworded or translated at any time. Covers: S23
    """
    assert fault is classify(error(code, message=message))


@pytest.mark.parametrize(
    ("code", "status", "fault"),
    [
        ("AccessDeniedException", 403, ErrorKind.ACCOUNT),
        ("UnrecognizedClientException", 403, ErrorKind.CREDENTIALS),
        ("InvalidClientTokenId", 403, ErrorKind.CREDENTIALS),
        ("MissingAuthenticationTokenException", 403, ErrorKind.ACCOUNT),
        ("InvalidSignatureException", 403, ErrorKind.CLOCK),
        ("RequestTimeTooSkewed", 403, ErrorKind.CLOCK),
        ("RequestExpired", 400, ErrorKind.CLOCK),
        ("ExpiredTokenException", 403, ErrorKind.CREDENTIALS),
        ("InternalServiceException", 400, ErrorKind.SERVICE),
        ("ServiceUnavailable", 503, ErrorKind.SERVICE),
        ("InternalFailure", 500, ErrorKind.SERVICE),
        ("SlowDown", 503, ErrorKind.SERVICE),
        ("TooManyRequestsException", 429, ErrorKind.THROTTLE),
        ("RequestEntityTooLargeException", 413, ErrorKind.CONTENT),
        ("ValidationException", 400, ErrorKind.UNKNOWN),
        ("MoonPhaseException", 400, ErrorKind.UNKNOWN),
        ("MoonPhaseException", 403, ErrorKind.ACCOUNT),
        ("MoonPhaseException", 429, ErrorKind.THROTTLE),
        ("MoonPhaseException", 500, ErrorKind.SERVICE),
    ],
)
def test_common_errors(code: str, status: int, fault: ErrorKind) -> None:
    """
    AWS's common errors, the misspelled internal error, and codes nobody has heard of.
    """
    assert fault is classify(error(code, status))


def test_expired_token_means_two_things() -> None:
    """
    A stale registration token on ResolveCustomer, stale credentials with 403 anywhere.
    """
    for operation, status, stale in [
        ("ResolveCustomer", 400, True),
        ("ResolveCustomer", 403, False),
        ("BatchMeterUsage", 400, False),
        ("MeterUsage", 403, False),
    ]:
        expired = error("ExpiredTokenException", status, operation=operation)
        assert isinstance(expired, ExpiredTokenException)
        assert stale is expired.is_stale_registration
        assert (ErrorKind.UNKNOWN if stale else ErrorKind.CREDENTIALS) is classify(expired)
        assert ("buyer" in expired.advice) is stale


@pytest.mark.parametrize("status", range(100, 600))
def test_answers_of_somebody_else_are_faults_on_the_way(status: int) -> None:
    """
    They blame no record, stop nothing and leave doubt; a 413 may mean that less would get through.
    (core F9) Covers: W15, T05
    """
    foreign = InvalidResponseError("html", status)

    assert ErrorKind.SERVICE is classify(foreign)
    assert may_have_been_applied(foreign)
    assert (status == 413) is is_foreign_too_large(foreign)


@pytest.mark.parametrize("code", [*MODELLED_ERRORS, "AccessDenied", "SlowDown", "MoonPhase"])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_5xx_of_the_services_own_leaves_doubt(code: str, status: int) -> None:
    """
    Whatever its code says. (core F9)
    """
    assert ErrorKind.SERVICE is classify(error(code, status))
    assert may_have_been_applied(error(code, status))


@pytest.mark.parametrize("code", [*BATCH_FAULTS, "AccessDenied", "SlowDown", "MoonPhase"])
def test_a_4xx_of_the_services_own_leaves_none(code: str) -> None:
    """
    Its own word, with its request id, that it did not act; but for its internal errors.
    """
    refusal = error(code, 400)

    assert (code == "InternalServiceErrorException") is may_have_been_applied(refusal)
    assert not is_foreign_too_large(error("RequestEntityTooLargeException", 413))


def test_what_broke_on_the_way() -> None:
    """
    A garbled answer, none, or an exception nobody expected may hide an applied request. (core F9)
    """
    for unknown in (
        TransportError("reset", sent=True),
        InvalidResponseError("html", 200),
        errors.UnexpectedError("KeyError"),
    ):
        assert ErrorKind.SERVICE is classify(unknown)
        assert may_have_been_applied(unknown)
    assert not may_have_been_applied(TransportError("refused", sent=False))


def test_every_error_has_advice_and_survives_pickling() -> None:
    """
    Whatever is raised can be logged, copied and sent to another process, with its facts.
    """
    examples: list[MeteringError] = [
        errors.ConflictingRecordsError([1, 2]),
        errors.QuantityOverflowError("x", 2**31),
        errors.SimilarRecordRefusedError("Code", "dimension"),
        errors.NoRegionError(),
        errors.NoCredentialsError(),
        errors.ClientClosedError("closed"),
        TransportError("reset", sent=True),
        InvalidResponseError("html", 200, "id"),
        errors.DeliveryTimeoutError("over"),
        errors.NotProcessedError(),
        errors.UnexpectedError("KeyError"),
        errors.RecordNotMeteredError(3, "Rejected", "Mend it."),
        errors.InvalidRecordError([errors.Violation("a", "b", "c")]),
        *(kind(name, "text", status=400, request_id="r") for name, kind in MODELLED_ERRORS.items()),
    ]

    for original in examples:
        for twin in (copy.copy(original), pickle.loads(pickle.dumps(original))):  # noqa: S301
            assert type(original) is type(twin)
            assert str(original) == str(twin)
            assert vars(original) == vars(twin)
        assert original.advice


def test_the_services_text_stays_out_of_ours() -> None:
    """
    It may name a customer, or hold anything. Covers: A17
    """
    refusal = error("InvalidTagException", message="customer CANARY-12345 is bad")

    assert "CANARY" not in f"{refusal} {refusal!r}"
    assert "CANARY" in refusal.message
