"""What stands around a lowered graph: values to numbers before it, scores to answers after it.

The graph takes one matrix of doubles and ends at raw scores. Whatever rests on exp is computed
here, by numpy, whose answer for a value does not depend on its neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tabserve import float32
from tabserve.output import Target
from tabserve.signature import Scalar, Signature
from tabserve.types import Array, Outputs, Parts, Values

# What stands in the graph for a category that is missing, and for one that no step knows.
MISSING = -2.0
UNKNOWN = -1.0

# Dtypes in which the model's own DataFrame holds less than the values that are sent.
ROUNDED = {"float16": np.float16, "float32": np.float32, "Float32": np.float32}


class Link(BaseModel):
    """How the scores of one target, of shape (n_rows, n_scores), become its parts.

    proba: "itself" where the scores are probabilities; "logistic" where the one score is the
    second class's; "logistic_each" where each score is one class's against all others.
    label: the class with the largest probability or score; the second one where the only score is
    positive, or is not negative; the class at the place that stands after the scores; or that at
    the place `positive` where its probability is at least `threshold`, and else the other one.
    value: of a regressor.
    score: of an isolation forest, -(2 ** -(x / divisor)) - offset of the first score x.
    precision: "single" where the scores are float32 and the link is XGBoost's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    proba: Literal["itself", "logistic", "logistic_each", "softmax"] | None = None
    label: Literal[
        "largest_proba", "largest_score", "positive", "not_negative", "place", "threshold"
    ] = "largest_proba"
    value: Literal["itself", "exp", "expm1", "log", "log1p", "logistic"] = "itself"
    threshold: float = 0.5
    positive: Literal[0, 1] = 1
    precision: Literal["double", "single"] = "double"
    score: tuple[float, float] | None = None


# Of a feature, where rows are put into an order; see `alike`.
MOST_PIECES = 8
_BITS = 3
_PIECES = np.arange(MOST_PIECES, dtype=np.uint16)


class Cut(BaseModel):
    """feature: its place. edges: ascending, where its numbers are cut into pieces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: int
    edges: tuple[float, ...] = Field(max_length=MOST_PIECES - 1)


class Lowered(BaseModel):
    """vocabularies: by feature, the values whose places stand for them in the graph.
    links: one for each target.
    safe_below: where all inputs are smaller, nothing in the graph overflows.
    cuts: rows of the same pieces mostly go the same ways through the trees; see `alike`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabularies: dict[str, tuple[Scalar, ...]]
    links: tuple[Link, ...]
    safe_below: float = 0.0
    cuts: tuple[Cut, ...] = Field(default=(), max_length=4)

    @cached_property
    def _codes(self) -> dict[str, dict[Scalar | None, float]]:
        return {
            name: {None: MISSING} | {value: float(i) for i, value in enumerate(values)}
            for name, values in self.vocabularies.items()
        }

    def matrix(self, signature: Signature, values: Values) -> Array:
        """Shape (n_rows, n_features), float64: what the graph takes."""
        all_codes = self._codes
        columns = []
        for feature in signature.features:
            column = values[feature.name]
            codes = all_codes.get(feature.name)
            if codes is not None:
                column = coded(column, codes)
            elif feature.dtype in ROUNDED:
                # As the model's own DataFrame rounds it.
                column = np.array(column, dtype=np.float64).astype(ROUNDED[feature.dtype])
            columns.append(column)
        return np.ascontiguousarray(np.array(columns, dtype=np.float64).T)

    def alike(self, matrix: Array) -> Array:
        """Places of the rows in an order in which those of the same pieces are neighbours.

        The highest bits of all features' pieces come first, then their next ones: rows that are
        near in the order are near in all features (Morton's order).
        """
        keys = np.zeros(len(matrix), dtype=np.uint16)
        for feature, edges, bits in self._pieces:
            keys |= bits[edges.searchsorted(matrix[:, feature])]
        return np.argsort(keys, kind="stable")

    @cached_property
    def _pieces(self) -> list[tuple[int, Array, Array]]:
        """By cut: the feature, the edges, and of each piece its bits in the order's key."""
        found = []
        for place, cut in enumerate(reversed(self.cuts)):
            bits = np.zeros(MOST_PIECES, dtype=np.uint16)
            for bit in range(_BITS):
                bits |= (_PIECES >> bit & 1) << (bit * len(self.cuts) + place)
            found.append((cut.feature, np.array(cut.edges), bits))
        return found

    def codes(self, signature: Signature) -> list[tuple[str, dict[Scalar | None, float] | None]]:
        """By feature, what its values are looked up in, if they are."""
        return [(feature.name, self._codes.get(feature.name)) for feature in signature.features]

    def linked(
        self, targets: tuple[Target, ...], parts: Parts
    ) -> Callable[[Sequence[Array]], Outputs]:
        """What makes outputs of scores, one array for each target. parts: see Renderer.parts."""
        linked = [_Linked(*pair, parts) for pair in zip(targets, self.links, strict=True)]

        def outputs(scores: Sequence[Array]) -> Outputs:
            found: Outputs = {}
            for target, raw in zip(linked, scores, strict=True):
                target.add_to(found, raw)
            return found

        return outputs


