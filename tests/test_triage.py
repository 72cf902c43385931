"""Triage: the whole table, whatever the message says."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async import errors
from marketplace_metering_async.error_kinds import Fault, is_foreign_too_large, leaves_doubt, triage
from marketplace_metering_async.errors import (
    MODELLED_ERRORS,
    InvalidAnswerError,
    MarketplaceMeteringException,
    MeteringError,
    TransportError,
)


def error(code: str, status: int = 400, message: str = "") -> MarketplaceMeteringException:
    kind = MODELLED_ERRORS.get(code, MarketplaceMeteringException)
    return kind(code, message, status=status)


BATCH_FAULTS = {
    "DisabledApiException": Fault.ACCOUNT,
    "InternalServiceErrorException": Fault.SERVICE,
    "InvalidCustomerIdentifierException": Fault.CONTENT,
    "InvalidLicenseException": Fault.STATE,
    "InvalidProductCodeException": Fault.PRODUCT,
    "InvalidTagException": Fault.CONTENT,
    "InvalidUsageAllocationsException": Fault.CONTENT,
    "InvalidUsageDimensionException": Fault.CONTENT,
    "ThrottlingException": Fault.THROTTLE,
    "TimestampOutOfBoundsException": Fault.STATE,
}


@pytest.mark.parametrize(("code", "fault"), BATCH_FAULTS.items())
@given(message=st.text())
def test_modelled_errors_of_the_batch_operation(code: str, fault: Fault, message: str) -> None:
    """
    Each has its fault; its text may be reworded or translated at any time. Covers: S23
    """
    assert fault is triage(error(code, message=message))


@pytest.mark.parametrize(
    ("code", "status", "fault"),
    [
        ("AccessDeniedException", 403, Fault.ACCOUNT),
        ("UnrecognizedClientException", 403, Fault.CREDENTIALS),
        ("InvalidClientTokenId", 403, Fault.CREDENTIALS),
        ("MissingAuthenticationTokenException", 403, Fault.ACCOUNT),
        ("InvalidSignatureException", 403, Fault.CLOCK),
        ("RequestTimeTooSkewed", 403, Fault.CLOCK),
        ("RequestExpired", 400, Fault.CLOCK),
        ("ExpiredTokenException", 403, Fault.CREDENTIALS),
        ("InternalServiceException", 400, Fault.SERVICE),
        ("ServiceUnavailable", 503, Fault.SERVICE),
        ("InternalFailure", 500, Fault.SERVICE),
        ("SlowDown", 503, Fault.SERVICE),
        ("TooManyRequestsException", 429, Fault.THROTTLE),
        ("RequestEntityTooLargeException", 413, Fault.CONTENT),
        ("ValidationException", 400, Fault.UNKNOWN),
        ("MoonPhaseException", 400, Fault.UNKNOWN),
        ("MoonPhaseException", 403, Fault.ACCOUNT),
        ("MoonPhaseException", 429, Fault.THROTTLE),
        ("MoonPhaseException", 500, Fault.SERVICE),
    ],
)
def test_common_errors(code: str, status: int, fault: Fault) -> None:
    """
    AWS's common errors, the misspelled internal error, and codes nobody has heard of.
    """
    assert fault is triage(error(code, status))


def test_expired_token_means_two_things() -> None:
    """
    A stale registration token on ResolveCustomer, stale credentials with 403 anywhere.
    """
    assert Fault.UNKNOWN is triage(error("ExpiredTokenException", 400), "ResolveCustomer")
    assert Fault.CREDENTIALS is triage(error("ExpiredTokenException", 403), "ResolveCustomer")
    assert Fault.CREDENTIALS is triage(error("ExpiredTokenException", 400), "BatchMeterUsage")


@pytest.mark.parametrize("status", range(100, 600))
def test_answers_of_somebody_else_are_faults_on_the_way(status: int) -> None:
    """
    They blame no record, stop nothing and leave doubt; a 413 may mean that less would get through.
    (core F9) Covers: W15, T05
    """
    foreign = InvalidAnswerError("html", status)

    assert Fault.SERVICE is triage(foreign)
    assert leaves_doubt(foreign)
    assert (status == 413) is is_foreign_too_large(foreign)


@pytest.mark.parametrize("code", [*MODELLED_ERRORS, "AccessDenied", "SlowDown", "MoonPhase"])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_5xx_of_the_services_own_leaves_doubt(code: str, status: int) -> None:
    """
    Whatever its code says. (core F9)
    """
    assert Fault.SERVICE is triage(error(code, status))
    assert leaves_doubt(error(code, status))


@pytest.mark.parametrize("code", [*BATCH_FAULTS, "AccessDenied", "SlowDown", "MoonPhase"])
def test_a_4xx_of_the_services_own_leaves_none(code: str) -> None:
    """
    Its own word, with its request id, that it did not act; but for its internal errors.
    """
    refusal = error(code, 400)

    assert (code == "InternalServiceErrorException") is leaves_doubt(refusal)
    assert not is_foreign_too_large(error("RequestEntityTooLargeException", 413))


def test_what_broke_on_the_way() -> None:
    """
    A garbled answer, none, or an exception nobody expected may hide an applied request. (core F9)
    """
    for unknown in (
        TransportError("reset", sent=True),
        InvalidAnswerError("html", 200),
        errors.UnexpectedError("KeyError"),
    ):
        assert Fault.SERVICE is triage(unknown)
        assert leaves_doubt(unknown)
    assert not leaves_doubt(TransportError("refused", sent=False))


def test_every_error_has_advice_and_survives_pickling() -> None:
    """
    Whatever is raised can be logged, copied and sent to another process, with its facts.
    """
    examples: list[MeteringError] = [
        errors.ConflictingRecordsError([1, 2]),
        errors.QuantityOverflowError("x", 2**31),
        errors.RecordOfRefusedKindError("Code", "dimension"),
        errors.NoRegionError(),
        errors.NoCredentialsError(),
        errors.ClientClosedError("closed"),
        TransportError("reset", sent=True),
        InvalidAnswerError("html", 200, "id"),
        errors.DeliveryTimeoutError("over"),
        errors.LeftUnprocessedError(),
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
