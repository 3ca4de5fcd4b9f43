"""What a load test will do, checked before anything is sent."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from tabserve.errors import BenchError


@dataclass(frozen=True)
class Plan:
    """A load test of one TabServe server.

    url: the server, or one of its models; `/predict` or `/predict/batch` is added.
    data: CSV, NDJSON or a JSON list of records; None takes the server's own examples.
    key: sent as X-API-Key. In no repr and in no report.
    connections: keep-alive connections, and so the most requests in flight.
    rate: requests started per second whatever the answers (open loop); None sends the next
        request of a connection when its answer came (closed loop).
    batch: rows per request, to `/predict/batch`; None sends one record, to `/predict`.
    Raises BenchError for a plan that cannot run.
    """

    url: str
    data: Path | None = None
    key: str | None = field(default=None, repr=False)
    connections: int = 64
    rate: float | None = None
    duration_s: float = 10.0
    batch: int | None = None

    def __post_init__(self) -> None:
        _check_url(self.url)
        object.__setattr__(self, "url", self.url.rstrip("/"))
        if self.key is not None and not self.key.isprintable():
            raise BenchError(
                "Expected a key that fits in one header, found a line break or another control"
                " character in it - check how the key is read"
            )
        _check_positive("connections", self.connections)
        _check_positive("duration in seconds", self.duration_s)
        _check_positive("rate in requests per second", self.rate)
        _check_positive("batch in rows", self.batch)

    @property
    def rows_per_request(self) -> int:
        return self.batch or 1

    @property
    def predict_path(self) -> str:
        return "/predict" if self.batch is None else "/predict/batch"

    def without_key(self) -> "Plan":
        """The plan as it may be shown and stored."""
        return replace(self, key=None)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BenchError(f'Expected a URL such as http://127.0.0.1:8000, got "{url}"')
    # The URL stands in every report, so it must hold no secret: it is not repeated here either.
    if parts.username is not None or parts.query or parts.fragment:
        raise BenchError(
            "Expected a URL of scheme, host, port and path, found a user name, a query or a"
            " fragment in it - leave it out, and give the key as the key"
        )


def _check_positive(what: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise BenchError(f"Expected a {what} above 0, got {value}")
