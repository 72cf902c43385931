"""Posting the form of "Set up your account" to the seller's page, as a buyer's browser does."""

from typing import Final

import aiohttp
from attrs import frozen

from marketplace_metering_async.sandbox.service.resolve_customer import RegistrationForm

_PATIENCE: Final = 30.0
_LARGEST_SHOWN: Final = 2**16


class RegistrationError(RuntimeError):
    """The seller's page could not be reached; the text says why."""


@frozen
class RegistrationResponse:
    """
    What the seller's page answered.

    Attributes:
        status: The HTTP status.
        location: Where it sends the browser on to, if it does; nobody has gone there.
        text: The beginning of the page.
    """

    status: int
    location: str | None
    text: str


async def post_registration(form: RegistrationForm) -> RegistrationResponse:
    """
    Post *form* to the seller's page, and return what it answers.

    Raises:
        RegistrationError: where there is no answer within half a minute.
    """
    patience = aiohttp.ClientTimeout(total=_PATIENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=patience) as browser,
            browser.post(form.url, data=form.fields, allow_redirects=False) as answer,
        ):
            text = (await answer.content.read(_LARGEST_SHOWN)).decode(errors="replace")
            return RegistrationResponse(answer.status, answer.headers.get("Location"), text)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise RegistrationError(f"{form.url}: {why}") from error
