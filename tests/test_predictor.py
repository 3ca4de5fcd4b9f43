"""Answers of several requests out of one call of the engine."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tabserve.batching import together
from tabserve.decoding import RecordDecoder
from tabserve.errors import BadModelOutput, InvalidInput
from tabserve.output import Renderer, Target
from tabserve.predictor import Predictor
from tabserve.records import Records
from tabserve.signature import Feature, Signature, unusable
from tabserve.types import Outputs, Values

SIGNATURE = Signature(
    features=(
        Feature(name="x", type="number", nullable=True, dtype="float64"),
        Feature(name="kind", type="string", nullable=False, dtype="object"),
    )
)


class Doubling:
    """Answers 2 x, as far as `spoil` lets it."""

    name, reentrant = "doubling", True

    def __init__(self, spoil: Callable[[np.ndarray], Any]) -> None:
        self.calls: list[list[float]] = []
        self._spoil = spoil

    def predict(self, values: Values) -> Outputs:
        columns = SIGNATURE.arrays(values)
        self.calls.append(columns["x"].tolist())
        return {"value": self._spoil(2 * columns["x"])}


class Predicting:
    def __init__(self, spoil: Callable[[np.ndarray], Any] = lambda doubled: doubled) -> None:
        self.engine = Doubling(spoil)
        self.decoder = RecordDecoder(SIGNATURE)
        self.n_called: list[int] = []
        self.n_answered: list[int] = []
        self.predictor = Predictor(
            self.engine,
            SimpleNamespace(version="7", signature=SIGNATURE),  # type: ignore[arg-type]
            self.decoder,
            Renderer((Target(kind="number"),), None),
            self.n_called.append,
            self.n_answered.append,
        )

    def one(self, x: Any) -> Records:
        return self.decoder.one(b'{"x": %s, "kind": "a"}' % str(x).encode())

    def batch(self, *xs: float) -> Records:
        columns = b", ".join(b'{"x": %f, "kind": "b"}' % x for x in xs)
        return self.decoder.batch(b"[" + columns + b"]")

    def answered(self, *requests: Records) -> list[Any]:
        """The numbers of each request's answers, or its error."""
        return [
            found if isinstance(found, Exception) else [answer["prediction"] for answer in found]
            for found in together(self.predictor, requests)
        ]


def test_each_request_gets_its_own_answers_out_of_one_call() -> None:
    predicting = Predicting()

    found = predicting.answered(
        predicting.one(1), predicting.batch(2, 3), predicting.one(4), predicting.batch(5)
    )

    assert found == [[2], [4, 6], [8], [10]]
    assert predicting.engine.calls == [[1, 2, 3, 4, 5]]
    assert (predicting.n_called, predicting.n_answered) == ([5], [5])


def test_every_answer_has_an_id_of_its_own_and_the_version() -> None:
    predicting = Predicting()

    (one,), two = predicting.predictor([predicting.one(1), predicting.batch(2, 3)])

    assert list(one) == ["prediction", "model_version", "prediction_id", "prediction_timestamp"]
    assert {answer["model_version"] for answer in (one, *two)} == {"7"}
    assert len({answer["prediction_id"] for answer in (one, *two)}) == 3


def test_values_that_are_arrays_already_join_those_that_are_not() -> None:
    predicting = Predicting()
    inexact = 2**53 + 2  # looked at in full, and so made an array
    whole = predicting.one(f"{inexact}.0")
    assert isinstance(whole.values["x"], np.ndarray)

    assert predicting.answered(predicting.one(1), whole) == [[2], [2 * inexact]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda doubled: np.where(doubled == 4, np.nan, doubled),
        lambda doubled: doubled[: max(len(doubled) - 1, int(doubled[0] != 4))],
        lambda doubled: None if 4 in doubled else doubled,
        lambda doubled: 3 if 4 in doubled else doubled,
        lambda doubled: np.float64(1.0) if 4 in doubled else doubled,
    ],
    ids=["not a number", "a row too few", "nothing", "no array", "one number"],
)
def test_an_answer_that_is_none_fails_its_request_alone(spoil: Any) -> None:
    predicting = Predicting(spoil)

    first, bad, last = predicting.answered(*map(predicting.one, (1, 2, 3)))

    assert (first, last) == ([2], [6])
    assert isinstance(bad, Exception)
    assert predicting.n_answered.count(1) == 2 or predicting.n_answered == [1, 1]


def test_too_few_rows_are_handed_to_nobody() -> None:
    predicting = Predicting(lambda doubled: doubled[:-1])

    (found,) = predicting.answered(predicting.batch(1, 2, 3))

    assert isinstance(found, BadModelOutput)
    assert str(found) == "The model answered 2 rows for 3."


def test_a_refused_row_is_named_by_its_place_in_its_own_request() -> None:
    def refuse(doubled: np.ndarray) -> np.ndarray:
        if (doubled > 1e39).any():
            raise unusable({"x": doubled / 2})
        return doubled

    predicting = Predicting(refuse)

    first, bad, one = predicting.answered(
        predicting.batch(1, 2), predicting.batch(3, 1e39), predicting.one(1e39)
    )

    assert first == [2, 4]
    assert isinstance(bad, InvalidInput)
    assert isinstance(one, InvalidInput)
    assert [found["loc"] for found in bad.problems] == [("body", 1, "x")]
    assert [found["loc"] for found in one.problems] == [("body", "x")]
