"""An object of JSON that is sent as it is made: there may be a million of something in it."""

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from aiohttp import web

from marketplace_metering_async.sandbox.as_json import as_json, encoded
from marketplace_metering_async.sandbox.guard import ANSWER_HEADERS

_PIECE: Final = 500
"""Things that are made and sent before others have their turn."""


class JsonStream:
    """Answers a request with one object, member by member; ConnectionError if nobody listens."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        headers = {"Content-Type": "application/json; charset=utf-8", **ANSWER_HEADERS}
        self._response = web.StreamResponse(headers=headers)

    async def member(self, name: str, value: Any) -> None:  # noqa: ANN401 - JSON
        """Send a member that is small."""
        await self._begin(name, encoded(value))

    async def array(self, name: str, values: Iterable[Any]) -> None:
        """Send a list, piece by piece."""
        await self._pieces(name, b"[%b]", map(encoded, values))

    async def object(self, name: str, members: Iterable[tuple[str, Any]]) -> None:
        """Send an object, piece by piece."""
        written = (encoded(key) + b":" + encoded(as_json(value)) for key, value in members)
        await self._pieces(name, b"{%b}", written)

    async def end(self) -> web.StreamResponse:
        """Close the object, and return the response that was sent."""
        await self._response.write(b"}")
        await self._response.write_eof()
        return self._response

    async def _pieces(self, name: str, within: bytes, things: Iterable[bytes]) -> None:
        opening, closing = within.split(b"%b")
        await self._begin(name, opening)
        remaining, first = iter(things), True
        while some := list(islice(remaining, _PIECE)):
            await self._response.write((b"" if first else b",") + b",".join(some))
            first = False
            await asyncio.sleep(0)
        await self._response.write(closing)

    async def _begin(self, name: str, value: bytes) -> None:
        separator = b","
        if not self._response.prepared:
            await self._response.prepare(self._request)
            separator = b"{"
        await self._response.write(separator + encoded(name) + b":" + value)
