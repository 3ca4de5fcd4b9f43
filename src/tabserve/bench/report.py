"""The figures of a finished load test."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from tabserve.bench.plan import Plan
from tabserve.bench.tally import Tally
from tabserve.errors import BenchError

Floats = npt.NDArray[np.float64]

_N_BINS = 24  # one screen of bars
_N_CURVE_POINTS = 100


@dataclass(frozen=True)
class Latency:
    """Milliseconds of the 200 answers; each percentile is a latency that a request really had."""

    min: float
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float


@dataclass(frozen=True)
class Histogram:
    """edges_ms: (n_bins + 1,), evenly spaced in the logarithm; counts: (n_bins,)."""

    edges_ms: list[float]
    counts: list[int]


@dataclass(frozen=True)
class PercentileCurve:
    """ms[i]: latency that percent[i] of the answers kept; denser towards 100."""

    percent: list[float]
    ms: list[float]


@dataclass(frozen=True)
class Interval:
    """200 answers that came within one second; the last interval takes a rest below half of one."""

    start_s: float
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class Report:
    """A load test: what was planned and what came of it.

    started_at: UTC, ISO 8601.
    elapsed_s: from the first request to the end of sending, or to the last 200 if it came later.
    requests: sent; succeeded of them had status 200, the rest stands in errors.
    requests_per_s, rows_per_s: of the 200 answers, over elapsed_s.
    unsent: requests of an open loop that were due and found no connection until the end.
    errors: count by status and code, "429 rate_limited", or by what the connection met.
    client_cpu: share of one core that the load generator took; near 1, it is the limit.
    latency_ms, histogram, percentile_curve: None when nothing succeeded.
    model_version: of the first answer; None if it names none.
    """

    plan: Plan
    started_at: str
    elapsed_s: float
    interrupted: bool
    requests: int
    succeeded: int
    unsent: int
    requests_per_s: float
    rows_per_s: float
    bytes_sent: int
    bytes_received: int
    errors: dict[str, int]
    client_cpu: float
    latency_ms: Latency | None
    histogram: Histogram | None
    percentile_curve: PercentileCurve | None
    intervals: list[Interval]
    model_version: str | None


def summarise(
    plan: Plan,
    tally: Tally,
    *,
    started_at: str,
    sending_s: float,
    cpu_s: float,
    n_unsent: int,
    interrupted: bool,
) -> Report:
    """The report of a tally that no more answers reach.

    sending_s: how long requests were sent; cpu_s: CPU time of the load generator meanwhile.
    """
    latencies_ms: Floats = np.array(tally.latencies_s) * 1000  # (n_succeeded,)
    finished_s: Floats = np.array(tally.finished_s)  # (n_succeeded,)
    n_succeeded = len(latencies_ms)
    elapsed_s = float(max(sending_s, finished_s.max(initial=0.0)))
    ordered = np.sort(latencies_ms)
    return Report(
        plan=plan.without_key(),
        started_at=started_at,
        elapsed_s=elapsed_s,
        interrupted=interrupted,
        requests=n_succeeded + tally.failures.total(),
        succeeded=n_succeeded,
        unsent=n_unsent,
        requests_per_s=n_succeeded / elapsed_s,
        rows_per_s=n_succeeded * plan.rows_per_request / elapsed_s,
        bytes_sent=tally.bytes_sent,
        bytes_received=tally.bytes_received,
        errors=dict(tally.failures.most_common()),
        client_cpu=cpu_s / elapsed_s,
        latency_ms=_latency(ordered) if n_succeeded else None,
        histogram=_histogram(ordered) if n_succeeded else None,
        percentile_curve=_percentile_curve(ordered) if n_succeeded else None,
        intervals=_intervals(latencies_ms, finished_s, elapsed_s),
        model_version=_model_version(tally.first_answer),
    )


def save_json(report: Report, path: Path) -> None:
    """Write the report as one JSON object. Raises BenchError if the file cannot be written."""
    document = asdict(report)
    del document["plan"]["key"]
    content = orjson.dumps(document, default=str, option=orjson.OPT_INDENT_2)
    write(path, content + b"\n")


def check_place(path: Path) -> None:
    """Raises BenchError, ahead of the test, where no report could be written afterwards."""
    if path.is_dir() or not path.parent.is_dir():
        raise BenchError(f"Expected a file in a folder that exists for the report, got {path}")


def write(path: Path, content: bytes) -> None:
    """Write a report's file. Raises BenchError if that fails."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise BenchError(
            f"Expected a place to write the report to, got {path}: {error.strerror}"
        ) from error


def _percentiles(ordered: Floats, percents: Floats | list[float]) -> list[float]:
    # inverted_cdf picks a value that was measured instead of one between two
    found: list[float] = np.percentile(ordered, percents, method="inverted_cdf").tolist()
    return found


def _latency(ordered: Floats) -> Latency:
    p50, p90, p95, p99, p99_9 = _percentiles(ordered, [50, 90, 95, 99, 99.9])
    return Latency(
        min=float(ordered[0]),
        mean=float(ordered.mean()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        p99_9=p99_9,
        max=float(ordered[-1]),
    )


def _histogram(ordered: Floats) -> Histogram:
    lowest, highest = ordered[0], ordered[-1]
    if highest < lowest * 1.01:  # one value: bins of some width all the same
        lowest, highest = lowest * 0.99, highest * 1.01
    edges = np.geomspace(lowest, highest, _N_BINS + 1)
    # geomspace may end a rounding below the largest value, which would then be in no bin
    counts = np.bincount(
        np.clip(np.searchsorted(edges, ordered, side="right") - 1, 0, _N_BINS - 1),
        minlength=_N_BINS,
    )
    return Histogram(edges.tolist(), counts.tolist())


def _percentile_curve(ordered: Floats) -> PercentileCurve:
    # Up to the percentile that the largest of n values stands for; beyond it nothing is known.
    nines = np.linspace(0, np.log10(max(len(ordered), 2)), _N_CURVE_POINTS)
    percent = 100 * (1 - 10**-nines)
    return PercentileCurve(percent.tolist(), _percentiles(ordered, percent))


def _intervals(latencies_ms: Floats, finished_s: Floats, elapsed_s: float) -> list[Interval]:
    n_intervals = max(1, round(elapsed_s))
    starts = np.arange(n_intervals, dtype=np.float64)
    ends = np.append(starts[1:], elapsed_s)
    # Answers were added as they came, so the times are in order.
    bounds = np.searchsorted(finished_s, starts[1:])
    intervals = []
    for start, end, within in zip(starts, ends, np.split(latencies_ms, bounds), strict=True):
        p50, p99 = _percentiles(np.sort(within), [50, 99]) if len(within) else (None, None)
        rate = len(within) / (end - start)
        intervals.append(Interval(float(start), float(rate), p50, p99))
    return intervals


def _model_version(answer: bytes) -> str | None:
    try:
        document: Any = orjson.loads(answer)
        if "predictions" in document:
            document = document["predictions"][0]
        version = document["model_version"]
    except (orjson.JSONDecodeError, TypeError, KeyError, IndexError):
        return None
    return version if isinstance(version, str) else None
