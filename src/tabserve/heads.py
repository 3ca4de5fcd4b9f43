"""Heads of requests that are known again: a client sends the same one each time, and only other
bodies behind it.
"""

from dataclasses import dataclass

from tabserve.types import Request

# At most some 2 MB of them.
_MOST_HEADS = 256
_MOST_BYTES = 2 * 2**10

_END = b"\r\n\r\n"
# With one of these more is asked than an answer to head and body.
_NOT_PLAIN = {"transfer-encoding", "expect", "upgrade"}


@dataclass(frozen=True, slots=True)
class _Head:
    """body_size: of the body that belongs to it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body_size: int


class KnownHeads:
    """Of requests after which the connection stays."""

    def __init__(self) -> None:
        self._heads: dict[bytes, _Head] = {}

    def request(self, data: bytes, client: str) -> Request | None:
        """The request that the bytes are, where they are a known head and its body."""
        start = data.find(_END) + len(_END)
        head = self._heads.get(data[:start])
        if head is None or len(data) != start + head.body_size:
            return None
        request = Request(head.method, head.path, head.headers, data[start:], client)
        request.query = head.query
        return request

    def keep(self, data: bytes, request: Request) -> None:
        """data: among which a request was read; its head is kept where they were nothing more."""
        head, _, body = data.partition(_END)
        given = request.headers
        is_whole = body == request.body and given.get("content-length", "0") == str(len(body))
        if not is_whole or len(head) > _MOST_BYTES or given.keys() & _NOT_PLAIN:
            return
        if len(self._heads) == _MOST_HEADS:
            self._heads.clear()
        self._heads[head + _END] = _Head(
            request.method, request.path, request.query, dict(given), len(body)
        )
