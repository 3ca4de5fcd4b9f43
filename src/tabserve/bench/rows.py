"""Records of a file as a model's input, and the request bodies made of records."""

import csv
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TextIO

import orjson

from tabserve.bench.openapi import Field, record_fields
from tabserve.errors import BenchError

Record = dict[str, Any]

# Both bound the memory: at 1 kB a row the bodies take 100 MB at most.
_MAX_BODIES = 1_000
_MAX_ROWS = 100_000


def is_csv(path: Path) -> bool:
    """Whether the file is neither a JSON list nor NDJSON, and so needs the schema for its types."""
    with _open(path) as file:
        return _first_character(path, file) not in ("[", "{")


def read(path: Path, openapi: Any, rows_per_request: int) -> list[Record]:
    """The file's records, as many as bodies are made of.

    openapi: the server's openapi.json, which only a CSV file needs. A CSV file's cells get the
    types of the record's fields; columns that are no field are dropped.
    Raises BenchError if the file cannot be read as records.
    """
    n_rows = max(rows_per_request, min(_MAX_ROWS, _MAX_BODIES * rows_per_request))
    with _open(path) as file:
        first = _first_character(path, file)
        if first == "[":
            records = _json_list(path, file)
        elif first == "{":
            records = _ndjson(path, file)
        else:
            records = _csv(path, file, record_fields(openapi)) if first else iter(())
        try:
            found = list(islice(records, n_rows))
        except (UnicodeDecodeError, csv.Error) as error:
            raise _no_text(path, error) from error
    if not found:
        raise BenchError(f"Expected at least one record, found none in {path}")
    return found


def bodies(records: list[Record], batch: int | None) -> list[bytes]:
    """JSON bodies to be sent in turn: one record each, or a list of `batch` records each."""
    try:
        if batch is None:
            return [orjson.dumps(record) for record in records[:_MAX_BODIES]]
        endless = cycle(records)
        n_bodies = min(_MAX_BODIES, -(-len(records) // batch))
        return [orjson.dumps(list(islice(endless, batch))) for _ in range(n_bodies)]
    except orjson.JSONEncodeError as error:
        raise BenchError(f"Expected records that JSON can carry: {error}") from error


def _open(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise BenchError(
            f"Expected a readable file of records, got {path}: {error.strerror}"
        ) from error


def _no_text(path: Path, error: Exception) -> BenchError:
    return BenchError(f"Expected a text file of records in UTF-8, got {path}: {error}")


def _first_character(path: Path, file: TextIO) -> str:
    """The first character that is not a space; the file is at its beginning again."""
    character = " "
    try:
        while character.isspace():
            character = file.read(1)
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from error
    file.seek(0)
    return character


def _json_list(path: Path, file: TextIO) -> Iterator[Record]:
    try:
        records = orjson.loads(file.read())
    except orjson.JSONDecodeError as error:
        raise BenchError(f"Expected a JSON list of records in {path}: {error}") from error
    for position, record in enumerate(records):
        yield _checked(record, f"{path}, $[{position}]")


def _ndjson(path: Path, file: TextIO) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if line.isspace():
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BenchError(
                f"Expected one JSON record a line (NDJSON) or a JSON list, found"
                f" {error} - in {path}, line {number}"
            ) from error
        yield _checked(record, f"{path}, line {number}")


def _checked(record: Any, place: str) -> Record:
    if not isinstance(record, dict):
        raise BenchError(f"Expected a JSON object, got {type(record).__name__} - in {place}")
    return record


def _csv(path: Path, file: TextIO, fields: Mapping[str, Field]) -> Iterator[Record]:
    lines = csv.DictReader(file)
    known = [column for column in lines.fieldnames or () if column in fields]
    missing = [name for name, field in fields.items() if field.required and name not in known]
    if missing or not known:
        raise BenchError(
            f"Expected a header line with a column for each field of the model, found none for"
            f" {', '.join(missing or fields)} - in {path}"
        )
    for line in lines:
        place = f"{path}, line {lines.line_num}"
        yield {
            column: value_of_cell(line[column] or "", fields[column], f"{place}, column {column}")
            for column in known
        }


def value_of_cell(cell: str, field: Field, place: str) -> Any:
    """A cell of text as the field's JSON value; the narrowest of its types that fits.

    An empty cell is null where the field may be null. A field without types takes text.
    Raises BenchError, naming the place, for a cell that fits no type.
    """
    kinds = field.kinds - {"null"}
    if cell == "" and "null" in field.kinds:
        return None
    if "boolean" in kinds and cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    number = _number(cell)
    if number is not None:
        # pandas writes the integers of a column with empty cells as 12.0
        if "integer" in kinds and number.is_integer():
            return int(cell) if cell.lstrip("+-").isdigit() else int(number)
        if "number" in kinds:
            return number
        if "boolean" in kinds and number in (0, 1):
            return number == 1
    if "string" in kinds or not kinds:
        return cell
    raise BenchError(f'Expected {" or ".join(sorted(kinds))}, got "{cell}" - in {place}')


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None  # JSON has neither NaN nor Infinity
