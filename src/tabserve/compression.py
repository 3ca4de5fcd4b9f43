"""Compressed files, read as a stream that ends with a sentence where it would become too large."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from tabserve.errors import ArtifactError

# Models compress to a third or a tenth; a file that grows to more is a bomb. What is small anyway
# may grow as it likes.
MAX_RATIO = 100
FREE_BYTES = 2**26
MAX_BYTES = 2**32

_PIECE = 2**16
_LZMA_MEMORY = 2**27

# By how such a file begins: those that joblib writes. Its own prefix for zlib is the first byte.
_DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"x": zlib.decompressobj,
    b"\x1f\x8b": lambda: zlib.decompressobj(31),
    b"BZ": bz2.BZ2Decompressor,
    b"]\x00": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, _LZMA_MEMORY),
    b"\xfd7zXZ": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _LZMA_MEMORY),
}


def limit(n_bytes: int) -> int:
    """As many may come out of a file of n_bytes."""
    return min(FREE_BYTES + MAX_RATIO * n_bytes, MAX_BYTES)


def is_compressed(start: bytes) -> bool:
    return start.startswith(tuple(_DECOMPRESSORS))


def opened(content: bytes) -> io.BufferedReader:
    """The content, decompressed while it is read. Reading raises ArtifactError at the limit, and
    for what is no whole compressed file.
    """
    for prefix, decompressor in _DECOMPRESSORS.items():
        if content.startswith(prefix):
            return io.BufferedReader(_Decompressed(content, decompressor()), _PIECE)
    return io.BufferedReader(io.BytesIO(content))


class _Decompressed(io.RawIOBase):
    def __init__(self, content: bytes, decompressor: Any) -> None:
        self._source = memoryview(content)
        self._place = 0
        self._decompressor = decompressor
        self._left = limit(len(content))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._next(len(buffer)) if len(buffer) else b""
        self._left -= len(piece)
        if self._left < 0:
            raise ArtifactError(
                f"A compressed file of {len(self._source)} bytes holds more than "
                f"{limit(len(self._source))}, which no model does."
            )
        buffer[: len(piece)] = piece
        return len(piece)

    def _next(self, size: int) -> bytes:
        decompressor = self._decompressor
        while not decompressor.eof:
            # zlib gives back what it did not look at, the others keep it.
            waiting = getattr(decompressor, "unconsumed_tail", b"")
            if not waiting and getattr(decompressor, "needs_input", True):
                waiting = self._source[self._place : self._place + _PIECE]
                self._place += len(waiting)
            is_last = self._place >= len(self._source)
            try:
                piece: bytes = decompressor.decompress(waiting, size)
            except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
                raise ArtifactError(f"A compressed file cannot be read: {error}.") from None
            if piece:
                return piece
            if is_last and not decompressor.eof and not waiting:
                raise ArtifactError("A compressed file ends too early.")
        return b""
