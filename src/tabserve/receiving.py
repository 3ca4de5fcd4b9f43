"""What is taken of a request as it comes: how much, how fast, and in which coding."""

import zlib
from dataclasses import dataclass

from tabserve.errors import (
    BadRequest,
    HeadersTooLarge,
    TargetTooLong,
    TooLarge,
    UnsupportedCoding,
)

# What is small anyway may have grown from as little as it likes.
_FREE_BYTES = 2**16

_GZIP = 31  # zlib's word for a gzip header and trailer around the largest window


@dataclass(frozen=True)
class Bounds:
    """As the settings of these names, which are explained there. Sizes in bytes."""

    max_body: int = 4 * 2**20
    max_bodies: int = 256 * 2**20
    max_ratio: int = 100
    max_target: int = 8 * 2**10
    max_headers: int = 100
    max_header_bytes: int = 32 * 2**10
    receive_timeout_s: float = 10.0
    idle_timeout_s: float = 15.0

    def target_too_long(self) -> TargetTooLong:
        return TargetTooLong(f"Expected a target of at most {self.max_target} bytes.")

    def headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"Expected at most {self.max_headers} headers of at most {self.max_header_bytes} bytes "
            "together."
        )

    def body_too_large(self) -> TooLarge:
        return TooLarge(f"Expected a body of at most {self.max_body} bytes.")

    def decoded(self, body: bytes, coding: str) -> bytes:
        """The body without its Content-Encoding. Raises UnsupportedCoding, BadRequest, TooLarge."""
        coding = coding.strip().lower()
        if coding == "identity":
            return body
        if coding not in ("gzip", "x-gzip"):
            raise UnsupportedCoding("Expected a body in no coding, or Content-Encoding: gzip.")
        by_ratio = max(_FREE_BYTES, self.max_ratio * len(body))
        stream = zlib.decompressobj(_GZIP)
        try:
            content = stream.decompress(body, min(by_ratio, self.max_body) + 1)
        except zlib.error:
            raise BadRequest("The body is no gzip, as its Content-Encoding says.") from None
        if len(content) > self.max_body:
            raise self.body_too_large()
        if len(content) > by_ratio:
            raise TooLarge(
                f"Expected a body that is at most {self.max_ratio} times as large as its gzip."
            )
        if not stream.eof or stream.unused_data:
            raise BadRequest("Expected one whole gzip member as the body, and nothing behind it.")
        return content
