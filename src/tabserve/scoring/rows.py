"""The rows of a chunk as the model's input, each valid or rejected as the API would.

What arrays alone can show to be valid goes on as arrays. Every other row is read by the server's
own decoder, as the JSON record that it would be, which accepts it or words the errors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from pydantic_core import to_json

from tabserve.decoding import RecordDecoder
from tabserve.errors import InputProblem, InvalidInput, MissingExtra, TabserveError
from tabserve.feature import EXACT_INTEGER_LIMIT, Feature
from tabserve.records import Records
from tabserve.request_class import input_names
from tabserve.scoring.moments import moments
from tabserve.signature import Signature
from tabserve.strict import strictly_parsed
from tabserve.types import Array, Columns

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError:
    raise MissingExtra("pyarrow", "score") from None

# Records that the decoder reads at once: where one is wrong, they are read one by one.
_DECODED_ROWS = 256


@dataclass(frozen=True)
class Coded:
    """Text as places in a short list of values, None among them where it is missing."""

    places: Array
    values: list[Any]

    def take(self, rows: Array) -> "Coded":
        return Coded(self.places[rows], self.values)

    def plain(self) -> Array:
        values = np.empty(len(self.values), dtype=object)
        values[:] = self.values
        return values.take(self.places)


@dataclass(frozen=True)
class Piece:
    """Valid rows, by their places in the chunk. echoes: of each its fields that are no feature."""

    rows: Array
    columns: Mapping[str, Array | Coded]
    echoes: list[dict[str, Any]] | None = None

    def plain(self) -> Columns:
        return {
            name: column.plain() if isinstance(column, Coded) else column
            for name, column in self.columns.items()
        }


@dataclass
class Checked:
    """rejects, warnings: by place in the chunk, the API's code and detail, and what it tells of a
    row that it answers.
    """

    pieces: list[Piece] = field(default_factory=list)
    rejects: dict[int, tuple[str, Any]] = field(default_factory=dict)
    warnings: dict[int, list[InputProblem]] = field(default_factory=dict)


def rejection(error: Exception) -> tuple[str, Any]:
    """As the error body has them."""
    if isinstance(error, InvalidInput):
        return error.code, error.problems
    if isinstance(error, TabserveError):
        return error.code, str(error)
    return "internal", f"The model or the request class failed: {type(error).__name__}."


class RowChecker:
    """decodes_all: where the user's own class has to see each row."""

    def __init__(self, signature: Signature, decoder: RecordDecoder, decodes_all: bool) -> None:
        self._signature = signature
        self._decoder = decoder
        self._decodes_all = decodes_all
        request_class = decoder.request_class
        self._names = {
            field: input_names(request_class, field) for field in request_class.model_fields
        }
        self._required = {
            field for field, info in request_class.model_fields.items() if info.is_required()
        }
        by_wire = {wire: feature for feature, wire in decoder.wire_names.items()}
        self._feature_of = {
            field: by_wire[names[0]] for field, names in self._names.items() if names[0] in by_wire
        }
        self._features = {feature.name: feature for feature in signature.features}

    def columns_of(self, given: Sequence[str]) -> dict[str, str]:
        """By field of the request class the column that holds it, of those there are."""
        known = set(given)
        found = {
            field: next((name for name in names if name in known), None)
            for field, names in self._names.items()
        }
        return {field: name for field, name in found.items() if name is not None}

    def missing_columns(self, given: Sequence[str]) -> list[str]:
        found = self.columns_of(given)
        return [self._names[f][0] for f in self._names if f in self._required and f not in found]

    def categories(self, given: Sequence[str]) -> set[str]:
        """Columns of features that have them."""
        return {
            name
            for field, name in self.columns_of(given).items()
            if field in self._feature_of
            and self._features[self._feature_of[field]].categories is not None
        }

    def lines(self, lines: Sequence[bytes], without: Sequence[str] = ()) -> Checked:
        """Of JSON, a record each. without: fields that are left out where they are not the
        request's.
        """
        checked = Checked()
        own = {name for names in self._names.values() for name in names}
        without = [name for name in without if name not in own]

        def line(row: int) -> bytes:
            if not without:
                return lines[row]
            record = strictly_parsed(lines[row])
            if isinstance(record, dict):
                record = {name: value for name, value in record.items() if name not in without}
            return to_json(record)

        self._decode(np.arange(len(lines)), line, checked)
        return checked

    def table(self, table: Any, cells_are_text: bool) -> Checked:
        checked = Checked()
        columns = self.columns_of(table.column_names)
        typed = {
            field: self._typed(field, table[name].combine_chunks(), cells_are_text)
            for field, name in columns.items()
        }
        ok = np.zeros(table.num_rows, dtype=np.bool_)
        if not self._decodes_all and typed.keys() >= self._feature_of.keys() and table.num_rows:
            ok[:] = True
            arrays: dict[str, Array | Coded] = {}
            for field, feature in self._feature_of.items():
                array, bad = typed[field]
                arrays[feature], admitted = _arrays(self._features[feature], array)
                ok &= admitted
                if bad is not None:
                    ok &= ~bad[0]
            rows = np.flatnonzero(ok)
            taken = {
                feature.name: _taken(arrays[feature.name], rows, table.num_rows)
                for feature in self._signature.features
            }
            checked.pieces += [Piece(rows, taken)] if len(rows) else []
        others = np.flatnonzero(~ok)
        if len(others):
            self._decode(others, self._records(others, columns, typed), checked)
        return checked

    def _typed(self, field: str, array: Any, is_text: bool) -> Any:
        """The column as the feature's type, and what is none: which cells, and their text."""
        feature = self._features.get(self._feature_of.get(field, ""))
        if not is_text:
            return array, None
        if feature is None:
            return _with_nulls(array), None
        return _typed_cells(feature, array)

    def _records(
        self, rows: Array, columns: Mapping[str, str], typed: Mapping[str, Any]
    ) -> Callable[[int], bytes]:
        """JSON records of those rows, by row."""
        listed = {}
        for name, (array, bad) in typed.items():
            values = [_json_value(value) for value in array.take(pa.array(rows)).to_pylist()]
            if bad is not None:
                texts = bad[1].take(pa.array(rows)).to_pylist()
                is_bad = bad[0][rows].tolist()
                pairs = zip(values, texts, is_bad, strict=True)
                values = [_number_of(text) if wrong else value for value, text, wrong in pairs]
            listed[name] = values
        place_of = {int(row): place for place, row in enumerate(rows.tolist())}

        def record(row: int) -> bytes:
            place = place_of[row]
            sent = {
                columns[field]: values[place]
                for field, values in listed.items()
                # An empty cell of an optional field of the user's was not sent.
                if values[place] is not None or field in self._feature_of or field in self._required
            }
            return to_json(sent, inf_nan_mode="constants")

        return record

    def _decode(self, rows: Array, record: Callable[[int], bytes], checked: Checked) -> None:
        for start in range(0, len(rows), _DECODED_ROWS):
            some = rows[start : start + _DECODED_ROWS]
            try:
                body = b"[" + b",".join([record(row) for row in some.tolist()]) + b"]"
                records = self._decoder.many(body)
                if records.n_rows != len(some):  # a line that holds two records
                    raise InvalidInput([])
                self._add(some, records, checked)
            except Exception:  # noqa: BLE001 - found out row by row
                self._decode_each(some, record, checked)

    def _decode_each(self, rows: Array, record: Callable[[int], bytes], checked: Checked) -> None:
        for row in rows.tolist():
            try:
                records = self._decoder.one(record(row))
            except Exception as error:  # noqa: BLE001 - a validator of the user's may raise anything
                checked.rejects[row] = rejection(error)
            else:
                self._add(np.array([row]), records, checked)

    def _add(self, rows: Array, records: Records, checked: Checked) -> None:
        columns = self._signature.arrays(records.values)
        checked.pieces.append(Piece(rows, columns, records.echoes))
        for place, warnings in (records.warnings or {}).items():
            checked.warnings[int(rows[place])] = [_of_one(found, records) for found in warnings]


