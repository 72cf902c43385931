"""
A stand-in for the service that is fast and believes everything: `python benchmarks/lab/server.py`.

It echoes a result for each record, checks nothing, and answers after the milliseconds it is told.
It runs as a process of its own, on a core of its own where there are two, and tells its CPU time,
so that a benchmark can show that it was not what the clients waited for. The sandbox checks
signatures and keeps a book; it is for what must be right, this is for what must be fast.
"""

import asyncio
import ipaddress
import itertools
import json
import re
import selectors
import ssl
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

try:
    from orjson import dumps, loads
except ImportError:
    loads = json.loads

    def dumps(value: object) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()


HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n"
    b"x-amzn-RequestId: 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed\r\n"
    b"Date: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n%b"
)


RESULT = (
    b'{"MeteringRecordId":"%08x-91e6-4a3c-8f0b-3d2b6f1f9f0d","Status":"Success","UsageRecord":{%b}}'
)
BETWEEN = re.compile(rb"},\s*{")
ids = itertools.count()


def answer_to(body: bytes) -> bytes:
    """Echo the records; as text where they hold no lists, which is quicker than reading them."""
    if body.count(b"[") == 1:
        records = BETWEEN.split(body[body.index(b"[") + 2 : body.rindex(b"]") - 1])
    else:
        records = [dumps(record)[1:-1] for record in loads(body)["UsageRecords"]]
    results = b",".join([RESULT % (next(ids), record) for record in records])
    return b'{"Results":[%b],"UnprocessedRecords":[]}' % results


class Service(asyncio.Protocol):
    """One connection."""

    latency = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.max_size = 2**16  # type: ignore[attr-defined]
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            answer = self.answer(head, body)
            if self.latency:
                asyncio.get_running_loop().call_later(self.latency, self.transport.write, answer)
            else:
                self.transport.write(answer)

    def answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"get /latency/"):
            Service.latency = float(head.split()[1].rpartition(b"/")[2]) / 1000
        if head.startswith(b"get"):
            told = dumps({"cpu": time.process_time()})
            return HEAD % (len(told), told)
        answer = answer_to(body)
        return HEAD % (len(answer), answer)


def certificate(folder: Path) -> ssl.SSLContext:
    """Write a certificate for loopback, its own authority, and return a context with it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmarks")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "authority.pem"
    pem.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret = folder / "key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return context


async def main() -> None:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        tls = certificate(Path(folder))
        plain = await loop.create_server(Service, "127.0.0.1", 0, backlog=512)
        secure = await loop.create_server(Service, "127.0.0.1", 0, backlog=512, ssl=tls)
        ports = {
            "http": f"http://127.0.0.1:{plain.sockets[0].getsockname()[1]}",
            "https": f"https://127.0.0.1:{secure.sockets[0].getsockname()[1]}",
            "authority": str(Path(folder) / "authority.pem"),
        }
        print(json.dumps(ports), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it goes


def _punctual_loop() -> asyncio.SelectorEventLoop:
    """Return an event loop whose timers are not late: epoll's wait in whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_punctual_loop) as runner:
        runner.run(main())
