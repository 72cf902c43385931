"""Who may talk to the sandbox: names of this machine, and no page of another site."""

import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

_HOST: Final = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_TOKEN: Final = re.compile(r"[!-~]+")
_HTTP_PORT: Final = 80
TOKEN_HEADER: Final = "X-Sandbox-Token"  # noqa: S105 - its name, not a token

ANSWER_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of everything that a browser may look at."""

PAGE_HEADERS: Final[Mapping[str, str]] = {
    **ANSWER_HEADERS,
    # Forms may go anywhere: "Set up your account" posts to the seller's own page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action http: https:; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
}
"""Of the page: nothing from elsewhere, nothing inline, no markup made from strings."""


class Forbidden(Exception):  # noqa: N818 - an answer, not a failure of the sandbox
    """A request that is not for us, with the reason as its text."""


class Guard:
    """
    Refuses what a foreign page, or a foreign name for this machine, sends.

    A page of another site can make a browser send requests to loopback, and by DNS rebinding even
    under that site's own name. So the Host header must name loopback and our port, read as an
    address and never by its beginning (`127.evil.example`), and an Origin must be ours to the
    letter.

    Attributes:
        token: What the controls ask for, where more than loopback is let in, or one was given;
            otherwise None.
    """

    def __init__(self, open_to: Iterable[str] = (), token: str | None = None) -> None:
        """
        Let in loopback, and *open_to*.

        Args:
            open_to: Further hosts, as `name` (any port) or `name:port`; `localhost:9000` lets in
                a forwarded port.
            token: What the controls ask for; by default a new one, where there is *open_to*.

        Raises:
            ValueError: for a host that is none, or a token that no header can carry.
        """
        self._open_to = frozenset(_plain(host) for host in open_to)
        if token is not None and _TOKEN.fullmatch(token) is None:
            raise ValueError("token: expected letters, digits and signs of ASCII, without blanks")
        self.token = token or (secrets.token_urlsafe(24) if self._open_to else None)

    def check(self, headers: Mapping[str, str], port: int) -> None:
        """
        Let a request pass that came in at *port*.

        Raises:
            Forbidden: for a foreign Host, or a page of another site.
        """
        host = headers.get("Host", "")
        if not self.knows(host, port):
            raise Forbidden("the sandbox answers to loopback names only (see open_to=)")
        origin = headers.get("Origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise Forbidden("the sandbox does not answer other sites")
        # A link on another site may open the page, and no more than that.
        opens = headers.get("Sec-Fetch-Mode") == "navigate" and origin is None
        if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and not opens:
            raise Forbidden("the sandbox does not answer other sites")

    def check_controls(self, headers: Mapping[str, str]) -> None:
        """
        Let a request pass to the controls, or to anything else that tells what is in the sandbox.

        Raises:
            Forbidden: without the token, where one is asked for; for a navigation from elsewhere.
        """
        if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise Forbidden("the sandbox's controls do not answer other sites")
        if self.token is None:
            return
        given = headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(errors="surrogatepass"), self.token.encode()):
            raise Forbidden(f"send the sandbox's token as {TOKEN_HEADER}")

    def knows(self, host: str, port: int) -> bool:
        """Return whether a Host header names loopback at *port*, or what is let in."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].lower()
        named_port = int(match["port"] or _HTTP_PORT)
        if name in self._open_to or f"{name}:{named_port}" in self._open_to:
            return True
        return is_loopback(name) and named_port == port


def _plain(host: str) -> str:
    if _HOST.fullmatch(host) is None:
        raise ValueError(f"open_to: expected `name` or `name:port`, got {host!r}")
    return host.lower()


def is_unspecified(host: str) -> bool:
    """Return whether who listens at *host* listens at every address of the machine."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


@lru_cache(64)
def is_loopback(name: str) -> bool:
    """Return whether a host's *name*, without port, means this machine."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
