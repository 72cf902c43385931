"""What to do next, in words of the command line: the package's own advice speaks of Python."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from marketplace_metering_async.errors import (
    CannotResolveError,
    ConfigurationError,
    ConflictingRecordsError,
    EventConflictError,
    EventTooOldError,
    InvalidRecordError,
    InvalidRecordTypeError,
    KeyAlreadySentError,
    LedgerError,
    LedgerMissingError,
    LedgerOutcomeUnknownError,
    LedgerRegionMismatchError,
    MeteringError,
    NoCredentialsError,
    NoRegionError,
)
from marketplace_metering_async.service_errors import ThrottlingException

_FIX: Final = "Fix what the text names and send the line again: nothing of it was sent or stored."
_ADVICE: Final[Mapping[type[MeteringError], str]] = MappingProxyType(
    {
        InvalidRecordError: _FIX,
        InvalidRecordTypeError: _FIX,
        ConfigurationError: "Fix what the text names.",
        NoRegionError: "Give --region, or set AWS_REGION, or set a region in the profile.",
        NoCredentialsError: (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, give --profile, or use a role."
        ),
        ConflictingRecordsError: (
            "Add the lines of an hour up with --coalesce; or decide which one is right, and send "
            "that one."
        ),
        KeyAlreadySentError: (
            "Add the lines of an hour up with --coalesce. What went out first stands."
        ),
        EventConflictError: "Give each line an event id of its own, and repeat it unchanged.",
        EventTooOldError: (
            "Look at `ledger history`: if the usage is surely not in it, add it without an event "
            "id, or a file under another --name. Ids are kept for at least 32 days."
        ),
        CannotResolveError: (
            "Nothing was changed. Look at `ledger history` again: something may have happened "
            "since."
        ),
        LedgerError: "Fix what the text names, and run the same command again.",
        LedgerOutcomeUnknownError: (
            "Run the same command again: a line, or an --event-id, counts once. Look at `ledger "
            "history` before you repeat usage without one."
        ),
        LedgerMissingError: (
            "Check the URL: a relative path starts from the working directory. `ledger add` and "
            "`ledger import` make a new ledger."
        ),
        LedgerRegionMismatchError: (
            "A record sent in a second region is billed a second time. Give the ledger's own "
            "--region and --endpoint-url; another region needs another ledger."
        ),
        ThrottlingException: (
            "Send again later; give a lower --calls-per-second if others use the same quota."
        ),
    }
)


_OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "as_": "--as",
        "at": "--at",
        "before": "--days",
        "client_token": "--client-token",
        "customer_aws_account_id": "--account",
        "customer_identifier": "--customer-identifier",
        "dimension": "--dimension",
        "event_id": "--event-id",
        "hours": "--name",
        "license_arn": "--license-arn",
        "nonce": "--nonce",
        "note": "--note",
        "product_code": "--product-code",
        "public_key_version": "--public-key-version",
        "quantity": "--quantity",
        "registration_token": "TOKEN",
        "taken": "--taken",
        "timestamp": "--timestamp",
        "usage_dimension": "--dimension",
        "usage_quantity": "--quantity",
    }
)
"""What commands call the arguments that they pass on."""
_NO_WORDS: Final = re.compile(rf"\b({'|'.join(name for name in _OPTIONS if '_' in name)})\b")
"""Those that are no words of English, and so stand for the argument wherever they do."""


def as_typed(error: ValueError) -> str:
    """Return what is wrong with arguments, by the names of the options that they came from."""
    if isinstance(error, InvalidRecordError):
        return "; ".join(_by_option(str(one).removeprefix(": ")) for one in error.violations)
    return _by_option(str(error))


def _by_option(text: str) -> str:
    name, colon, rest = text.partition(": ")
    text = f"{_OPTIONS.get(name, name)}{colon}{rest}"
    text = _NO_WORDS.sub(lambda found: _OPTIONS[found[0]], text)
    return text.replace("history()", "`ledger history`").replace("retry()", "`ledger retry`")


def advice_on(error: MeteringError) -> str:
    """Return what to do about *error*."""
    return _ADVICE.get(type(error), error.advice)
