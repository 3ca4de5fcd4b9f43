"""What a request has to pass before its handler is called: host, key, rate limit, size, type."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from tabserve.auth import HEADER, Keys, Role, refuse_key_in
from tabserve.cors import refuse_other_origins
from tabserve.errors import RateLimited, TooLarge, UnknownKey, UnsupportedMediaType
from tabserve.hosts import Hosts
from tabserve.limits import Limiter, RateLimiter
from tabserve.receiving import Bounds
from tabserve.routing import ANY_ROLE, Route
from tabserve.types import Handler, Pending, Request, Response

_KEY_HEADER = HEADER.lower()


class Admission:
    """keys, limiter: None where there are none. key_tries: counts wrong keys per address.
    counts_rows: whether the limit is of rows, and not of requests. hosts: the names that the
    server answers to. refuses_pages: of other origins, whatever they ask. bounds: of what is taken
    of a request.
    """

    def __init__(
        self,
        *,
        keys: Keys | None = None,
        key_tries: RateLimiter | None = None,
        limiter: Limiter | None = None,
        counts_rows: bool = False,
        hosts: Hosts | None = None,
        refuses_pages: bool = False,
        bounds: Bounds = Bounds(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self.bounds = bounds
        self._keys = keys
        self._key_tries = key_tries
        self._limiter = limiter
        self._counts_rows = counts_rows
        self._hosts = hosts or Hosts()
        self._refuses_pages = refuses_pages

    def check_address(self, request: Request, route: Route | None) -> None:
        """Whom it asks, from where, and that its target holds no key."""
        host = request.headers.get("host")
        if host not in self._hosts.usual:
            self._hosts.check(host, is_public=route is not None and route.public)
        if self._refuses_pages:
            refuse_other_origins(request)
        if request.query:
            refuse_key_in(request.query)

    def check_key(self, request: Request) -> None:
        """Of a request that has no route: no stranger is told which routes there are."""
        self._holder(request, ANY_ROLE)

    def handler(self, request: Request, route: Route) -> Handler:
        """The route's, past key, rate limit, size and type."""
        client = request.client if route.public else self._holder(request, route.roles)
        if route.limited and self._limiter is not None:
            wait_s = self._asked_limit(request, route, client, self._limiter)
            if isinstance(wait_s, Future):
                return self._handler_after(wait_s, route)
            self._refuse_beyond(wait_s)
        return self._fitting(request, route)

    def _fitting(self, request: Request, route: Route) -> Handler:
        """The route's, past what is told of the body."""
        if len(request.body) > self.bounds.max_body:
            raise self.bounds.body_too_large()
        if route.takes:
            _refuse_another_type(request.headers.get("content-type"), route.takes)
            if "content-encoding" in request.headers:
                coding = request.headers["content-encoding"]
                content = self.bounds.decoded(request.body, coding)
                if request.grow is not None:
                    request.grow(len(content) - len(request.body))
                request.body = content
        return route.handler

    def _holder(self, request: Request, roles: frozenset[Role]) -> str:
        """Whose limit counts: the key's, or the address's where there are no keys."""
        if self._keys is None:
            return request.client
        try:
            return "key:" + self._keys.holder(request.headers.get(_KEY_HEADER), roles)
        except UnknownKey:
            self._count_wrong_key(request.client)
            raise

    def _count_wrong_key(self, client: str) -> None:
        """Past the limit a wrong key has another answer, and a right one is taken as ever: else
        whoever shares an address with others, as behind a proxy, could lock them out. No limit is
        needed against guessing: keys have 256 random bits.
        """
        if self._key_tries is None:
            return
        retry_after_s = self._key_tries.admit(client)
        if retry_after_s > 0:
            raise RateLimited("Too many wrong API keys came from this address.", retry_after_s)

    def _asked_limit(
        self, request: Request, route: Route, client: str, limiter: Limiter
    ) -> float | Future[float]:
        if not (self._counts_rows and route.has_rows):
            return limiter.admit(client)
        request.charge = partial(self._charged, limiter, client)
        return limiter.admit(client, 0)  # who has nothing left need not be read

    def _handler_after(self, awaited: Future[float], route: Route) -> Handler:
        """The route's, once the limit has said how long to wait."""
        return lambda request: self._after(awaited, lambda: self._fitting(request, route)(request))

    def _after(
        self, awaited: Future[float], go_on: Callable[[], Response | Pending]
    ) -> Response | Pending:
        def then(wait_s: float) -> Response | Pending:
            self._refuse_beyond(wait_s)
            return go_on()

        return Pending(awaited, then)

    def _charged(
        self, limiter: Limiter, client: str, n_rows: int, go_on: Callable[[], Response | Pending]
    ) -> Response | Pending:
        most = limiter.rate.count
        if n_rows > most:
            raise TooLarge(f"Expected at most {most} rows, since that is the limit for all.")
        wait_s = limiter.admit(client, n_rows)
        if isinstance(wait_s, Future):
            return self._after(wait_s, go_on)
        self._refuse_beyond(wait_s)
        return go_on()

    def _refuse_beyond(self, wait_s: float) -> None:
        if wait_s > 0:
            assert self._limiter is not None
            rate, what = self._limiter.rate, "rows" if self._counts_rows else "requests"
            raise RateLimited(f"The limit is {rate.count} {what} in {rate.period_s} s.", wait_s)


def _refuse_another_type(given: str | None, expected: str) -> None:
    """A request that does not say what it sends is taken to send what is expected."""
    if not given or given == expected:
        return
    if given.partition(";")[0].strip().lower() != expected:
        raise UnsupportedMediaType(
            f"Expected the header Content-Type: {expected}, got another type."
        )


def charged(
    request: Request, n_rows: int, go_on: Callable[[], Response | Pending]
) -> Response | Pending:
    """What `go_on` gives, once the rate limit has taken the rows, where it counts them."""
    return go_on() if request.charge is None else request.charge(n_rows, go_on)
