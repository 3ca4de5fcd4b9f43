"""Comparison in the exactness classes, and the proof on golden rows."""

from typing import Any

import numpy as np
import pytest

from tabserve.artifact import GoldenRows
from tabserve.errors import ArtifactError, NotReproduced
from tabserve.parity import compare, in_batches, prove
from tabserve.signature import Feature, Signature
from tabserve.types import Outputs, Values

SIGNATURE = Signature(features=(Feature(name="x", type="number", dtype="float64"),))


class Doubling:
    """Adds `error` to every answer of a batch of more than one row."""

    name = "doubling"

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def predict(self, columns: Values) -> Outputs:
        values = 2 * np.asarray(columns["x"])
        return {"value": values + self.error if len(values) > 1 else values}


def golden(*values: float) -> GoldenRows:
    return GoldenRows(
        rows=[{"x": value} for value in values], outputs={"value": 2 * np.array(values)}
    )


def value(number: float) -> dict[str, Any]:
    return {"value": np.array([1000.0, number])}


@pytest.mark.parametrize(
    ("exactness", "part", "found", "same"),
    [
        ("bits", "value", 1.0, True),
        ("bits", "value", np.nextafter(1.0, 2), False),
        ("close", "value", 1 + 9e-10, True),  # the scale is 1000, the largest golden output
        ("close", "value", 1 + 2e-9, False),
        ("close", "proba", 1 - 9e-13, True),
        ("close", "proba", 1 - 2e-12, False),
        ("close", "price.proba", 1 - 2e-12, False),
        ("close", "value", np.nan, False),
        ("bits", "value", np.inf, False),
        ("tolerance", "proba", 1 - 9e-4, True),
        ("tolerance", "proba", 1 - 2e-3, False),
        ("tolerance", "value", 1.9, True),
        ("tolerance", "value", 2.1, False),
        ("tolerance", "value", np.nan, False),
    ],
)
def test_numbers_are_compared_in_their_class(
    exactness: Any, part: str, found: float, same: bool
) -> None:
    expected = {part: np.array([1000.0, 1.0])}
    comparison = compare(expected, {part: np.array([1000.0, found])}, exactness, tolerance=1e-3)
    assert (comparison.difference is None) is same
    if comparison.difference is not None:
        assert (comparison.difference.row, comparison.difference.part) == (1, part)


@pytest.mark.parametrize("exactness", ["bits", "close", "tolerance"])
def test_labels_are_equal_in_all_classes(exactness: Any) -> None:
    expected = {"label": np.array(["a", "b"], object)}
    assert compare(expected, expected, exactness).difference is None
    other = compare(expected, {"label": np.array(["a", "c"], object)}, exactness).difference
    assert other is not None
    assert (other.row, other.expected, other.found) == (1, "b", "c")


@pytest.mark.parametrize("found", [{}, {"value": np.zeros(3)}, {"value": np.zeros((2, 2))}])
def test_other_parts_or_shapes_are_never_the_same(found: Any) -> None:
    with pytest.raises(NotReproduced):
        compare(value(1.0), found, "close")
    with pytest.raises(NotReproduced):
        compare({}, value(1.0), "close")


def test_batches_are_put_together_in_order() -> None:
    columns = {"x": np.arange(10.0)}
    assert in_batches(Doubling(), columns, 4)["value"].tolist() == (2 * np.arange(10.0)).tolist()


def test_a_proof_gives_the_largest_difference_and_names_the_row_that_differs() -> None:
    assert prove(Doubling(), SIGNATURE, golden(1.0, 2.0), "bits", [1, 2]) == 0.0
    assert prove(Doubling(1e-13), SIGNATURE, golden(1.0, 2.0), "close", [1, 2]) <= 2e-13
    with pytest.raises(NotReproduced, match=r"row 1 of golden.jsonl, value: expected 2.0"):
        prove(Doubling(1e-6), SIGNATURE, golden(1.0, 2.0), "close", [1, 2])


def test_a_way_of_its_own_for_a_row_as_requests_bring_it_is_proven_too() -> None:
    class Other(Doubling):
        def predict(self, columns: Values) -> Outputs:
            found = super().predict(columns)["value"]
            return {"value": found + isinstance(columns["x"], list)}

    prove(Other(), SIGNATURE, golden(1.0, 2.0), "bits", [2])
    with pytest.raises(NotReproduced, match="row 1"):
        prove(Other(), SIGNATURE, golden(1.0, 2.0), "bits", [1, 2])


@pytest.mark.parametrize("row", [{}, {"x": 1.0, "y": 2}, {"x": None}, {"x": "1"}, {"x": 2**60 + 1}])
def test_a_golden_row_that_does_not_fit_the_signature_is_named(row: dict[str, Any]) -> None:
    rows = GoldenRows(rows=[{"x": 1.0}, row], outputs={"value": np.array([2.0, 2.0])})
    with pytest.raises(ArtifactError, match=r"Row 2 of golden.jsonl"):
        prove(Doubling(), SIGNATURE, rows, "bits", [1])
