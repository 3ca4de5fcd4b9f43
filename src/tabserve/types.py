"""The values that pass between the layers, and the protocols that they ask of each other."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator

from tabserve.chance import getrandbits
from tabserve.lines import Lines

Array = npt.NDArray[Any]

# One array of shape (n_rows,) per input feature, by name. Missing numbers are NaN, other missing
# values None.
Columns = dict[str, Array]

# The same before it becomes arrays, which for one row cost more than the model does: a list of
# Python values, None where missing, or an array already.
Values = Mapping[str, Sequence[Any] | Array]

# What an engine computed, by part: "label" (n_rows,), "value" (n_rows,), and "proba"
# (n_rows, n_classes), or (n_rows,) where one class only was asked for. Where a model has several
# outputs each part has the output's name before it: "price.value", "colour.proba".
Outputs = dict[str, Array]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a moment before the year 1 or after the year 9999") from None


# A point in time out of a file. In Python's own time zone: one of pydantic's that is alive when the
# interpreter ends crashes it (pydantic/pydantic#12867).
Moment = Annotated[datetime, AfterValidator(_in_utc)]

# The parts that an answer needs, and of a "proba" the only class whose probability it is, or None
# for all.
Parts = Mapping[str, int | None]


def new_id() -> str:
    """128 random bits: nobody else has it, in this process or a fork of it. No secret, so the
    system's random source, a call of 1 to 20 µs, is not needed.
    """
    return getrandbits(128).to_bytes(16).hex()


def new_ids(n: int) -> list[str]:
    """Several such."""
    if n == 1:
        return [new_id()]
    digits = getrandbits(128 * n).to_bytes(16 * n).hex()
    return [digits[start : start + 32] for start in range(0, 32 * n, 32)]


def timestamp(at: float) -> str:
    """at: seconds since 1970. Gives back UTC as RFC 3339 writes it, to the millisecond."""
    milliseconds = int(at * 1000)
    return _second(milliseconds // 1000) + _MILLISECONDS[milliseconds % 1000]


_MILLISECONDS = [f".{n:03d}Z" for n in range(1000)]


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    """Requests of one second share it: making it anew costs as much as reading a record."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def n_rows(values: Values) -> int:
    return len(next(iter(values.values())))


@dataclass(slots=True)
class Request:
    """An HTTP request without a framework. `headers` has lower-case names."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client: str  # the peer's address
    root_path: str = ""  # where the app is mounted
    query: str = ""  # what follows the question mark, as it was sent
    failure: Exception | None = None  # met while it was read; its answer
    # Told by how many bytes the body grows, where bodies have a bound together; raises Overloaded.
    grow: Callable[[int], None] | None = None
    # Set by the dispatcher before a handler sees the request:
    charge: "Charge | None" = None  # where the limit counts rows, and only the handler knows them
    request_id: str = ""
    deadline: float = float("inf")  # on the monotonic clock
    started: float = 0.0  # on the monotonic clock


# What to go on with, once the limit has taken so many rows.
Charge = Callable[[int, Callable[[], "Response | Pending"]], "Response | Pending"]


@dataclass(slots=True)
class Response:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    # Makes what the log says of each prediction; called off the request's path.
    log: Callable[[], Lines] | None = None
    n_log_lines: int = 1


class Rows(Protocol):
    """What one request wants computed."""

    @property
    def n_rows(self) -> int: ...


# Gives what each of several requests comes to, with one call of the model; or raises.
Compute = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(slots=True)
class Computation:
    """One so cheap that nothing is handed to another thread: whoever waits for it does it, for
    several requests at once where they came together.
    """

    compute: Compute
    rows: Rows


@dataclass(slots=True)
class Pending:
    """A response to come. A thread and an event loop can both wait for it, so that one handler
    serves every framework.

    then: makes it of what was awaited, or says what to wait for next.
    """

    awaited: "Future[Any] | Computation"
    then: Callable[[Any], "Response | Pending"]


Handler = Callable[[Request], Response | Pending]


class Engine(Protocol):
    """One way to compute a model.

    reentrant: whether several threads may call it at once.
    """

    name: str
    reentrant: bool

    def predict(self, values: Values) -> Outputs:
        """Compute all rows in one call; raises whatever the library raises."""
        ...


def concatenate(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
