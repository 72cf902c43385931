"""
Whatever a test makes the package say is listened to, and searched for what must not be said.

Heard are log records of every logger and level, warnings, events told to observers, and the texts
of the package's errors at the moment they are made. Searched for are the secrets that were signed
with, signatures, and whole account ids, customer ids and license ARNs.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

from marketplace_metering_async import errors, events
from marketplace_metering_async.aws.sigv4 import Keys

ACCESS_KEY_ID: Final = "AKIACANARYCANARY0001"
SECRET_ACCESS_KEY: Final = "canary/secret+access/key/of/forty/signs0"
SESSION_TOKEN: Final = "canary-session-token-of-a-role-that-was-assumed"
CUSTOMER_IDENTIFIER: Final = "canaryCUST1"
"""What a legacy customer's identifier begins with."""

_LONG_ENOUGH: Final = 12
"""Characters from which a secret is looked for: tests that need none say `secret`."""

_NEVER: Final = {
    "an account id": re.compile(r"(?<![\w.-])\d{12}(?![\w.-])"),
    "a license": re.compile(r"arn:aws[\w-]*:license-manager:[\w-]*:\d{12}:license:l-\w"),
    "a customer": re.compile(CUSTOMER_IDENTIFIER + r"\w"),
    "a signature": re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])"),
}
_NOT_OURS: Final = ("boto3", "botocore", "urllib3", "s3transfer")
"""Loggers of other clients that tests call as witnesses; they log what they send."""


class Ear(logging.Handler):
    """Hears what is said, and remembers each text once."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.heard: dict[str, str] = {}  # text → by which way it came
        self.secrets: set[str] = set()

    def hear(self, way: str, text: str) -> None:
        """Remember *text*."""
        self.heard.setdefault(text, way)

    def emit(self, record: logging.LogRecord) -> None:
        """Remember a log record, its exception and whatever was hung on it."""
        if record.name.partition(".")[0] not in _NOT_OURS:
            self.hear(f"log of {record.name}", f"{self.format(record)} {record.args!r}")

    def keep(self, keys: Keys) -> None:
        """Remember what must not be said."""
        parts = (keys.access_key_id, keys.secret_access_key, keys.session_token)
        self.secrets |= {part for part in parts if part and len(part) >= _LONG_ENOUGH}

    def forget(self) -> None:
        """Begin anew."""
        self.heard.clear()
        self.secrets.clear()

    def leaks(self) -> list[str]:
        """Return every text that says what it must not, with what that is."""
        found = []
        for text, way in self.heard.items():
            said = ["a secret"] if any(secret in text for secret in self.secrets) else []
            said += [name for name, pattern in _NEVER.items() if pattern.search(text)]
            found += [f"{what} in {way}: {text}" for what in said]
        return found


@contextmanager
def listening() -> Iterator[Ear]:
    """Listen to everything for as long as this is open."""
    ear = Ear()
    root = logging.getLogger()
    undo: list[Callable[[], None]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        own = vars(owner).get(name)
        setattr(owner, name, value)
        undo.append(
            (lambda: delattr(owner, name)) if own is None else (lambda: setattr(owner, name, own))
        )

    for error in _family(errors.MeteringError):
        put(error, "__init__", _heard_when_made(error, ear))
    for event in events.Event.__args__:
        put(event, "__init__", _heard_when_made(event, ear))
    put(Keys, "__init__", _kept_when_made(ear))
    put(warnings, "warn", _heard_when_warned(ear))
    root.addHandler(ear)
    try:
        yield ear
    finally:
        root.removeHandler(ear)
        for step in reversed(undo):
            step()


def _family(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def _heard_when_made(kind: type[Any], ear: Ear) -> Callable[..., None]:
    """Return an `__init__` after which the new object's texts are heard."""
    make = kind.__init__

    @wraps(make)
    def init(self: Any, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        if type(self) is kind:  # not while a child's part is still to come
            said = f"{self} {self!r}" if isinstance(self, Exception) else repr(self)
            ear.hear(f"a {kind.__name__}", said)

    return init


def _kept_when_made(ear: Ear) -> Callable[..., None]:
    """Return an `__init__` that keeps what must not be said, refused keys among it."""
    make = Keys.__init__

    @wraps(make)
    def init(self: Keys, *arguments: Any, **named: Any) -> None:
        try:
            make(self, *arguments, **named)
        finally:
            ear.keep(self)

    return init


def _heard_when_warned(ear: Ear) -> Callable[..., None]:
    warn = warnings.warn

    @wraps(warn)
    def heard(message: Any, *arguments: Any, **named: Any) -> None:
        ear.hear("a warning", str(message))
        named["stacklevel"] = named.get("stacklevel", 1) + 1
        warn(message, *arguments, **named)

    return heard
