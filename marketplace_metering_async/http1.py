"""
An answer of HTTP/1.1, read as its bytes come in (RFC 9112), without sockets or time.

Strict where a lenient reader would guess: what is no answer of HTTP/1 raises, and a connection
whose state is in doubt is not kept.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from marketplace_metering_async.errors import InvalidAnswerError
from marketplace_metering_async.transport import COMPRESSED, LARGEST_ANSWER, TOO_LARGE, Response

_LARGEST_HEAD: Final = 2**16
_LARGEST_CHUNK_LINE: Final = 2**12
_STATUS_LINE: Final = re.compile(r"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: .*)?", re.ASCII)
_CHUNK_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;|$)")
_BODILESS: Final = (101, 204, 304)


class NoHttpError(Exception):
    """What came is no HTTP."""


class Headers(Mapping[str, str]):
    """Headers by names of any letter case."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, str]) -> None:
        """Take *values* by their names in lower case."""
        self._values = values

    def __getitem__(self, name: str) -> str:
        """Return the value of a header."""
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in lower case."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return how many headers there are."""
        return len(self._values)


class AnswerReader:
    """
    Reads one answer: `feed` it what comes, until it is `complete`.

    Attributes:
        status: The HTTP status, or 0 while the head is not there yet.
        headers: The headers, by their names in lower case.
        complete: Whether the answer is whole.
        reusable: Whether the connection may carry another request once it is.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self.reusable = True
        self._buffer = bytearray()
        self._length: int | None = None  # of the body; None: chunks, or until the end
        self._chunked = False
        self._chunks = bytearray()

    def feed(self, data: bytes | memoryview) -> None:
        """
        Take bytes in.

        Raises:
            NoHttpError: if they are no answer of HTTP/1.
            InvalidAnswerError: if the answer is compressed, or larger than any of the service's.
        """
        self._buffer += data
        if not self.status and not self._read_head():
            return
        if self._chunked:
            self._read_chunks()
        elif self._length is not None:
            self.complete = len(self._buffer) >= self._length
            self.reusable &= len(self._buffer) <= self._length
        elif len(self._buffer) > LARGEST_ANSWER:
            raise InvalidAnswerError(TOO_LARGE, self.status)

    def end(self) -> bool:
        """Note that nothing more will come; return whether the answer is whole."""
        self.reusable = False
        if self.status and self._length is None and not self._chunked:
            self.complete = True
        return self.complete

    def response(self) -> Response:
        """Return the answer, once it is complete."""
        body = self._chunks if self._chunked else self._buffer
        return Response(self.status, Headers(self.headers), bytes(body[: self._length]))

    def _read_head(self) -> bool:
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            start, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            del self._buffer[: end + 4]
            matched = _STATUS_LINE.fullmatch(start)
            if matched is None or end > _LARGEST_HEAD:
                raise NoHttpError
            status = int(matched[2])
            if 100 <= status < 200 and status != 101:
                continue  # an interim answer
            self.status = status
            self._read_headers(lines)
            self._frame(version=matched[1])
            return True
        expected = b"HTTP/1."
        if len(self._buffer) > _LARGEST_HEAD or self._buffer[:7] != expected[: len(self._buffer)]:
            raise NoHttpError
        return False

    def _read_headers(self, lines: list[str]) -> None:
        headers = self.headers
        for line in lines:
            name, colon, value = line.partition(":")
            name, value = name.lower(), value.strip()
            if not colon or not name or name != name.strip():
                raise NoHttpError
            if name in headers and (name, value) != ("content-length", headers[name]):
                value = f"{headers[name]}, {value}"
            headers[name] = value

    def _frame(self, version: str) -> None:
        """Find out where the body ends."""
        headers = self.headers
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise InvalidAnswerError(COMPRESSED, self.status)
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        closing = "close" in headers.get("connection", "").lower()
        self.reusable = version == "1" and not closing and self.status != 101
        if self.status in _BODILESS:
            self._length = 0
        elif coding is not None:
            if coding.lower() != "chunked":
                raise NoHttpError
            self._chunked = True
            self.reusable &= length is None
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise NoHttpError
            self._length = int(length[:20])
            if self._length > LARGEST_ANSWER:
                raise InvalidAnswerError(TOO_LARGE, self.status)

    def _read_chunks(self) -> None:
        buffer, at = self._buffer, 0
        while (end := buffer.find(b"\r\n", at)) >= 0:
            digits = _CHUNK_SIZE.match(buffer, at, end)
            if digits is None:
                raise NoHttpError
            size = int(digits[1], 16)
            if size == 0:
                self._read_trailers(end)
                break
            if len(self._chunks) + size > LARGEST_ANSWER:
                raise InvalidAnswerError(TOO_LARGE, self.status)
            after = end + 2 + size
            if len(buffer) < after + 2:
                break
            if buffer[after : after + 2] != b"\r\n":
                raise NoHttpError
            self._chunks += buffer[end + 2 : after]
            at = after + 2
        else:
            if len(buffer) - at > _LARGEST_CHUNK_LINE:
                raise NoHttpError
        if not self.complete:
            del buffer[:at]

    def _read_trailers(self, at: int) -> None:
        """Pass over what follows the last chunk: the line's end at *at*, trailers, a blank line."""
        end = self._buffer.find(b"\r\n\r\n", at)
        if end >= 0:
            self.complete = True
            self.reusable &= len(self._buffer) == end + 4
        elif len(self._buffer) - at > _LARGEST_HEAD:
            raise NoHttpError
