"""JSON records -> columns, by the user's request class or one made from the signature.

pydantic-core reads the bytes directly.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Annotated, Any, Literal, cast

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
from tabserve.errors import InputProblem, InvalidInput, TooLarge
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
            taken = self._taken(values, body, "columns")
            echoes = _echoed_rows(echoed, n_rows) if self._echoed else None
        except InvalidInput as error:
            raise self.placed(error, "columns") from None
        return Records(taken, n_rows, echoes, "columns")

    def _records_of_columns(self, body: bytes) -> Records:
        """For a request class whose validators look at records."""
        sent = strictly_parsed(body)
        columns = sent.get("columns") if sent.keys() == {"columns"} else None
        if not isinstance(columns, dict) or not all(isinstance(x, list) for x in columns.values()):
            raise refusal([_NOT_COLUMNS])
        n_rows = _common_length(columns)
        if n_rows > self._max_rows:
            raise self._too_many_rows()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        try:
            records = self.many(to_json(rows))
        except InvalidInput as error:
            problems: list[InputProblem] = [
                {**found, "loc": ("body", "columns", *found["loc"][2:], *found["loc"][1:2])}
                for found in error.problems
            ]
            raise refusal(problems) from None
        return Records(records.values, records.n_rows, records.echoes, "columns")

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

    def placed(self, error: InvalidInput, form: Form) -> InvalidInput:
        """A refusal with places (row, feature), or () for any, as one with places in the body."""
        problems = [
            {**found, "loc": ("body", *self._place(found["loc"], form))} for found in error.problems
        ]
        return refusal(problems)

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
        rows = [self._values_of(record.__dict__) for record in records]
        values = dict(zip(self._field_of, zip(*rows, strict=True), strict=False))
        try:
            taken = self._taken(values, body, form)
            echoes = self._echoes(records) if self._echoed else None
        except InvalidInput as error:
            raise self.placed(error, form) from None
        return Records(taken, len(records), echoes, form)

    def _taken(self, values: Mapping[str, Sequence[Any]], body: bytes, form: Form) -> Values:
        """Values that may go to the model. Raises InvalidInput."""
        if self._signature.admits(values):
            return values
        columns = self._signature.columns(values)
        self._refuse_inexact_integers(columns, body, form)
        return columns

    def _place(self, loc: tuple[Any, ...], form: Form) -> tuple[int | str, ...]:
        if not loc:
            return ()
        row, *names = loc
        wire_names = [self._wire_name(self._field_of.get(name, name)) for name in names]
        if form == "columns":
            return ("columns", *wire_names, row)
        return tuple(wire_names) if form == "record" else (row, *wire_names)

    def _refuse_inexact_integers(self, columns: Columns, body: bytes, form: Form) -> None:
        suspects = [
            name
            for name, column in columns.items()
            if column.dtype == "float64" and (abs(column) >= EXACT_INTEGER_LIMIT).any()
        ]
        if not suspects:
            return
        records = _parsed_records(body, form)
        names = {name: input_names(self.request_class, self._field_of[name]) for name in suspects}
        found = [
            problem(
                row,
                name,
                "int_inexact",
                "Input is an integer beyond 2**53, which a float cannot hold exactly",
            )
            for row, record in enumerate(records)
            if isinstance(record, dict)
            for name in suspects
            if any(inexact_as_float(record.get(sent)) for sent in names[name])
        ]
        if found:
            raise InvalidInput(found)

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
        found = [
            problem(
                row, field, "finite_number", "Input should be a finite number of at most 64 bits"
            )
            for row, record in enumerate(records)
            for field in self._echoed
            if not _expressible(record.__dict__[field])
        ]
        if found:
            raise InvalidInput(found)
        return echoes


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
