from pathlib import Path
from typing import Any

import pytest

from tabserve.bench import rows
from tabserve.errors import BenchError

OPENAPI = {
    "paths": {
        "/predict": {
            "post": {
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "properties": {
                                    "age": {"type": "integer"},
                                    "income": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                                    "city": {"type": "string"},
                                    "member": {"type": ["boolean", "null"]},
                                },
                                "required": ["age"],
                            }
                        }
                    }
                }
            }
        }
    }
}


def file_of(folder: Path, text: str) -> Path:
    path = folder / "rows"
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str, rows_per_request: int = 1) -> list[dict[str, Any]]:
    return rows.read(file_of(folder, text), OPENAPI, rows_per_request)


def test_cells_of_a_csv_file_get_the_types_of_the_fields(tmp_path: Path) -> None:
    text = "\ufeffage,income,city,member,note\n41,12,Ulm,true,x\n41.0,1e3,7,FALSE,y\n"
    assert read(tmp_path, text) == [
        {"age": 41, "income": 12.0, "city": "Ulm", "member": True},
        {"age": 41, "income": 1000.0, "city": "7", "member": False},
    ]


def test_an_empty_cell_is_null_where_the_field_may_be_null(tmp_path: Path) -> None:
    assert read(tmp_path, "age,income,city,member\n1,,,\n") == [
        {"age": 1, "income": None, "city": "", "member": None}
    ]


@pytest.mark.parametrize(
    ("cell", "kind"), [("", "integer"), ("1.5", "integer"), ("abc", "integer")]
)
def test_a_cell_that_fits_no_type_is_an_error_with_its_place(
    tmp_path: Path, cell: str, kind: str
) -> None:
    with pytest.raises(
        BenchError, match=rf'Expected {kind}, got "{cell}" - in .*line 3, column age'
    ):
        read(tmp_path, f"age,city\n1,a\n{cell},b\n")


@pytest.mark.parametrize("cell", ["nan", "inf", "1e400"])
def test_a_number_that_json_cannot_hold_is_an_error(tmp_path: Path, cell: str) -> None:
    with pytest.raises(BenchError, match="Expected number"):
        read(tmp_path, f"age,income\n1,{cell}\n")


def test_a_csv_file_without_a_required_column_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="found none for age"):
        read(tmp_path, "city\nUlm\n")


def test_ndjson_and_a_json_list_give_the_same_records(tmp_path: Path) -> None:
    expected = [{"age": 1, "other": [None]}, {"age": 2}]
    assert read(tmp_path, '{"age":1,"other":[null]}\n\n{"age":2}') == expected
    assert read(tmp_path, '\n[{"age":1,"other":[null]},\n {"age":2}]') == expected


def test_only_a_csv_file_needs_the_schema(tmp_path: Path) -> None:
    found = [rows.is_csv(file_of(tmp_path, text)) for text in ("a,b\n", ' {"a":1}', "[]", "")]
    assert found == [True, False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one record"),
        ("[]", "at least one record"),
        ("age\n", "at least one record"),
        ("[1]", r"Expected a JSON object, got int - in .*\$\[0\]"),
        ('{"a":1}\n{"a":', "line 2"),
        ("[{", "Expected a JSON list"),
    ],
)
def test_a_file_without_records_is_an_error_that_says_where(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        read(tmp_path, text)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    binary = tmp_path / "model.onnx"
    binary.write_bytes(b"{\xff\xfe")
    with pytest.raises(BenchError, match="No such file"):
        rows.read(tmp_path / "missing", OPENAPI, 1)
    with pytest.raises(BenchError, match="UTF-8"):
        rows.read(binary, OPENAPI, 1)
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(BenchError, match="UTF-8"):
        rows.is_csv(binary)


def test_no_more_rows_are_read_than_the_bodies_are_made_of(tmp_path: Path) -> None:
    text = "age\n" + "1\n" * 3000
    assert len(read(tmp_path, text)) == 1000
    assert len(read(tmp_path, text, rows_per_request=2)) == 2000


def test_a_body_is_one_record_or_a_batch_of_records_in_turn() -> None:
    records = [{"a": 1}, {"a": 2}, {"a": 3}]
    assert rows.bodies(records, None) == [b'{"a":1}', b'{"a":2}', b'{"a":3}']
    assert rows.bodies(records, 2) == [b'[{"a":1},{"a":2}]', b'[{"a":3},{"a":1}]']
    assert rows.bodies(records[:1], 2) == [b'[{"a":1},{"a":1}]']


def test_a_record_that_json_cannot_carry_is_an_error() -> None:
    with pytest.raises(BenchError, match="64-bit"):
        rows.bodies([{"a": 10**30}], None)
