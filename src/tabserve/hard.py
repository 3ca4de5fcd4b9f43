"""Rows made to be hard for an engine: where trees decide, where numbers end, what is missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tabserve import runtime
from tabserve.lower import LoweredModel
from tabserve.lowered import Lowered
from tabserve.parity import columns_of
from tabserve.signature import Feature, Signature
from tabserve.types import Array, Columns, concatenate, n_rows

# More thresholds of a feature than these are sampled evenly: each is three rows, of which
# scikit-learn computes some ten thousand in a second.
MOST_THRESHOLDS = 10_000
# Values in all hard rows together; of a wide model's rows as many are drawn evenly. 6 million take
# some seconds: 3,000 rows of 2,000 features.
MOST_VALUES = 6_000_000
# Rows near the end of float32 and beyond it, which trees refuse, some only when they are scaled:
# the model is asked about each of them alone, in calls that take 60 ms with 2,000 features.
_HUGE = 1e37
_LEAST_HUGE, _MOST_HUGE, _MOST_HUGE_VALUES = 16, 64, 32_000
# Of a matrix that is computed at once.
_MOST_CELLS = 2**21

_EXTREMES = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e-45, 1e-20, 2.0**24 + 1, 2.0**53,
             1e15, 1e30, -1e30, 3.4e38, 1e39, -1e39, 1e300)  # fmt: skip


@dataclass(frozen=True)
class HardRows:
    """n_known: how many there are, of which a wide model's were drawn."""

    columns: Columns
    n_known: int


def hard_rows(
    signature: Signature, rows: list[dict[str, Any]], model: LoweredModel | None
) -> HardRows:
    """rows: usual ones, which are altered in one feature at a time.
    model: whose thresholds are sought; None where they are not known.
    """
    base = columns_of(signature, rows)
    features = signature.features
    most = MOST_VALUES // len(features)
    decisive, n_left_out = _decisive(signature, base, model, most)
    values = [
        np.concatenate([special, near]) if len(near) else special
        for special, near in zip(
            (_special(signature, feature) for feature in features), decisive, strict=True
        )
    ]
    owners = np.repeat(np.arange(len(features)), [len(column) for column in values])
    chosen = _chosen(values, most)
    altered = _altered(base, signature, values, owners, chosen)
    n_known = n_rows(base) + len(owners) + n_left_out
    return HardRows(concatenate([base, altered]), n_known)


