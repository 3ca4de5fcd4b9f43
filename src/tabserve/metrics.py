"""What is counted, and how it is told: Prometheus' text, or a short JSON summary."""

import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from tabserve.errors import InvalidSettings
from tabserve.shared_metrics import METRICS_FOLDER_VARIABLE, SharedMetrics

logger = logging.getLogger("tabserve")

_LATENCY_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10
)  # fmt: skip
_ROLLOUT = "tabserve_rollout_"
_PREDICTING = ("/predict", "/predict/batch")  # how the routes of predictions end
_ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)


class Metrics:
    """One set for one service, in a registry of its own."""

    def __init__(self) -> None:
        folder = os.environ.get(METRICS_FOLDER_VARIABLE)
        self._shared = SharedMetrics(Path(folder)) if folder else None
        try:
            self._make_room()
        except OSError as error:
            raise InvalidSettings(f"Cannot count in {folder}: {error.strerror}.") from None
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self.predictions = Counter(
            "tabserve_predictions", "Rows answered.", ["model", "version"], **own
        )
        self.warnings = Counter(
            "tabserve_warnings",
            "Warnings in answers: out_of_range, unknown_category, imputed.",
            ["model", "version", "type"],
            **own,
        )
        self.row_errors = Counter(
            "tabserve_row_errors",
            "Rows of batches that were answered with an error in place (on_error=report).",
            ["model", "version", "code"],
            **own,
        )
        self.errors = Counter("tabserve_errors", "Requests answered 4xx or 5xx.", ["code"], **own)
        self.latency = Histogram(
            "tabserve_request_duration_seconds",
            "Seconds from the whole request to the whole answer.",
            ["route"],
            buckets=_LATENCY_BUCKETS_S,
            **own,
        )
        self.batch_rows = Histogram(
            "tabserve_batch_rows", "Rows of one call of the model.", buckets=_ROWS_BUCKETS, **own
        )
        live: dict[str, Any] = {"multiprocess_mode": "livesum", **own}
        self.queue_depth = Gauge(
            "tabserve_queue_depth", "Requests in the queues for the models.", **live
        )
        self.in_flight = Gauge(
            "tabserve_in_flight", "Requests that wait for the model, in the queue or at it.", **live
        )
        self.workers_replaced = Counter(
            "tabserve_workers_replaced",
            "Workers begun in the place of one that ended, was killed, hung or was stuck.",
            ["reason"],
            **own,
        )
        self.limit_store_away = Gauge(
            "tabserve_rate_limit_store_away",
            "1 while the store of rate limits cannot be asked.",
            multiprocess_mode="livemax",
            **own,
        )
        self.log_dropped = Counter(
            "tabserve_log_lines_dropped", "Log lines lost because the log was too slow.", **own
        )

        self.rollout = RolloutMetrics(own)
        self._left: deque[tuple[Callable[[float], None], float]] = deque()

    def _make_room(self) -> None:
        if self._shared is not None:
            self._shared.make_room()

    def later(self, tell: Callable[[float], None], value: float) -> None:
        """For what a request tells: counting takes as long as reading the record, and no client
        need wait for it.
        """
        self._left.append((tell, value))

    def settle(self) -> None:
        """Count what was left for later; done before anything is told, too."""
        with suppress(IndexError):  # another thread may take the last one
            while self._left:
                tell, value = self._left.popleft()
                tell(value)

    def of_rollout(self, model: str, live: str, tried: str) -> dict[str, float]:
        """Totals over all workers, by the name of the metric without its first part; those of a
        version have it after their name.
        """
        wanted, totals = {"model": model, "live": live, "tried": tried}, dict[str, float]()
        for family in self._collected().collect():
            if not family.name.startswith(_ROLLOUT):
                continue
            for sample in family.samples:
                labels = dict(sample.labels)
                version = labels.pop("version", "")
                if labels == wanted and not sample.name.endswith("_created"):
                    name = sample.name.removeprefix(_ROLLOUT).removesuffix("_total")
                    totals[f"{name} {version}".strip()] = sample.value
        return totals

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Body and content type, in the text format that the scraper prefers."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # it wants a version such as 1.x
            encode, content_type = choose_encoder("")
        return encode(self._collected()), content_type

    def summary(self) -> dict[str, float | None]:
        """Totals over all workers; latency over prediction requests, None before the first."""
        totals: dict[str, float] = {}
        for family in self._collected().collect():
            for sample in family.samples:
                if sample.labels.get("route", "/predict").endswith(_PREDICTING):
                    totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        seconds = totals.get("tabserve_request_duration_seconds_sum", 0.0)
        count = totals.get("tabserve_request_duration_seconds_count", 0.0)
        return {
            "predictions_total": totals.get("tabserve_predictions_total", 0.0),
            "errors_total": totals.get("tabserve_errors_total", 0.0),
            "latency_avg_ms": 1000 * seconds / count if count else None,
        }

    def _collected(self) -> CollectorRegistry:
        self.settle()
        if self._shared is None:
            return self._registry
        registry = CollectorRegistry()
        registry.register(self._shared)
        return registry

    def keep(self) -> None:
        """Write anew what was deleted of the files in which this process counts. Raises OSError."""
        if self._shared is None:
            return
        self._make_room()
        self.queue_depth._value.get()  # one that was forked opens files of its own
        largest: Any = self.rollout.largest_difference
        # One metric of each kind: all of a kind are in one file.
        values = [
            self.log_dropped._value,
            self.batch_rows._sum,
            self.queue_depth._value,
            self.limit_store_away._value,
            *(child._value for child in largest._metrics.values()),
        ]
        self._shared.keep(value._file for value in values)

    def fold(self, pid: int) -> None:
        """What a worker that is dead has counted is counted with that of those before it."""
        if self._shared is None:
            return
        try:
            self._shared.fold(pid)
        except OSError as error:  # nothing of this may end the process that replaces workers
            logger.warning("What worker %d has counted is lost: %s", pid, error.strerror)


class RolloutMetrics:
    """Of a version that is tried beside the live one, computed for the same rows."""

    def __init__(self, own: dict[str, Any]) -> None:
        pair = ["model", "live", "tried"]
        self.rows = Counter(f"{_ROLLOUT}rows", "Rows computed by both versions.", pair, **own)
        self.equal_labels = Counter(
            f"{_ROLLOUT}equal_labels", "Rows whose labels, or bands, were equal.", pair, **own
        )
        self.difference = Counter(
            f"{_ROLLOUT}difference", "Sum of the absolute differences of the numbers.", pair, **own
        )
        self.largest_difference = Gauge(
            f"{_ROLLOUT}largest_difference",
            "The largest absolute difference of the numbers.",
            pair,
            multiprocess_mode="max",
            **own,
        )
        self.dropped = Counter(
            f"{_ROLLOUT}dropped_rows", "Rows not compared: there was no time for it.", pair, **own
        )
        self.failed = Counter(
            f"{_ROLLOUT}failed_rows", "Rows that the other version could not compute.", pair, **own
        )
        self.calls = Counter(
            f"{_ROLLOUT}timed_calls", "Calls of both for the same rows alone.", pair, **own
        )
        self.seconds = Counter(
            f"{_ROLLOUT}timed_seconds", "Seconds that these calls took.", [*pair, "version"], **own
        )