def _of_one(found: InputProblem, records: Records) -> InputProblem:
    """With its place in a body that is one record."""
    if records.form == "record":
        return found
    body, _, *names = found["loc"]
    return {**found, "loc": (body, *names)}


def _taken(column: Array | Coded, rows: Array, n_rows: int) -> Array | Coded:
    if len(rows) == n_rows:
        return column
    return column.take(rows)


def _arrays(feature: Feature, array: Any) -> tuple[Array | Coded, Array]:
    """The feature's values, and which of them may go to the model as they are."""
    kind = array.type
    if pa.types.is_null(kind):
        targets = {"string": pa.string(), "boolean": pa.bool_()}
        array = array.cast(targets.get(feature.type, pa.float64()))
        kind = array.type
    if feature.type in ("integer", "number"):
        if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and kind != pa.uint64()):
            return _numbers(feature, array)
    elif feature.type == "boolean" and pa.types.is_boolean(kind):
        return _booleans(feature, array)
    elif feature.type == "datetime" and (found := moments(array)) is not None:
        return _moments(feature, found, array.is_valid().to_numpy(zero_copy_only=False))
    elif feature.type == "string" and _is_text(kind):
        return _texts(feature, array)
    return np.empty(len(array), dtype=object), np.zeros(len(array), dtype=np.bool_)


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _numbers(feature: Feature, array: Any) -> tuple[Array, Array]:
    is_integer = pa.types.is_integer(array.type)
    missing = None
    if is_integer and array.null_count == 0:
        values = array.to_numpy(zero_copy_only=False)
    else:  # None becomes NaN; of integers beyond 2**53 the row is looked at in full
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        missing = np.isnan(values)
    least, largest = feature.bounds
    if feature.range != "inform":
        least = least if feature.minimum is None else max(least, feature.minimum)
        largest = largest if feature.maximum is None else min(largest, feature.maximum)
    if is_integer and (feature.type == "number" or missing is not None):
        least, largest = max(least, 1 - EXACT_INTEGER_LIMIT), min(largest, EXACT_INTEGER_LIMIT - 1)
    if not is_integer and feature.type == "integer":
        least, largest = max(least, 1 - EXACT_INTEGER_LIMIT), min(largest, EXACT_INTEGER_LIMIT - 1)
    with np.errstate(invalid="ignore"):
        ok = (values >= least) & (values <= largest)
        if feature.type == "integer" and not is_integer:
            ok &= values == np.trunc(values)
        if feature.categories is not None and feature.unknown != "allow":
            ok &= np.isin(values, np.array(feature.categories, dtype=np.float64))
    if missing is not None and feature.takes_null_silently:
        ok |= missing
    if feature.type == "integer" and not feature.nullable:
        return np.where(ok, values, 0).astype(np.int64), ok
    return values.astype(np.float64, copy=False), ok


