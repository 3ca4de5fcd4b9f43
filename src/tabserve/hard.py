"""Rows made to be hard for an engine: where trees decide, where numbers end, what is missing."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tabserve import runtime
from tabserve.lower import LoweredModel
from tabserve.lowered import Lowered
from tabserve.parity import columns_of
from tabserve.signature import Feature, Signature
from tabserve.types import Array, Columns, concatenate, n_rows

# More thresholds than these are sampled evenly: each is three rows, of which scikit-learn computes
# some ten thousand in a second.
MOST_THRESHOLDS = 10_000

_EXTREMES = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e-45, 1e-20, 2.0**24 + 1, 2.0**53,
             1e15, 1e30, -1e30, 3.4e38, 1e39, -1e39, 1e300)  # fmt: skip
_UNKNOWN = "a category that nobody has"


def hard_columns(
    signature: Signature, rows: list[dict[str, Any]], model: LoweredModel | None
) -> Columns:
    """rows: usual ones, which are altered in one feature at a time.
    model: whose thresholds are sought; None where they are not known.
    """
    base = columns_of(signature, rows)
    altered = [
        _altered(base, feature, columns)
        for feature in signature.features
        for columns in (_special(signature, feature), _decisive(signature, base, feature, model))
        if len(columns)
    ]
    return concatenate([base, *altered])


def _altered(base: Columns, feature: Feature, values: Array) -> Columns:
    """Usual rows in turn, with the values for this feature."""
    places = np.arange(len(values)) % n_rows(base)
    return {
        name: values if name == feature.name else column[places] for name, column in base.items()
    }


def _special(signature: Signature, feature: Feature) -> Array:
    """Ends of ranges, extremes, every category, an unknown one, a missing value."""
    values: list[Any] = [None] if feature.nullable else []
    if feature.categories is not None:
        values += feature.categories
        if feature.hands_on_unknown and feature.type == "string":
            values.append(_UNKNOWN)
    elif feature.type == "boolean":
        values += [False, True]
    elif feature.type == "string":
        values += [*feature.typical, _UNKNOWN, ""]
    else:
        values += _numbers(feature)
    return feature.array(values)


def _numbers(feature: Feature) -> Iterable[int | float]:
    low, high = feature.minimum or 0.0, feature.maximum or 0.0
    least, largest = feature.bounds
    span = high - low or 1.0
    numbers = [low, high, low - span, high + span, (low + high) / 2, *_EXTREMES]
    within = [number for number in numbers if least <= number <= largest]
    return [int(number) for number in within] if feature.type == "integer" else within


def drawn_columns(signature: Signature, rows: list[dict[str, Any]], n: int) -> Columns:
    """Rows that nobody has seen: of each feature a value of some row, or between those of two."""
    base, random = columns_of(signature, rows), np.random.default_rng(0)
    drawn = {}
    for feature in signature.features:
        column = base[feature.name]
        values = column[random.integers(len(column), size=n)]
        if feature.type == "number" and not feature.categories:
            others = column[random.integers(len(column), size=n)]
            values = values + random.random(n) * (others - values)
        drawn[feature.name] = values
    return drawn


def _decisive(
    signature: Signature, base: Columns, feature: Feature, model: LoweredModel | None
) -> Array:
    """The feature's values on either side of each threshold, and their neighbours in float32."""
    if model is None or model.splits is None:
        return np.empty(0)
    if feature.type not in ("integer", "number") or feature.categories:
        return np.empty(0)
    session = runtime.session(model.splits, "the splits")
    split = _Split(session, model.plan, signature, base, feature)
    found = [
        split.values_at(output, column, thresholds)
        for output, by_column in enumerate(model.thresholds)
        for column, thresholds in by_column.items()
    ]
    values = np.unique(np.concatenate([np.empty(0), *found]))
    if len(values) > MOST_THRESHOLDS:
        values = values[np.linspace(0, len(values) - 1, MOST_THRESHOLDS).astype(int)]
    least, largest = feature.bounds
    if feature.type == "integer":
        values = np.concatenate([np.floor(values), np.ceil(values)])
    else:
        near = values.astype(np.float32)
        below = np.nextafter(near, np.float32(-np.inf)).astype(np.float64)
        above = np.nextafter(near, np.float32(np.inf)).astype(np.float64)
        values = np.concatenate([values, below, near, above])
    values = values[(values >= least) & (values <= largest)]
    return feature.array(values.astype(np.int64 if feature.type == "integer" else float).tolist())


class _Split:
    """What the trees see of one feature, all others being usual."""

    def __init__(
        self, session: Any, plan: Lowered, signature: Signature, base: Columns, feature: Feature
    ) -> None:
        self._session = session
        self._place = [one.name for one in signature.features].index(feature.name)
        self._row = plan.matrix(signature, {name: column[:1] for name, column in base.items()})
        self._low = (feature.minimum or 0.0) - 1.0
        self._high = (feature.maximum or 0.0) + 1.0
        self._ends = self._seen(np.array([self._low, self._high]))

    def values_at(self, output: int, column: int, thresholds: Array) -> Array:
        """Where what the trees see in a column passes each threshold, found by halving; none where
        it does not rest on this feature, or not within its range.
        """
        first, last = self._ends[output][:, column]
        if first == last:
            return np.empty(0)
        rising = last > first
        inside = (thresholds > min(first, last)) & (thresholds < max(first, last))
        wanted = thresholds[inside]
        low, high = np.full(len(wanted), self._low), np.full(len(wanted), self._high)
        for _ in range(70):  # more than the bits of a double
            middle = (low + high) / 2
            goes_left = self._seen(middle)[output][:, column] <= wanted
            low = np.where(goes_left == rising, middle, low)
            high = np.where(goes_left == rising, high, middle)
        return np.concatenate([low, high])

    def _seen(self, values: Array) -> list[Array]:
        matrix = np.repeat(self._row, len(values), axis=0)
        matrix[:, self._place] = values
        seen: list[Array] = self._session.run(None, {self._session.get_inputs()[0].name: matrix})
        return seen
