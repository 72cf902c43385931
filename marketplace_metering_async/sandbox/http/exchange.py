"""Requests and responses as aiohttp has them: a body read within bounds, a response sent."""

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

from marketplace_metering_async.sandbox.http.connection_limit import ConnectionLimit
from marketplace_metering_async.sandbox.http.responses import ServiceResponse

CONNECTIONS: Final = web.AppKey("connections", ConnectionLimit)
"""Where an application keeps the limit of its connections."""
LARGEST_BODY: Final = 16 * 2**20
_SECONDS_TO_SEND: Final = 30.0


def _in_a_line(record: logging.LogRecord) -> bool:
    """
    Tell of a malformed request in a line: where it stands in our code helps nobody.

    That somebody has left before the end of an answer is no news.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ConnectionError):
        return False
    if isinstance(error, web.RequestPayloadError):
        error = error.__cause__
    if isinstance(error, HttpProcessingError):
        why = error.message.partition("\n")[0]
        record.msg, record.args, record.exc_info = "a malformed request: %s", (why,), None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


request_logger: Final = logging.getLogger(__name__)
request_logger.addFilter(_in_a_line)


async def body_of(request: web.Request) -> bytes:
    """
    Read a request's body.

    Raises:
        web.HTTPRequestEntityTooLarge: for more than the application takes, decompressed.
        web.HTTPRequestTimeout: for one that is not there after half a minute.
        web.HTTPBadRequest: for one that is not of the Content-Encoding that it says.
    """
    if request.content.is_eof():  # as most requests are: all there at once
        return await request.read()
    connections = request.app[CONNECTIONS]
    connections.owes(request.protocol)
    try:
        async with asyncio.timeout(_SECONDS_TO_SEND):
            return await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text="the body came too slowly\n") from error
    except web.RequestPayloadError as error:
        raise web.HTTPBadRequest(text="the body cannot be decoded\n") from error
    finally:
        connections.heard(request.protocol)


async def deliver(response: ServiceResponse, request: web.Request) -> web.StreamResponse:
    """
    Send *response* as it is to travel, or return it for aiohttp to send.

    Raises:
        ConnectionResetError: where the connection was reset, by a fault or by the client.
    """
    if response.comes is None and response.pieces == 1:
        return web.Response(status=response.status, body=response.body, headers=response.headers)
    if response.comes != 0:
        headers = {**response.headers, "Content-Length": str(len(response.body))}
        stream = web.StreamResponse(status=response.status, headers=headers)
        await stream.prepare(request)
        parts = response.parts()
        for part in parts:
            if len(parts) > 1:
                await asyncio.sleep(response.seconds / len(parts))
            await stream.write(part)
        if response.comes is None:
            await stream.write_eof()
            return stream
        await asyncio.sleep(response.seconds)
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("a fault has reset the connection")
