"""JSON records -> columns, by the user's request class or one made from the signature.

pydantic-core reads the bytes directly.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Annotated, Any, Literal, cast

import numpy as np
import orjson
from pydantic import (
    BaseModel,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import to_json, to_jsonable_python

from tabserve.columnar import columns_adapter
from tabserve.errors import InputProblem, InvalidInput, InvalidJSON, TooLarge
from tabserve.refusal import MAX_PROBLEMS, problems_of, refusal
from tabserve.request_class import (
    AsWritten,
    class_of,
    echo_name,
    fields_of_features,
    input_names,
    refuse_clashes,
    told_about_extra,
)
from tabserve.signature import EXACT_INTEGER_LIMIT, Signature, inexact_as_float, problem
from tabserve.strict import LaxJSON, may_be_lax, refuse_too_many_keys, strictly_parsed
from tabserve.types import Columns, Values

_OBJECT = re.compile(rb"[ \t\r\n]*\{")

_NOT_COLUMNS: InputProblem = {
    "loc": ("body", "columns"),
    "msg": "Input should have a list of at least one value for each field",
    "type": "columns_type",
}

# With more in all, a batch is refused as a whole: to list them takes seconds.
_MOST_PROBLEMS = 200_000
_TOO_MANY_PROBLEMS: InputProblem = {
    "loc": ("body",),
    "msg": f"Input should have at most {_MOST_PROBLEMS} problems to be reported row by row",
    "type": "too_many_problems",
}

# Told of one record.
MAX_WARNINGS = 20

_REF = "#/components/schemas/{model}"


# How rows were sent: as one record, as a list of them, or as a list for each field.
Form = Literal["record", "list", "columns"]


@dataclass(slots=True)
class Records:
    """Valid records: the model's features and, row by row, the fields that are no feature."""

    values: Values
    n_rows: int
    echoes: list[dict[str, Any]] | None
    form: Form
    # By row, what is unusual in it, with its place in the body.
    warnings: dict[int, list[InputProblem]] | None = None
    # Where the rows stand in the body, if others were left out of it; each then fails alone.
    places: Sequence[int] | None = None

    def part(self, rows: Sequence[int]) -> "Records":
        return Records(
            values={
                name: column[rows]
                if isinstance(column, np.ndarray)
                else [column[row] for row in rows]
                for name, column in self.values.items()
            },
            n_rows=len(rows),
            echoes=None if self.echoes is None else [self.echoes[row] for row in rows],
            form=self.form,
            warnings={
                new: self.warnings[row] for new, row in enumerate(rows) if row in self.warnings
            }
            if self.warnings
            else None,
            places=None if self.places is None else [self.places[row] for row in rows],
        )


@dataclass(slots=True)
class Reported:
    """A batch of which each bad row is told what is wrong with it.

    records: the good ones, None where there are none. refused: the others, by their row.
    """

    records: Records | None
    refused: dict[int, InvalidInput]
    n_rows: int