def coded(column: Array | Sequence[Any], codes: Mapping[Scalar | None, float]) -> list[float]:
    """What stands in the graph for each value."""
    listed = column.tolist() if isinstance(column, np.ndarray) else column
    if isinstance(column, np.ndarray) and column.dtype.kind == "f":  # a missing number is NaN there
        listed = [None if value != value else value for value in listed]
    return [codes.get(value, UNKNOWN) for value in listed]


class _Linked:
    """One target: what is the same for every call is found once, since for a single row looking it
    up costs as much as computing.
    """

    def __init__(self, target: Target, link: Link, parts: Parts) -> None:
        self._link = link
        self._value = target.part("value") if target.kind == "number" else None
        self._score, self._proba, self._label = (
            name if (name := target.part(part)) in parts else None
            for part in ("score", "proba", "label")
        )
        self._column = None if self._proba is None else parts[self._proba]
        self._is_proba = link.proba in ("itself", None) and link.precision == "double"
        self._is_proba = self._is_proba and link.label != "place"
        self._classes = np.empty(len(target.classes), dtype=object)
        self._classes[:] = target.classes

    def add_to(self, outputs: Outputs, raw: Array) -> None:
        if self._value is not None:
            outputs[self._value] = _value(self._link, raw)
            return
        if self._score is not None:
            outputs[self._score] = _score(self._link, raw)
        if self._proba is None and self._label is None:
            return
        proba = raw if self._is_proba else _proba(self._link, raw)
        if self._proba is not None:
            outputs[self._proba] = _chosen(proba, self._column)
        if self._label is not None:
            outputs[self._label] = self._classes[_label_places(self._link, raw, proba)]


def _chosen(proba: Array, column: int | None) -> Array:
    return proba if column is None else proba[:, column if proba.shape[1] > 1 else 0]


def _score(link: Link, raw: Array) -> Array:
    assert link.score is not None
    divisor, offset = link.score
    shares = raw[:, 0] / divisor if divisor else np.ones(len(raw))
    return -(2**-shares) - offset


def _value(link: Link, raw: Array) -> Array:
    if link.value == "itself":
        return raw[:, 0]
    if link.precision == "single":
        function = float32.exp if link.value == "exp" else float32.logistic
        return function(raw[:, 0].astype(np.float32)).astype(np.float64)
    if link.value == "logistic":
        return logistic(raw[:, 0])
    with np.errstate(all="ignore"):  # as the library: whoever renders it refuses what is infinite
        value: Array = getattr(np, link.value)(raw[:, 0])
    return value


def _proba(link: Link, raw: Array) -> Array:
    if link.label == "place":
        raw = raw[:, :-1]
    if link.precision == "single":
        raw = raw.astype(np.float32)
    if link.proba == "logistic":
        positive = (
            float32.logistic(raw[:, 0]) if link.precision == "single" else logistic(raw[:, 0])
        )
        return np.stack([1 - positive, positive], axis=1).astype(np.float64)
    if link.proba == "logistic_each":
        return logistic(raw)
    if link.proba == "softmax":
        shares = float32.softmax(raw) if link.precision == "single" else softmax(raw)
        return shares.astype(np.float64)
    return raw


def logistic(scores: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow on either side."""
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1.0, small) / (1.0 + small)


def softmax(scores: Array) -> Array:
    """scores: shape (n_rows, n_classes)."""
    with np.errstate(invalid="ignore"):  # of scores that are infinite, as the library
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    # Class by class: numpy's own sum along a row adds in another order for another width.
    total = exponentials[:, 0].copy()
    for column in range(1, scores.shape[1]):
        total += exponentials[:, column]
    shares: Array = exponentials / total[:, np.newaxis]
    return shares


def _label_places(link: Link, raw: Array, proba: Array) -> Array:
    if link.label == "positive":
        return (raw[:, 0] > 0).astype(np.intp)
    if link.label == "not_negative":
        return (raw[:, 0] >= 0).astype(np.intp)
    if link.label == "place":
        return raw[:, -1].astype(np.intp)
    if link.label == "threshold":
        is_positive = proba[:, link.positive] >= link.threshold
        return np.where(is_positive, link.positive, 1 - link.positive)
    places: Array = (proba if link.label == "largest_proba" else raw).argmax(axis=1)
    return places
