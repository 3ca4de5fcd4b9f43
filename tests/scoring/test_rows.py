from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest

from tabserve.decoding import RecordDecoder
from tabserve.scoring.rows import Checked, Coded, RowChecker
from tabserve.signature import Feature, Signature


def feature(kind: Any, **about: Any) -> Feature:
    return Feature(name="x", type=kind, **({"dtype": "object"} | about))


def checker(given: Feature) -> RowChecker:
    signature = Signature(features=(given,))
    return RowChecker(signature, RecordDecoder(signature), decodes_all=False)


def checked(given: Feature, cells: Any, cells_are_text: bool = True) -> Checked:
    array = pa.array(cells, pa.string()) if cells_are_text else cells
    return checker(given).table(pa.table({"x": array}), cells_are_text)


def values(found: Checked) -> list[Any]:
    by_row = {}
    for piece in found.pieces:
        column: Any = piece.columns["x"]
        plain = column.plain() if isinstance(column, Coded) else column
        by_row |= dict(zip(piece.rows.tolist(), plain.tolist(), strict=True))
    return [by_row.get(row) for row in range(max(by_row, default=-1) + 1)]


@pytest.mark.parametrize("unknown", ["warn", "allow", "missing"])
def test_an_empty_cell_of_a_category_is_missing(unknown: Any):
    given = feature("string", categories=("a", "b"), unknown=unknown)
    found = checked(given, ["a", "", "b"])
    assert [problem["type"] for problem in found.rejects[1][1]] == ["string_type"]
    found = checked(given.model_copy(update={"nullable": True}), ["a", "", "b"])
    assert (values(found), found.rejects, found.warnings) == (["a", None, "b"], {}, {})


def test_an_empty_cell_that_is_a_category_is_one():
    given = feature("string", categories=("", "b"), nullable=True, unknown="warn")
    assert values(checked(given, ["b", ""])) == ["b", ""]


def test_dates_of_text_are_read_without_their_records():
    given = feature("datetime", dtype="datetime64[us]", nullable=True)
    with patch.object(RecordDecoder, "many", side_effect=AssertionError):
        found = checked(given, ["2026-03-29", "", "2026-03-29T13:45:00+02:00"])
    assert [str(value) for value in values(found)] == [
        "2026-03-29 00:00:00", "None", "2026-03-29 11:45:00",
    ]  # fmt: skip
    wrong = checked(given, ["2026-03-29", "2026-02-30", "7"])
    assert {row: told[1][0]["type"] for row, told in wrong.rejects.items()} == {
        1: "iso_date",
        2: "iso_date",
    }


WARNED: list[tuple[Feature, list[Any], dict[int, str]]] = [
    (feature("number", range="warn", minimum=0, maximum=9), [1.0, 10.0], {1: "out_of_range"}),
    (feature("integer", range="warn", maximum=9, categories=(1, 10)), [1, 10], {1: "out_of_range"}),
    (feature("number", nullable=True, imputed="warn"), [None, 1.0], {0: "imputed"}),
    (feature("number", default=2.0, imputed="warn"), [1.0, None], {1: "imputed"}),
    (feature("boolean", nullable=True, imputed="warn"), [True, None], {1: "imputed"}),
    (feature("string", categories=("a",), unknown="warn"), ["a", "z"], {1: "unknown_category"}),
    (
        feature("string", categories=("a",), nullable=True, unknown="missing"),
        ["z", "a", None],
        {0: "unknown_category"},
    ),
    (
        feature("datetime", dtype="datetime64[us]", nullable=True, imputed="warn"),
        ["2026-03-29", None],
        {1: "imputed"},
    ),
]


@pytest.mark.parametrize(("given", "cells", "expected"), WARNED)
def test_what_is_unusual_is_told_by_row(given: Feature, cells: Any, expected: dict[int, str]):
    found = checked(given, pa.array(cells), cells_are_text=False)
    assert not found.rejects
    told = {
        row: [(w["loc"], w["type"]) for w in warnings] for row, warnings in found.warnings.items()
    }
    assert told == {row: [(("body", "x"), kind)] for row, kind in expected.items()}