def _chosen(values: list[Array], most: int) -> Array:
    """Places in all the values, the huge ones last: a library that refuses one of them refuses its
    neighbours too, which finds them quickly.
    """
    is_huge = np.concatenate([
        np.abs(column) > _HUGE if column.dtype.kind == "f" else np.zeros(len(column), dtype=bool)
        for column in values
    ])  # fmt: skip
    chosen = _drawn(np.arange(len(is_huge)), most)
    huge = chosen[is_huge[chosen]]
    most_huge = min(_MOST_HUGE, max(_LEAST_HUGE, _MOST_HUGE_VALUES // len(values)))
    return np.concatenate([chosen[~is_huge[chosen]], _drawn(huge, most_huge)])


def _drawn(places: Array, most: int) -> Array:
    """Evenly."""
    if len(places) <= most:
        return places
    drawn: Array = places[np.linspace(0, len(places) - 1, most).astype(int)]
    return drawn


def _altered(
    base: Columns, signature: Signature, values: list[Array], owners: Array, chosen: Array
) -> Columns:
    """Usual rows in turn, each with one value of the feature that owns it.

    owners: of all the values the feature's place. chosen: places in all the values.
    """
    usual = np.arange(len(chosen)) % n_rows(base)
    starts = np.searchsorted(owners, np.arange(len(values)))
    order = np.argsort(owners[chosen], kind="stable")
    ends = np.searchsorted(owners[chosen][order], np.arange(len(values) + 1))
    found = {}
    for place, feature in enumerate(signature.features):
        column = base[feature.name][usual]
        mine = order[ends[place] : ends[place + 1]]
        column[mine] = values[place][chosen[mine] - starts[place]]
        found[feature.name] = column
    return found


def _special(signature: Signature, feature: Feature) -> Array:
    """Ends of ranges, extremes, every category, an unknown one, a missing value."""
    values: list[Any] = [None] if feature.nullable else []
    if feature.categories is not None:
        values += feature.categories
        if feature.hands_on_unknown and feature.stranger is not None:
            values.append(feature.stranger)
        if feature.takes_any_number:
            values += _numbers(feature)
    elif feature.type == "boolean":
        values += [False, True]
    elif feature.type == "string":
        values += [*feature.typical, feature.stranger, ""]
    else:
        values += _numbers(feature)
    return feature.array(values)


def _numbers(feature: Feature) -> Iterable[int | float]:
    low, high = feature.minimum or 0.0, feature.maximum or 0.0
    least, largest = feature.bounds
    span = high - low or 1.0
    numbers = [low, high, low - span, high + span, (low + high) / 2, *_EXTREMES]
    within = [number for number in numbers if least <= number <= largest]
    if feature.type != "integer":
        return within
    # numpy has no opposite of the least of a dtype, and gives back itself; 64 bits do not take it.
    ends = [end for end in (least, largest) if abs(end) < 2**53]
    return [int(number) for number in (*within, *ends)]


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
    signature: Signature, base: Columns, model: LoweredModel | None, most: int
) -> tuple[list[Array], int]:
    """By feature, the values on either side of each threshold and their neighbours in float32; and
    how many more there would be, were they not too many.
    """
    features = signature.features
    if model is None or model.splits is None:
        return [np.empty(0)] * len(features), 0
    numbers = [place for place, feature in enumerate(features) if feature.takes_any_number]
    session = runtime.session(model.splits, "the splits")
    split = _Split(session, model.plan, signature, base)
    passed, n_left_out = split.passed(np.array(numbers, dtype=int), model.thresholds, most)
    found = [np.empty(0)] * len(features)
    for place in numbers:
        found[place] = _near(features[place], passed.get(place, np.empty(0)))
    return found, n_left_out


# Rows that come of one threshold: both sides, and of each the neighbours.
_ROWS_OF_A_THRESHOLD = 8


def _near(feature: Feature, values: Array) -> Array:
    values = _drawn(np.unique(values), MOST_THRESHOLDS)
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


class _Crossing(NamedTuple):
    """Thresholds that a column of an output passes while a feature goes through its range.

    column: its place among those of the output that have thresholds.
    """

    feature: int
    output: int
    column: int
    is_rising: bool
    thresholds: Array


class _Split:
    """What the trees see of one feature, all others being usual."""

    def __init__(self, session: Any, plan: Lowered, signature: Signature, base: Columns) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._row = plan.matrix(signature, {name: column[:1] for name, column in base.items()})
        self._low = np.array([(one.minimum or 0.0) - 1.0 for one in signature.features])
        self._high = np.array([(one.maximum or 0.0) + 1.0 for one in signature.features])

    def passed(
        self, features: Array, splits: Sequence[Mapping[int, Array]], most: int
    ) -> tuple[dict[int, Array], int]:
        """By feature, the values at which what the trees see in any column passes a threshold; none
        where it does not rest on the feature, or not within its range.

        features: places. splits: of each output the thresholds by column.
        Second: how many rows the thresholds would have come to that were left out.
        """
        columns = [np.array(sorted(by_column), dtype=int) for by_column in splits]
        sought = self._sought(features, splits, columns)
        counts = [len(one.thresholds) for one in sought]
        total = sum(counts)
        chosen = _drawn(np.arange(total), max(1, most // _ROWS_OF_A_THRESHOLD))
        owners = np.repeat(np.arange(len(sought)), counts)[chosen]
        thresholds = np.concatenate([np.empty(0), *(one.thresholds for one in sought)])[chosen]
        found: dict[int, list[Array]] = {}
        for output in range(len(splits)):
            mine = np.array([sought[owner].output == output for owner in owners], dtype=bool)
            if not mine.any():
                continue
            of = [sought[owner] for owner in owners[mine]]
            place = np.array([one.feature for one in of])
            column = np.array([one.column for one in of])
            rising = np.array([one.is_rising for one in of])
            ends = self._halved(output, place, column, columns, thresholds[mine], rising)
            for feature in np.unique(place):
                found.setdefault(int(feature), []).extend(end[place == feature] for end in ends)
        left_out = (total - len(chosen)) * _ROWS_OF_A_THRESHOLD
        return {feature: np.concatenate(values) for feature, values in found.items()}, left_out

    def _sought(
        self, features: Array, splits: Sequence[Mapping[int, Array]], columns: list[Array]
    ) -> list[_Crossing]:
        """columns: of each output, those that have thresholds."""
        first = self._seen(features, self._low[features], columns)
        last = self._seen(features, self._high[features], columns)
        found = []
        for output, (before, after) in enumerate(zip(first, last, strict=True)):
            for i, j in zip(*np.nonzero(before != after), strict=True):
                thresholds = splits[output][int(columns[output][j])]
                within = _within(thresholds, before[i, j], after[i, j])
                if len(within):
                    is_rising = bool(after[i, j] > before[i, j])
                    found.append(_Crossing(features[i], output, j, is_rising, within))
        return found

    def _halved(
        self,
        output: int,
        place: Array,
        column: Array,
        columns: list[Array],
        thresholds: Array,
        rising: Array,
    ) -> tuple[Array, Array]:
        """The last value on either side of each threshold."""
        low, high = self._low[place], self._high[place]
        every = np.arange(len(place))
        for _ in range(70):  # more than the bits of a double
            middle = (low + high) / 2
            seen = self._seen(place, middle, columns)[output][every, column]
            goes_left = seen <= thresholds
            low = np.where(goes_left == rising, middle, low)
            high = np.where(goes_left == rising, high, middle)
        return low, high

    def _seen(self, places: Array, values: Array, columns: list[Array]) -> list[Array]:
        """By output, what is seen in the columns, a row for each value in the place of its own."""
        at_once = max(1, _MOST_CELLS // self._row.shape[1])
        parts = []
        for start in range(0, max(1, len(places)), at_once):
            some = places[start : start + at_once]
            matrix = np.repeat(self._row, len(some), axis=0)
            matrix[np.arange(len(some)), some] = values[start : start + at_once]
            seen = self._session.run(None, {self._input: matrix})
            parts.append([one[:, wanted] for one, wanted in zip(seen, columns, strict=True)])
        return [np.concatenate(some) for some in zip(*parts, strict=True)]


def _within(thresholds: Array, first: float, last: float) -> Array:
    return thresholds[(thresholds > min(first, last)) & (thresholds < max(first, last))]
