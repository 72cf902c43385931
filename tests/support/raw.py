"""HTTP by hand, for what no decent client would send."""

import asyncio
from urllib.parse import urlsplit

PATIENCE = 10.0


async def exchange(url: str, sent: bytes) -> bytes:
    """Send bytes and return all that comes back until the connection ends."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(sent)
        if writer.can_write_eof():
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def status_of(
    method: str, url: str, path: str, body: bytes | None, headers: dict[str, str]
) -> int:
    """Send a request and return the status of the answer; a body of None never ends."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    lines = {"Host": place.netloc, "Connection": "close"} | headers
    lines |= (
        {"Transfer-Encoding": "chunked"} if body is None else {"Content-Length": str(len(body))}
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
    sending = asyncio.create_task(_send(writer, body))
    try:
        async with asyncio.timeout(PATIENCE):
            line = await reader.readline()
        return int(line.split()[1])
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def _send(writer: asyncio.StreamWriter, body: bytes | None) -> None:
    piece = b" " * 65536
    if body is not None:
        writer.write(body)
        await writer.drain()
    while body is None:
        writer.write(b"10000\r\n" + piece + b"\r\n")
        await writer.drain()
