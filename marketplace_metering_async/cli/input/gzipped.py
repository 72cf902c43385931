"""Input that gzip has compressed, read as it comes."""

import zlib
from collections.abc import Callable

from marketplace_metering_async.cli.input.formats import UsageFileError

Read = Callable[[int], bytes]
"""Gives at most so many bytes as soon as there are any, and none at the end."""

_MAGIC = b"\x1f\x8b"
_GZIP = zlib.MAX_WBITS | 16


def plain(name: str, read: Read) -> Read:
    """
    Return how to read what *read* gives, unpacked where it begins as gzip does.

    What it returns raises UsageFileError, by the *name* of the input, where the data is damaged
    or ends too early.
    """
    known: Read | None = None

    def first(size: int) -> bytes:
        nonlocal known
        if known is not None:
            return known(size)
        head = read(size)
        while len(head) == 1 and (more := read(size)):
            head += more
        known = read
        if head.startswith(_MAGIC):
            known = _Unpacked(name, head, read)
            return known(size)
        return head

    return first


class _Unpacked:
    """Unpacks one member after the other, never more than asked for at once."""

    def __init__(self, name: str, head: bytes, read: Read) -> None:
        self._name = name
        self._packed = head
        self._read = read
        self._member = zlib.decompressobj(_GZIP)
        self._is_inside = True

    def __call__(self, size: int) -> bytes:
        while True:
            if not self._packed:
                self._packed = self._read(size)
            if not self._packed:
                if self._is_inside:
                    raise UsageFileError(
                        f"{self._name}: the gzip data ends too early; copy the whole file"
                    )
                return b""
            if not self._is_inside:
                self._member, self._is_inside = zlib.decompressobj(_GZIP), True
            try:
                found = self._member.decompress(self._packed, size)
            except zlib.error as error:
                text = f"{self._name}: the gzip data is damaged ({error}); make the file anew"
                raise UsageFileError(text) from error
            self._packed = self._member.unconsumed_tail
            if self._member.eof:
                self._packed, self._is_inside = self._member.unused_data, False
            if found:
                return found
