"""A version that is tried beside the live one: who answers, and how far the two agree.

What one of them has answered the other computes aside, in a thread that rests four times as long
as it works, from a bounded queue: no answer waits for it, and the requests keep the processor.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson

from tabserve.artifact import Manifest
from tabserve.auth import HEADER
from tabserve.chance import random
from tabserve.metrics import RolloutMetrics
from tabserve.output import Renderer
from tabserve.predictor import joined
from tabserve.releases import Plan
from tabserve.served import ServedModel
from tabserve.types import Array, Outputs, Request, Values

API_KEY = "api-key"

# Rows that may wait to be compared, and those compared at a time: few, since a thread that computes
# for long keeps requests from the interpreter's lock.
_MOST_WAITING = 8192
_MOST_AT_ONCE = 128
# For so long rows gather, and so many times as long as it worked the thread then rests.
_GATHER_S = 0.02
_REST = 4.0


@dataclass(frozen=True, slots=True)
class _Answered:
    """One call of the model that answered."""

    values: Values
    outputs: Outputs
    n_rows: int
    seconds: float


class Trial:
    """live, tried: both ready."""

    def __init__(
        self, plan: Plan, live: ServedModel, tried: ServedModel, metrics: RolloutMetrics
    ) -> None:
        self.plan = plan
        self.live = live
        self.tried = tried
        # The one whose answers are looked at, and the one that computes them again.
        shown, other = (tried, live) if plan.kind == "canary" else (live, tried)
        self._shown, self._aside = shown, _Aside(plan, shown, other, _Counted(live, tried, metrics))
        shown.predictor.observer = self._aside.take

    def close(self) -> None:
        """Compare no more; returns at once."""
        if self._shown.is_ready:
            self._shown.predictor.observer = None
        self._aside.close()

    def is_for_tried(self, request: Request) -> bool:
        """Whether the tried version answers it."""
        if self.plan.sticky is None:
            return random() < self.plan.share
        value = _sticky_value(request, self.plan.sticky)
        return value is not None and self._place(value) < self.plan.share

    def _place(self, value: Any) -> float:
        """From 0 to 1, the same for a value in every worker, whatever the share is."""
        told = f"{self.tried.manifest.name}\0{self.plan.version}\0".encode() + orjson.dumps(value)
        return int.from_bytes(blake2b(told, digest_size=8).digest()) / 2**64


def _sticky_value(request: Request, field: str) -> Any:
    """None where it has none; of a batch that of the first record."""
    if field == API_KEY:
        return request.headers.get(HEADER.lower())
    try:
        content = orjson.loads(request.body)
        if isinstance(content, list):
            content = content[0]
        elif isinstance(content.get("columns"), dict):
            content = {name: column[0] for name, column in content["columns"].items()}
        return content.get(field)
    except (ValueError, LookupError, AttributeError, TypeError):
        return None  # it will be refused


class _Counted:
    """The metrics of one pair of versions."""

    def __init__(self, live: ServedModel, tried: ServedModel, metrics: RolloutMetrics) -> None:
        pair = (live.manifest.name, live.manifest.version, tried.manifest.version)
        self.rows = metrics.rows.labels(*pair)
        self.equal_labels = metrics.equal_labels.labels(*pair)
        self.difference = metrics.difference.labels(*pair)
        self.largest_difference = metrics.largest_difference.labels(*pair)
        self.dropped = metrics.dropped.labels(*pair)
        self.failed = metrics.failed.labels(*pair)
        self.calls = metrics.calls.labels(*pair)
        self.seconds = {
            model: metrics.seconds.labels(*pair, model.manifest.version) for model in (live, tried)
        }
        self._largest = 0.0

    def compared(self, found: "Agreement") -> None:
        self.rows.inc(found.n_rows)
        self.equal_labels.inc(found.n_equal)
        self.difference.inc(found.sum_of_differences)
        if found.largest_difference > self._largest:
            self._largest = found.largest_difference
            self.largest_difference.set(self._largest)


class _Aside:
    """Computes again, with `other`, what `shown` has answered."""

    def __init__(
        self, plan: Plan, shown: ServedModel, other: ServedModel, counted: _Counted
    ) -> None:
        # Of a canary each answer is looked at: they are a share of the requests already.
        self._share = plan.share if plan.kind == "shadow" else 1.0
        self._shown = shown.manifest
        self._other = other
        self._comparison = Comparison(shown.manifest, other.manifest)
        # The live model, where only one thread may call it at a time, is not kept for many rows.
        self._together = other.manifest.parity.joinable and (
            plan.kind == "shadow" or other.loaded.engine.reentrant
        )
        self._seconds = counted.seconds[shown], counted.seconds[other]
        self._counted = counted
        self._waiting: deque[_Answered] = deque()
        self._n_waiting = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tabserve-rollout", daemon=True)
        self._thread.start()

    def take(self, values: Values, outputs: Outputs, n_rows: int, seconds: float) -> None:
        """Called on the path of requests: it only notes them."""
        if self._share < 1 and random() >= self._share:
            return
        if self._n_waiting + n_rows > _MOST_WAITING:
            self._counted.dropped.inc(n_rows)
            return
        self._n_waiting += n_rows  # if two threads did so at once, the bound is a little off
        self._waiting.append(_Answered(values, outputs, n_rows, seconds))
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        self._closing.set()
        self._wake.set()

    def _work(self) -> None:
        while True:
            self._wake.wait()
            if self._closing.wait(_GATHER_S):
                return
            self._wake.clear()
            while self._waiting:
                began = time.monotonic()
                self._compare(self._some())
                if self._closing.wait(_REST * (time.monotonic() - began)):
                    return

    def _some(self) -> list[_Answered]:
        found, n_rows = [self._waiting.popleft()], 0
        while self._together and self._waiting and n_rows <= _MOST_AT_ONCE:
            found.append(self._waiting.popleft())
            n_rows += found[-1].n_rows
        self._n_waiting = sum(answered.n_rows for answered in tuple(self._waiting))
        return found

    def _compare(self, answered: Sequence[_Answered]) -> None:
        """The first alone and timed, as it was answered; the others together, if they may be."""
        first, *others = answered
        seconds = self._compare_together([first])
        if seconds is not None:
            self._seconds[0].inc(first.seconds)
            self._seconds[1].inc(seconds)
            self._counted.calls.inc()
        if others:
            self._compare_together(others)

    def _compare_together(self, answered: Sequence[_Answered]) -> float | None:
        """Seconds that the model took, as they are measured of the one that answered; None where it
        failed.
        """
        n_rows = sum(one.n_rows for one in answered)
        try:
            values = self._values(answered, n_rows)
            began = time.perf_counter()
            outputs = self._other.predictor.compute(values)
            seconds = time.perf_counter() - began
            shown = {
                part: np.concatenate([one.outputs[part] for one in answered])
                for part in answered[0].outputs
            }
            found = self._comparison.agreement(shown, outputs)
        except Exception:  # noqa: BLE001 - counted; its message may hold a row
            self._counted.failed.inc(n_rows)
            return None
        self._counted.compared(found)
        return seconds

    def _values(self, answered: Sequence[_Answered], n_rows: int) -> Values:
        """With what the other version may be given and the one that answered has not."""
        values = dict(joined(self._shown.signature, answered))
        for feature in self._other.manifest.signature.features:
            if feature.name not in values:
                values[feature.name] = [None] * n_rows
        return values


@dataclass(frozen=True)
class Agreement:
    """Of two versions on some rows. n_equal: rows whose labels were."""

    n_rows: int
    n_equal: int
    sum_of_differences: float
    largest_difference: float


class Comparison:
    """What is compared of the answers of two versions, found once."""

    def __init__(self, one: Manifest, other: Manifest) -> None:
        self._numbers, self._labels = common_numbers(one, other), common_labels(one, other)
        self._labels_of_one, self._labels_of_other = _labeller(one), _labeller(other)

    def agreement(self, outputs: Outputs, others: Outputs) -> Agreement:
        """Of each row the largest difference of any number counts."""
        n_rows = len(next(iter(outputs.values())))
        differences = np.zeros(n_rows)
        for part in self._numbers:
            difference = np.abs(outputs[part] - others[part]).reshape(n_rows, -1)
            differences = np.maximum(differences, difference.max(axis=1))
        if not np.isfinite(differences).all():
            raise ValueError("no finite numbers")
        equal = np.ones(n_rows, dtype=bool)
        labels, other_labels = self._labels_of_one(outputs), self._labels_of_other(others)
        for part in self._labels:
            equal &= labels[part] == other_labels[part]
        return Agreement(
            n_rows, int(equal.sum()), float(differences.sum()), float(differences.max())
        )


def _labeller(manifest: Manifest) -> Callable[[Outputs], dict[str, Array]]:
    """Gives the classes that rows were given; of a declared output its bands, or whether it is the
    positive class.
    """
    declared = manifest.output
    if declared is None:
        return lambda outputs: {
            part: array for part, array in outputs.items() if part.endswith("label")
        }
    (part,) = _numbers(manifest)
    if declared.bands is None:
        return lambda outputs: {"": outputs[part] >= 0.5}
    names, edges = np.array(declared.bands.labels, dtype=object), declared.bands.edges
    return lambda outputs: {"": names[np.searchsorted(edges, outputs[part], side="right")]}


def common_numbers(one: Manifest, other: Manifest) -> list[str]:
    """The parts of the outputs that are numbers of the same: probabilities of the same classes."""
    return _equal(_numbers(one), _numbers(other))


def common_labels(one: Manifest, other: Manifest) -> list[str]:
    """Those of `_labeller` that say the same of both: a class, a band, or whether it is a class."""
    return _equal(_labelled(one), _labelled(other))


def _equal(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [part for part in one if part in other and one[part] == other[part]]


def _numbers(manifest: Manifest) -> dict[str, Any]:
    """By part, the classes that its numbers are for."""
    columns = Renderer(manifest.targets, manifest.output).parts
    found: dict[str, Any] = {}
    for target in manifest.targets:
        for part in map(target.part, ("value", "score", "proba")):
            if part in columns:
                column = columns[part]
                found[part] = target.classes if column is None else target.classes[column]
    return found


def _labelled(manifest: Manifest) -> dict[str, Any]:
    """By part, what its labels say."""
    declared = manifest.output
    if declared is None:
        return {t.part("label"): "class" for t in manifest.targets if t.kind == "classes"}
    if declared.bands is not None:
        return {"": "band"}
    (positive,) = _numbers(manifest).values()
    return {"": ("is", positive)} if manifest.targets[0].kind == "classes" else {}