class RecordDecoder:
    """Reads one record or a list of them from JSON bytes.

    request_class: declares every feature (by field name or alias), may declare further fields,
    which are echoed, and validators. `reserved`: names of the answer's own fields.
    Raises RequestClassError where the class does not fit the signature.
    """

    def __init__(
        self,
        signature: Signature,
        request_class: type[BaseModel] | None = None,
        reserved: Sequence[str] = (),
        max_rows: int = 10_000,
    ) -> None:
        self.request_class = (
            class_of(signature)
            if request_class is None
            else told_about_extra(request_class, signature.extra_fields)
        )
        self._signature = signature
        self._max_rows = max_rows
        self._field_of = fields_of_features(signature, self.request_class)
        self._echoed = set(self.request_class.model_fields) - set(self._field_of.values())
        # Of a record's fields those of the features, in one call; a second name, so that it gives
        # a tuple also where there is only one.
        names = list(self._field_of.values())
        self._values_of = itemgetter(*names, names[0])
        self.has_echoes = bool(self._echoed)
        refuse_clashes(self.request_class, self._echoed, reserved)
        self.wire_names = {
            feature: self._wire_name(field) for feature, field in self._field_of.items()
        }
        self._lax_json = LaxJSON(self.request_class)
        self._one = TypeAdapter(self.request_class)
        listed: Any = list[self.request_class]  # type: ignore[name-defined]
        # Up to the first record that is wrong: a small body can have millions of problems.
        self._many: TypeAdapter[list[BaseModel]] = TypeAdapter(
            Annotated[listed, Field(min_length=1, max_length=max_rows), FailFast()]
        )
        self._columns = columns_adapter(self.request_class, max_rows)

    def one(self, body: bytes) -> Records:
        """Raises InvalidInput or InvalidJSON; `loc` is ("body", field)."""
        refuse_too_many_keys(body)
        try:
            record = self._one.validator.validate_json(body)
        except ValidationError as error:
            raise refusal(problems_of(error, ("body",))) from None
        if self._lax_json.is_possible_in_one(body, record):
            strictly_parsed(body)
        return self._records([record], body, "record")

    def batch(self, body: bytes) -> Records:
        """A list of records, or columns; see `many` and `columns`."""
        return self.columns(body) if _OBJECT.match(body) else self.many(body)

    def columns(self, body: bytes) -> Records:
        """Raises as `one` does, with `loc` ("body", "columns", field, row), and TooLarge."""
        if self._columns is None:
            return self._records_of_columns(body)
        refuse_too_many_keys(body)
        try:
            columns = self._columns.validator.validate_json(body).columns
        except ValidationError as error:
            problems = problems_of(error, ("body",))
            if any(found["type"] == "too_long" and len(found["loc"]) == 3 for found in problems):
                raise self._too_many_rows() from None
            raise refusal(problems) from None
        sent = columns.model_fields_set
        if may_be_lax(body, n_keys=1 + len(sent)):
            strictly_parsed(body)
        n_rows = _common_length({self._wire_name(field): getattr(columns, field) for field in sent})
        fields = {
            field: getattr(columns, field)
            if field in sent
            else [info.get_default(call_default_factory=True)] * n_rows
            for field, info in self.request_class.model_fields.items()
        }
        values = {feature: fields[field] for feature, field in self._field_of.items()}
        echoed = {
            echo_name(self.request_class, field): fields[field] for field in self._echoed & sent
        }
        try:
            taken, warnings = self._taken(values, body, "columns")
            echoes = _echoed_rows(echoed, n_rows) if self._echoed else None
        except InvalidInput as error:
            raise self.placed(error, "columns") from None
        return Records(taken, n_rows, echoes, "columns", self._by_row(warnings, "columns"))

    def _records_of_columns(self, body: bytes) -> Records:
        """For a request class whose validators look at records."""
        rows = self._rows_of_columns(strictly_parsed(body))
        try:
            records = self.many(to_json(rows))
        except InvalidInput as error:
            raise refusal(_as_in_columns(error.problems)) from None
        warnings = {row: _as_in_columns(found) for row, found in (records.warnings or {}).items()}
        return Records(records.values, records.n_rows, records.echoes, "columns", warnings)

    def _rows_of_columns(self, sent: Any) -> list[dict[str, Any]]:
        """Raises InvalidInput, TooLarge."""
        columns = sent.get("columns") if sent.keys() == {"columns"} else None
        if not isinstance(columns, dict) or not all(isinstance(x, list) for x in columns.values()):
            raise refusal([_NOT_COLUMNS])
        n_rows = _common_length(columns)
        if n_rows > self._max_rows:
            raise self._too_many_rows()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def each(self, body: bytes) -> Reported:
        """As `batch` does, but a row that is wrong is told what is, and the others are taken.

        Raises InvalidInput for what is no batch, InvalidJSON, TooLarge.
        """
        try:
            records = self.batch(body)
        except InvalidJSON:
            raise
        except InvalidInput as error:
            return self._reported(body, error)
        records.places = range(records.n_rows)
        return Reported(records, {}, records.n_rows)

    def _reported(self, body: bytes, error: InvalidInput) -> Reported:
        parsed = strictly_parsed(body)
        form: Form = "columns" if isinstance(parsed, dict) else "list"
        rows = self._rows_of_columns(parsed) if isinstance(parsed, dict) else parsed
        if not isinstance(rows, list) or not rows or error.problems[0]["type"] == "too_many_keys":
            raise error
        if len(rows) > self._max_rows:
            raise self._too_many_rows()
        refused: dict[int, InvalidInput] = {}
        good: list[BaseModel] = []
        places: list[int] = []
        n_problems = 0
        for row, record in enumerate(rows):
            try:
                good.append(self._one.validator.validate_json(to_json(record)))
                places.append(row)
            except ValidationError as error:
                n_problems += error.error_count()
                if n_problems > _MOST_PROBLEMS:
                    raise refusal([_TOO_MANY_PROBLEMS]) from None
                problems = problems_of(error, ("body", row))
                refused[row] = refusal(_as_in_columns(problems) if form == "columns" else problems)
        records = self._good_ones(good, rows, places, form, refused)
        return Reported(records, refused, len(rows))

    def _good_ones(
        self,
        records: list[BaseModel],
        rows: list[dict[str, Any]],
        places: list[int],
        form: Form,
        refused: dict[int, InvalidInput],
    ) -> Records | None:
        """The records that the signature takes too; the others are added to `refused`."""
        while records:
            values = self._values(records)
            taken, problems, warnings = self._examined(values, [rows[i] for i in places])
            problems = problems + self._inexpressible_echoes(records)
            if not problems:
                echoes = self._echoes(records) if self._echoed else None
                by_row = self._by_row(warnings, form, places)
                return Records(taken, len(records), echoes, form, by_row, places)
            for row, found in _grouped(problems).items():
                refused[places[row]] = self.placed(InvalidInput(found), form, places)
            kept = [i for i, place in enumerate(places) if place not in refused]
            records, places = [records[i] for i in kept], [places[i] for i in kept]
        return None

    def many(self, body: bytes) -> Records:
        """Raises as `one` does, with `loc` ("body", row, field), and TooLarge past `max_rows`."""
        refuse_too_many_keys(body)
        try:
            records = self._many.validator.validate_json(body)
        except ValidationError as error:
            problems = problems_of(error, ("body",))
            if problems[0]["type"] == "too_long" and problems[0]["loc"] == ("body",):
                raise self._too_many_rows() from None
            if len(problems[0]["loc"]) > 1:
                problems = self._problems_of_rows(body) or problems
            raise refusal(problems) from None
        if self._lax_json.is_possible_in(body, records):
            strictly_parsed(body)
        return self._records(records, body, "list")

    def _problems_of_rows(self, body: bytes) -> list[InputProblem]:
        """Those of one record after the other, until there are as many as are told.

        Raises InvalidJSON, TooLarge.
        """
        records = strictly_parsed(body)
        if len(records) > self._max_rows:
            raise self._too_many_rows()
        problems: list[InputProblem] = []
        for row, record in enumerate(records):
            try:
                self._one.validate_json(to_json(record))
            except ValidationError as error:
                problems += problems_of(error, ("body", row))
            if len(problems) > MAX_PROBLEMS:
                break
        return problems

    def _too_many_rows(self) -> TooLarge:
        return TooLarge(
            f"Expected at most {self._max_rows} records; send them in several requests."
        )

    def placed(
        self, error: InvalidInput, form: Form, places: Sequence[int] | None = None
    ) -> InvalidInput:
        """A refusal with places (row, feature), or () for any, as one with places in the body.

        places: of the rows, where others were left out.
        """
        return refusal([self._in_body(found, form, places) for found in error.problems])

    def _in_body(
        self, found: InputProblem, form: Form, places: Sequence[int] | None
    ) -> InputProblem:
        loc = found["loc"]
        if loc and places is not None:
            loc = (places[loc[0]], *loc[1:])
        return {**found, "loc": ("body", *self._place(loc, form))}

    def _by_row(
        self, warnings: Sequence[InputProblem], form: Form, places: Sequence[int] | None = None
    ) -> dict[int, list[InputProblem]] | None:
        """Warnings with their places in the body, the first ones of each row."""
        if not warnings:
            return None
        return {
            row: [self._in_body(warning, form, places) for warning in found[:MAX_WARNINGS]]
            for row, found in _grouped(warnings).items()
        }

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of one record; `definitions` holds what it refers to."""
        return {name: part for name, part in self._schema.items() if name != "$defs"}

    def columns_schema(self) -> dict[str, Any]:
        """JSON Schema of the same rows as columns."""
        record = self.json_schema()
        columns = {
            name: {"type": "array", "items": value, "minItems": 1}
            for name, value in record["properties"].items()
        }
        told = {"type": "object", "properties": columns, "required": record.get("required", [])}
        if "additionalProperties" in record:
            told["additionalProperties"] = record["additionalProperties"]
        return {
            "type": "object",
            "properties": {"columns": told},
            "required": ["columns"],
            "additionalProperties": False,
        }

    def definitions(self) -> dict[str, Any]:
        return cast(dict[str, Any], self._schema.get("$defs", {}))

    @cached_property
    def _schema(self) -> dict[str, Any]:
        return self.request_class.model_json_schema(ref_template=_REF, schema_generator=AsWritten)

    def echo_schema(self) -> dict[str, Any]:
        """JSON Schema, by name, of the fields that are echoed."""
        properties = self.json_schema()["properties"]
        return {
            echo_name(self.request_class, field): properties[self._wire_name(field)]
            for field in sorted(self._echoed)
        }

    def examples(self) -> list[dict[str, Any]]:
        """Records that the request class accepts: its own examples, or of usual values."""
        declared = self._schema.get("examples", [])
        usual = [
            {
                self.wire_names[feature.name]: feature.typical[min(i, len(feature.typical) - 1)]
                for feature in self._signature.features
                if feature.typical
            }
            for i in range(3)
        ]
        found: list[dict[str, Any]] = []
        for record in [*declared, *usual]:
            if record not in found and self._accepts(record):
                found.append(record)
        return found

    def _accepts(self, record: dict[str, Any]) -> bool:
        try:
            self.one(orjson.dumps(record))
        except Exception:  # noqa: BLE001 - a validator of the user's may raise anything
            return False
        return True

    def _wire_name(self, field: str) -> str:
        return input_names(self.request_class, field)[0]

    def _records(self, records: list[BaseModel], body: bytes, form: Form) -> Records:
        values = self._values(records)
        try:
            taken, warnings = self._taken(values, body, form)
            echoes = self._echoes(records) if self._echoed else None
        except InvalidInput as error:
            raise self.placed(error, form) from None
        told = self._by_row(warnings, form) if warnings else None
        return Records(taken, len(records), echoes, form, told)

    def _values(self, records: list[BaseModel]) -> Mapping[str, Sequence[Any]]:
        rows = [self._values_of(record.__dict__) for record in records]
        return dict(zip(self._field_of, zip(*rows, strict=True), strict=False))

    def _taken(
        self, values: Mapping[str, Sequence[Any]], body: bytes, form: Form
    ) -> tuple[Values, Sequence[InputProblem]]:
        """Values that may go to the model, and what is unusual in them. Raises InvalidInput."""
        if self._signature.admits(values):
            return values, ()
        checked = self._signature.checked(values)
        problems = checked.problems or self._inexact_integers(
            checked.columns, lambda: _parsed_records(body, form)
        )
        if problems:
            raise InvalidInput(problems)
        return checked.columns, checked.warnings

    def _examined(
        self, values: Mapping[str, Sequence[Any]], sent: list[Any]
    ) -> tuple[Values, list[InputProblem], list[InputProblem]]:
        """Values that may go to the model, with all problems and warnings, at (row, feature).

        sent: the records as they were sent.
        """
        if self._signature.admits(values):
            return values, [], []
        checked = self._signature.checked(values)
        problems = checked.problems + self._inexact_integers(checked.columns, lambda: sent)
        return checked.columns, problems, checked.warnings

    def _place(self, loc: tuple[Any, ...], form: Form) -> tuple[int | str, ...]:
        if not loc:
            return ()
        row, *names = loc
        wire_names = [self._wire_name(self._field_of.get(name, name)) for name in names]
        if form == "columns":
            return ("columns", *wire_names, row)
        return tuple(wire_names) if form == "record" else (row, *wire_names)

    def _inexact_integers(
        self, columns: Columns, sent: Callable[[], list[Any]]
    ) -> list[InputProblem]:
        suspects = [
            name
            for name, column in columns.items()
            if column.dtype == "float64" and (abs(column) >= EXACT_INTEGER_LIMIT).any()
        ]
        if not suspects:
            return []
        records = sent()
        names = {name: input_names(self.request_class, self._field_of[name]) for name in suspects}
        return [
            problem(
                row,
                name,
                "int_inexact",
                "Input is an integer beyond 2**53, which a float cannot hold exactly",
            )
            for row, record in enumerate(records)
            if isinstance(record, dict)
            for name in suspects
            if any(inexact_as_float(record.get(key)) for key in names[name])
        ]

    def _echoes(self, records: list[BaseModel]) -> list[dict[str, Any]]:
        # Most records have none, and a dump costs more than validation.
        if all(self._echoed.isdisjoint(record.model_fields_set) for record in records):
            return [{} for _ in records]
        echoes = [
            {}
            if self._echoed.isdisjoint(record.model_fields_set)
            else record.model_dump(
                mode="json", include=self._echoed, by_alias=True, exclude_unset=True
            )
            for record in records
        ]
        found = self._inexpressible_echoes(records)
        if found:
            raise InvalidInput(found)
        return echoes

    def _inexpressible_echoes(self, records: list[BaseModel]) -> list[InputProblem]:
        return [
            problem(
                row, field, "finite_number", "Input should be a finite number of at most 64 bits"
            )
            for row, record in enumerate(records)
            for field in self._echoed
            if not _expressible(record.__dict__[field])
        ]


def _as_in_columns(problems: list[InputProblem]) -> list[InputProblem]:
    """Places of a list of records, ("body", row, field), as those of columns."""
    return [
        {**found, "loc": ("body", "columns", *found["loc"][2:], *found["loc"][1:2])}
        for found in problems
    ]


def _grouped(problems: Sequence[InputProblem]) -> dict[int, list[InputProblem]]:
    """By row."""
    by_row: dict[int, list[InputProblem]] = {}
    for found in problems:
        by_row.setdefault(found["loc"][0], []).append(found)
    return by_row


def _parsed_records(body: bytes, form: Form) -> list[Any]:
    parsed = strictly_parsed(body)
    if form == "columns":
        columns = parsed["columns"]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [parsed] if form == "record" else cast(list[Any], parsed)


def _common_length(columns: Mapping[str, Sequence[Any]]) -> int:
    """Raises InvalidInput where columns differ in length, or there are none."""
    lengths = {name: len(column) for name, column in columns.items()}
    if not lengths or not min(lengths.values()):
        raise refusal([_NOT_COLUMNS])
    most = max(lengths.values())
    message = f"Input should have as many values as the other columns, {most}"
    shorter: list[InputProblem] = [
        {"loc": ("body", "columns", name), "msg": message, "type": "column_length"}
        for name, length in lengths.items()
        if length < most
    ]
    if shorter:
        raise refusal(shorter)
    return most


def _echoed_rows(columns: Mapping[str, Sequence[Any]], n_rows: int) -> list[dict[str, Any]]:
    """By row. Raises InvalidInput."""
    found = [
        problem(row, name, "finite_number", "Input should be a finite number of at most 64 bits")
        for name, column in columns.items()
        for row, value in enumerate(column)
        if not _expressible(value)
    ]
    if found:
        raise InvalidInput(found)
    if not columns:
        return [{} for _ in range(n_rows)]
    plain = {name: to_jsonable_python(column) for name, column in columns.items()}
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]


def _expressible(value: Any) -> bool:
    """Whether the answer's JSON can say it."""
    if value is None or isinstance(value, str | bytes):
        return True
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, BaseModel):
        value = value.__dict__ | (value.__pydantic_extra__ or {})
    elif dataclasses.is_dataclass(value):
        value = [getattr(value, part.name) for part in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return all(map(_expressible, value.values()))
    if isinstance(value, Collection):
        return all(map(_expressible, value))
    return True
