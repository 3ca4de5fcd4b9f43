"""Which pages of other origins may ask, from a browser.

https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from collections.abc import Iterable

from tabserve.auth import HEADER
from tabserve.errors import Forbidden
from tabserve.types import Request, Response

ANY = "*"

_MAX_AGE_S = 600
_PREFLIGHT = {
    # The same for all paths, so that no stranger is told which there are.
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": (
        f"Content-Type, Content-Encoding, {HEADER}, X-Request-ID, X-Request-Timeout-Ms"
    ),
    "Access-Control-Max-Age": str(_MAX_AGE_S),
}
_READABLE = {"Access-Control-Expose-Headers": "X-Request-ID, Retry-After"}


class Cors:
    """origins: such as https://app.example.org, or * for all.

    Credentials, which a browser adds by itself, are never allowed: a page sends its key in a
    header.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)

    def is_preflight(self, request: Request) -> bool:
        """Whether a browser asks beforehand: without a key, which it does not send with that."""
        headers = request.headers
        return (
            request.method == "OPTIONS"
            and "access-control-request-method" in headers
            and "origin" in headers
        )

    def preflight(self, request: Request) -> Response:
        allowed = _PREFLIGHT if self._allowed(request) else {}
        return Response(200, b"", "text/plain; charset=utf-8", dict(allowed))

    def allow(self, request: Request, response: Response) -> None:
        """Say in the response's headers whether the page that asked may read it."""
        if ANY not in self._origins:
            response.headers["Vary"] = "Origin"
        allowed = self._allowed(request)
        if allowed is not None:
            response.headers["Access-Control-Allow-Origin"] = allowed
            response.headers |= _READABLE

    def _allowed(self, request: Request) -> str | None:
        if ANY in self._origins:
            return ANY
        origin = request.headers.get("origin")
        return origin if origin in self._origins else None


def refuse_other_origins(request: Request) -> None:
    """A browser sends some requests of any page without asking beforehand: the page cannot read the
    answer, but what was asked for is done. Raises Forbidden.
    """
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Forbidden("No page of another origin may ask here.")