def _booleans(feature: Feature, array: Any) -> tuple[Array, Array]:
    if array.null_count == 0 and not feature.nullable:
        return array.to_numpy(zero_copy_only=False), np.ones(len(array), dtype=np.bool_)
    present = array.is_valid().to_numpy(zero_copy_only=False)
    if feature.nullable:
        return feature.array(array.to_pylist()), present | feature.takes_null_silently
    return array.fill_null(False).to_numpy(zero_copy_only=False), present


def _moments(feature: Feature, values: Array, present: Array) -> tuple[Array, Array]:
    first, last = feature.moments
    least, largest = feature.limits if feature.range != "inform" else (None, None)
    ok = (values >= (first if least is None else max(first, least))) & (
        values <= (last if largest is None else min(last, largest))
    )
    return values, ok | (~present & feature.takes_null_silently)


def _texts(feature: Feature, array: Any) -> tuple[Coded, Array]:
    if not pa.types.is_dictionary(array.type):
        array = pc.dictionary_encode(array)
    values: list[Any] = [*array.dictionary.to_pylist(), None]
    indices = array.indices.fill_null(len(values) - 1) if array.null_count else array.indices
    places = indices.to_numpy(zero_copy_only=False).astype(np.intp, copy=False)
    admitted = np.array([feature.admits(value) for value in values], dtype=np.bool_)
    if admitted[:-1].all() and array.null_count == 0:
        return Coded(places, values), np.ones(len(places), dtype=np.bool_)
    return Coded(places, values), admitted.take(places)


# What a cell of text may be to be a number. JSON's grammar, and what spreadsheets write besides.
_NUMBER = r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"


def _with_nulls(cells: Any) -> Any:
    """Empty cells are missing."""
    return pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells)


def _typed_cells(feature: Feature, cells: Any) -> tuple[Any, tuple[Array, Any] | None]:
    """As the feature's type; and where some are none, which, and the text of all."""
    if feature.type in ("string", "datetime"):
        if feature.categories is not None and "" in feature.categories:
            return cells, None
        is_category = feature.categories is not None and feature.unknown != "refuse"
        return (_with_nulls(cells) if feature.takes_null or is_category else cells), None
    present = _with_nulls(cells)
    if feature.type == "boolean":
        lower = pc.utf8_lower(present)
        is_true = pc.equal(lower, "true")
        bad = pc.invert(pc.or_(is_true, pc.equal(lower, "false"))).fill_null(False)
        found = bad.to_numpy(zero_copy_only=False)
        return is_true, (found, cells) if found.any() else None
    try:
        numbers, kept, bad = present.cast(pa.float64()), present, np.zeros(len(cells), np.bool_)
    except pa.ArrowInvalid:
        plain = pc.match_substring_regex(present, _NUMBER)
        kept = pc.if_else(plain, present, pa.scalar(None, pa.string()))
        numbers = kept.cast(pa.float64())
        bad = pc.invert(plain).fill_null(False).to_numpy(zero_copy_only=False).copy()
    inexact = np.abs(numbers.to_numpy(zero_copy_only=False)) >= EXACT_INTEGER_LIMIT
    if inexact.any():  # what is an integer to JSON, has more digits than a float
        digits = pc.match_substring_regex(kept, r"^-?\d+$").fill_null(False)
        bad |= inexact & digits.to_numpy(zero_copy_only=False)
    return numbers, (bad, cells) if bad.any() else None


def _number_of(text: str) -> Any:
    """As JSON would have it: a number where it is one."""
    for kind in (int, float):
        try:
            return text if "_" in text else _json_value(kind(text))
        except ValueError:
            continue
    return text


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
