"""Registration tokens: what a buyer's browser brings to the seller's page, and who is behind it."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs
from attrs import Factory, define, frozen

from marketplace_metering_async.sandbox.service.parsing import check_names, text_of
from marketplace_metering_async.sandbox.service.refusals import ANOTHER_SELLER, Refusal
from marketplace_metering_async.sandbox.service.rules import Rules


@frozen(kw_only=True)
class RegistrationToken:
    """
    A token that was issued.

    Attributes:
        token: As the browser brings it.
        answer: What ResolveCustomer says of it.
        issued: When, by the sandbox's clock.
        seller: The account that may resolve it; None: any.
        resolved: How often it was.
    """

    token: str
    answer: dict[str, Any]
    issued: datetime
    seller: str | None = None
    resolved: int = 0


@frozen
class RegistrationForm:
    """
    What the buyer's browser posts when "Set up your account" is clicked.

    Attributes:
        url: The seller's registration page.
        fields: Names and values of the form.
    """

    url: str
    fields: dict[str, str]


@define
class RegistrationTokens:
    """The tokens that were issued."""

    _tokens: dict[str, RegistrationToken] = Factory(dict)

    def __iter__(self) -> Any:  # noqa: ANN401 - an iterator over tokens
        """Iterate over the tokens, oldest first."""
        return iter(self._tokens.values())

    def issue(self, answer: dict[str, Any], *, now: datetime, seller: str | None = None) -> str:
        """Return a new token that resolves to *answer*, by *seller* only if one is given."""
        token = f"sandbox-token-{uuid.uuid4().hex}{uuid.uuid4().hex}"
        self.add(RegistrationToken(token=token, answer=answer, issued=now, seller=seller))
        return token

    def add(self, token: RegistrationToken) -> None:
        """Take note of a token."""
        self._tokens[token.token] = token

    def clear(self) -> None:
        """Forget all."""
        self._tokens.clear()

    def resolve(
        self, request: Mapping[str, Any], *, rules: Rules, now: datetime, seller: str | None = None
    ) -> dict[str, Any]:
        """
        Answer ResolveCustomer, asked by the account *seller* where that is known.

        Raises:
            Refusal: for a token that does not exist, is of another seller, or has expired.
        """
        check_names(request, "ResolveCustomer", rules)
        token = self._tokens.get(text_of(request, "RegistrationToken"))
        if token is None:
            text = "registrationToken: it was never issued"
            raise Refusal("InvalidTokenException", text)
        if seller is not None and token.seller not in (None, seller):
            text = f"registrationToken: {ANOTHER_SELLER.rule}"
            raise Refusal("InvalidTokenException", text, remedy=ANOTHER_SELLER.remedy)
        once = rules.token_use == "once"  # noqa: S105 - a reading, not a token
        used_up = once and token.resolved > 0
        if now - token.issued >= rules.token_life or used_up:
            raise Refusal(
                "ExpiredTokenException",
                "registrationToken: it has expired",
                remedy='Let the buyer click "Set up your account" again.',
            )
        self.add(attrs.evolve(token, resolved=token.resolved + 1))
        return token.answer
