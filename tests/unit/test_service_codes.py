"""What to do about an error code, whether it has a class of its own or not: the next step."""

import pytest

from marketplace_metering_async import service_codes
from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.service_errors import MODELLED_ERRORS

OPERATIONS = ["BatchMeterUsage", "MeterUsage", "RegisterUsage", "ResolveCustomer"]
UNKNOWN = service_codes.advice_on("MoonPhaseException", "MeterUsage", 400)


def error(code: str, operation: str, status: int = 400) -> MarketplaceMeteringException:
    kind = MODELLED_ERRORS.get(code, MarketplaceMeteringException)
    return kind(code, operation=operation, status=status)


@pytest.mark.parametrize("code", sorted({*service_codes.KNOWN, *MODELLED_ERRORS}))
def test_every_code_that_is_known_has_its_own_next_step(code: str) -> None:
    """
    No "look it up". Newcomer M6.
    """
    for operation in OPERATIONS:
        advice = error(code, operation).advice
        assert "does not know the code" not in advice
        assert advice[0].isupper()
        assert advice.endswith(".")
        assert "{" not in advice


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_missing_permission_is_named_as_an_iam_policy_has_it(operation: str) -> None:
    """
    Newcomer M6.
    """
    for code in ("AccessDenied", "AccessDeniedException", "UnauthorizedException"):
        assert f"Allow aws-marketplace:{operation} on *" in error(code, operation, 403).advice


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("UnrecognizedClientException", "AWS_ACCESS_KEY_ID"),
        ("InvalidSignatureException", "AWS_SECRET_ACCESS_KEY"),
        ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("RequestExpired", "clock"),
        ("ExpiredTokenException", "AWS_SESSION_TOKEN"),
        ("InvalidUsageDimensionException", "listing"),
        ("InvalidProductCodeException", "product code"),
        ("DisabledApiException", "region"),
    ],
)
def test_the_next_step_names_what_to_look_at(code: str, names: str) -> None:
    """
    Which key, which listing. Newcomer M6.
    """
    assert names in error(code, "BatchMeterUsage", 403).advice


def test_a_code_that_nobody_knows_leads_to_the_reference() -> None:
    """
    Of the operation that was called.
    """
    assert "reference of MeterUsage" in UNKNOWN


@pytest.mark.parametrize("status", [400, 403, None])
def test_only_a_registration_can_be_too_old_for_a_buyer(status: int | None) -> None:
    """
    The other operations have no such token. Newcomer M4.
    """
    for operation in OPERATIONS:
        stale = service_codes.is_stale_registration("ExpiredTokenException", operation, status)
        assert stale is (operation == "ResolveCustomer" and status != 403)
        assert not service_codes.is_stale_registration("InvalidTokenException", operation, status)
