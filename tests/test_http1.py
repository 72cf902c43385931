"""What counts as an answer of HTTP/1.1, whole, and in whatever pieces its bytes come."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.errors import InvalidAnswerError
from marketplace_metering_async.http1 import AnswerReader, NoHttpError
from marketplace_metering_async.transport import LARGEST_ANSWER


def read(data: bytes, pieces: list[int] | None = None) -> AnswerReader:
    """Return a reader that was fed *data*, cut at *pieces*."""
    reader = AnswerReader()
    cuts = [0, *sorted(piece for piece in pieces or () if piece < len(data)), len(data)]
    for start, end in itertools.pairwise(cuts):
        reader.feed(data[start:end])
    return reader


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    """Return the head of an answer."""
    return "".join(f"{line}\r\n" for line in (status, *lines, "")).encode()


def chunked(body: bytes, size: int) -> bytes:
    """Return *body* in chunks of *size* bytes, each with an extension."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%X ;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n"


@given(
    body=st.binary(max_size=300),
    size=st.one_of(st.none(), st.integers(1, 50)),
    trailer=st.sampled_from([b"", b"A: b\r\n"]),
    pieces=st.lists(st.integers(1, 500)),
)
def test_an_answer_is_the_same_in_any_pieces(
    body: bytes, size: int | None, trailer: bytes, pieces: list[int]
) -> None:
    """
    With its length told or in chunks; and the connection may be used again.
    """
    if size is None:
        data = head(f"Content-Length: {len(body)}", "X-Amzn-RequestId: id") + body
    else:
        data = head("Transfer-Encoding: chunked", "X-Amzn-RequestId: id") + chunked(body, size)
        data += trailer + b"\r\n"
    interim = head(status="HTTP/1.1 100 Continue")

    reader = read(interim + data, pieces)

    assert reader.complete
    assert reader.reusable
    response = reader.response()
    assert (200, body, "id") == (
        response.status,
        response.body,
        response.headers["X-AMZN-requestid"],
    )
    assert not read(data[:-1]).complete


def test_an_answer_without_length_ends_with_its_connection() -> None:
    """
    And that connection is not used again.
    """
    reader = read(head() + b"{}")

    assert not reader.complete
    assert reader.end()
    assert (b"{}", False) == (reader.response().body, reader.reusable)


@pytest.mark.parametrize(
    "data",
    [
        head("Content-Length: 0", "Connection: close"),
        head("Content-Length: 0", "Connection: x", "Connection: Close"),
        head("Content-Length: 0", status="HTTP/1.0 200 OK"),
        head("Content-Length: 0") + b"x",
        head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"0\r\n\r\nx",
        head(status="HTTP/1.1 101 Switching"),
        head(status="HTTP/1.1 204 None") + b"x",
    ],
)
def test_a_connection_in_doubt_is_not_used_again(data: bytes) -> None:
    """
    The server closes it, or more came than the answer, or its length was told twice.
    """
    reader = read(data)
    assert (True, False) == (reader.complete, reader.reusable)


@pytest.mark.parametrize(
    "data",
    [
        b"S",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",
        head("no colon"),
        head(": no name"),
        head("Content-Length : 5"),
        head(" folded: line"),
        head("Content-Length: -1"),
        head("Content-Length: +1"),
        head("Content-Length: 1_0"),
        head("Content-Length: 1", "Content-Length: 2"),
        head("Transfer-Encoding: gzip, chunked"),
        head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        head("Transfer-Encoding: chunked") + b"0x1\r\n",
        head("Transfer-Encoding: chunked") + b"\r\n",
        head("Transfer-Encoding: chunked") + b"-1\r\n",
        head("Transfer-Encoding: chunked") + b"123456789\r\n",
        head("Transfer-Encoding: chunked") + b"1\r\nxyz",
        head("Transfer-Encoding: chunked") + b"1;" + b"x" * 5000,
        head("Transfer-Encoding: chunked") + b"0\r\n" + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
    ],
)
def test_what_is_no_http(data: bytes) -> None:
    """
    Nothing is guessed where a reader could be led astray.
    """
    with pytest.raises(NoHttpError):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        head(f"Content-Length: {LARGEST_ANSWER + 1}"),
        head("Content-Length: 99999999999999999999999999"),
        head("Transfer-Encoding: chunked") + b"%x\r\n" % (LARGEST_ANSWER + 1),
        head() + bytes(LARGEST_ANSWER + 1),
        head("Content-Encoding: gzip", "Content-Length: 5"),
    ],
)
def test_answers_that_are_refused(data: bytes) -> None:
    """
    Those that are too large, as soon as that is known, and compressed ones.
    """
    with pytest.raises(InvalidAnswerError) as caught:
        read(data)
    assert 200 == caught.value.status


@given(st.binary(max_size=200), st.lists(st.integers(1, 200)))
def test_no_bytes_do_anything_else(data: bytes, pieces: list[int]) -> None:
    """
    Whatever comes is read, awaited, or refused in one of two ways.
    """
    for start in (b"", b"HTTP/1.1 200 OK\r\n", head("Transfer-Encoding: chunked")):
        with contextlib.suppress(NoHttpError, InvalidAnswerError):
            read(start + data, pieces).end()
