"""The ear that listens to the whole test run hears each kind of leak, by each way."""

import logging
import warnings
from pathlib import Path

import pytest
from support.canaries import CUSTOMER_IDENTIFIER, SECRET_ACCESS_KEY, Ear

from marketplace_metering_async import MeteringError
from marketplace_metering_async.aws.sigv4 import Keys
from marketplace_metering_async.events import WarningIssued

LEAKS = {
    "a secret": SECRET_ACCESS_KEY,
    "an account id": "customer 123456789012",
    "a license": "arn:aws:license-manager::123456789012:license:l-0123",
    "a customer": f"{CUSTOMER_IDENTIFIER}2345",
    "a signature": "Signature=" + "0123456789abcdef" * 4,
}


@pytest.mark.parametrize("what", LEAKS)
@pytest.mark.parametrize("way", ["log", "arguments", "exception", "warning", "error", "event"])
def test_the_ear_hears(ear: Ear, what: str, way: str) -> None:
    """
    Whatever must not be said, and by whichever way it is. Covers: A08
    """
    Keys("AKIDEXAMPLE", SECRET_ACCESS_KEY)  # what was signed with is a secret from then on
    text = LEAKS[what]
    match way:
        case "log":
            logging.getLogger("of.some.library").debug("sent %s", text)
        case "arguments":
            logging.getLogger("of.some.library").debug("%s", [text])
        case "exception":
            failure = ValueError(text)
            logging.getLogger("of.some.library").debug("failed", exc_info=failure)
        case "warning":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.warn(text, stacklevel=1)
        case "error":
            MeteringError(text)
        case _:
            WarningIssued(text=text)

    leaks = ear.leaks()
    ear.forget()
    assert any(leak.startswith(what) for leak in leaks)


def test_the_ear_lets_pass_what_may_be_said(ear: Ear, tmp_path: Path) -> None:
    """
    Masked ids, amounts, file names and times are no leaks.
    """
    Keys("AKIDEXAMPLE", SECRET_ACCESS_KEY)
    logging.getLogger("of.some.library").info(
        "25 records of ********9012 at 2026-11-23T12:00:00Z in %s", tmp_path
    )
    assert [] == ear.leaks()
