"""JSON records -> columns, by the user's request class or one made from the signature.

pydantic-core reads the bytes directly.
"""

import gc
import re
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from typing import Annotated, Any, TypeVar, cast

import orjson
from pydantic import BaseModel, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from tabserve.acceptance import Acceptance
from tabserve.columnar import columns_adapter, common_length, rows_of_columns
from tabserve.errors import InputProblem, InvalidInput, InvalidJSON
from tabserve.records import Form, Records, as_in_columns
from tabserve.refusal import MAX_PROBLEMS, problems_of, refusal, too_many_rows
from tabserve.reporting import Reported, reported
from tabserve.request_class import (
    AsWritten,
    class_of,
    echo_name,
    refuse_clashes,
    told_about_extra,
)
from tabserve.signature import Signature
from tabserve.strict import (
    LaxJSON,
    may_be_lax,
    may_nest,
    refuse_too_deep,
    refuse_too_many_keys,
    strictly_parsed,
)

_OBJECT = re.compile(rb"[ \t\r\n]*\{")

_REF = "#/components/schemas/{model}"


# Bytes of a body from which on it is worth holding up the collector.
_LARGE = 2**14

Decoder = TypeVar("Decoder")
Decoded = TypeVar("Decoded")


def _uncollected(
    decode: Callable[[Decoder, bytes], Decoded],
) -> Callable[[Decoder, bytes], Decoded]:
    """Nothing that is parsed is garbage before the end. To look for some among all of it, again and
    again while it grows, took five sixths of the time that nested lists of 1 MB take.
    """

    @wraps(decode)
    def uncollected(decoder: Decoder, body: bytes) -> Decoded:
        if len(body) < _LARGE or not gc.isenabled():
            return decode(decoder, body)
        gc.disable()
        try:
            return decode(decoder, body)
        finally:
            gc.enable()

    return uncollected


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
        max_depth: int = 64,
    ) -> None:
        self.request_class = (
            class_of(signature)
            if request_class is None
            else told_about_extra(request_class, signature.extra_fields)
        )
        self._signature = signature
        self._max_rows = max_rows
        self._max_depth = max_depth
        self._acceptance = Acceptance(signature, self.request_class)
        self._wire_name = self._acceptance.places.wire_name
        self._echoed = self._acceptance.echoes.fields
        self.has_echoes = bool(self._echoed)
        refuse_clashes(self.request_class, self._echoed, reserved)
        self.wire_names = {
            feature: self._wire_name(field) for feature, field in self._acceptance.field_of.items()
        }
        self._lax_json = LaxJSON(self.request_class)
        # Where it may not, what is nested stands under a key that no field has, and the number of
        # keys shows it.
        self._may_nest = may_nest(self.request_class)
        self._one = TypeAdapter(self.request_class)
        self._validate_one = self._one.validator.validate_json
        listed: Any = list[self.request_class]  # type: ignore[name-defined]
        # Up to the first record that is wrong: a small body can have millions of problems.
        self._many: TypeAdapter[list[BaseModel]] = TypeAdapter(
            Annotated[listed, Field(min_length=1, max_length=max_rows), FailFast()]
        )

    @cached_property
    def _columns(self) -> TypeAdapter[Any] | None:
        """Made at the first batch of columns: a server of many models starts sooner."""
        return columns_adapter(self.request_class, self._max_rows)

    @_uncollected
    def one(self, body: bytes) -> Records:
        """Raises InvalidInput or InvalidJSON; `loc` is ("body", field)."""
        refuse_too_many_keys(body)
        try:
            record = self._validate_one(body)
        except ValidationError as error:
            raise refusal(problems_of(error, ("body",))) from None
        if self._may_nest or self._lax_json.is_possible_in_one(body):
            refuse_too_deep(body, self._max_depth)
            strictly_parsed(body)
        return self._acceptance.of_record(record, body)

    @_uncollected
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
                raise too_many_rows(self._max_rows) from None
            raise refusal(problems) from None
        sent = {field: getattr(columns, field) for field in columns.model_fields_set}
        if self._may_nest or may_be_lax(body, n_keys=1 + len(sent)):
            refuse_too_deep(body, self._max_depth)
            strictly_parsed(body)
        n_rows = common_length({self._wire_name(field): sent[field] for field in sent})
        left_out = {
            field: [info.get_default(call_default_factory=True)] * n_rows
            for field, info in self.request_class.model_fields.items()
            if field not in sent
        }
        return self._acceptance.of_columns(sent, left_out, body, n_rows)

    def _records_of_columns(self, body: bytes) -> Records:
        """For a request class whose validators look at records."""
        rows = rows_of_columns(strictly_parsed(body), self._max_rows)
        try:
            records = self.many(to_json(rows))
        except InvalidInput as error:
            raise refusal(as_in_columns(error.problems)) from None
        warnings = {row: as_in_columns(found) for row, found in (records.warnings or {}).items()}
        return Records(records.values, records.n_rows, records.echoes, "columns", warnings)

    def many(self, body: bytes) -> Records:
        """Raises as `one` does, with `loc` ("body", row, field), and TooLarge past `max_rows`."""
        refuse_too_many_keys(body)
        try:
            records = self._many.validator.validate_json(body)
        except ValidationError as error:
            problems = problems_of(error, ("body",))
            if problems[0]["type"] == "too_long" and problems[0]["loc"] == ("body",):
                raise too_many_rows(self._max_rows) from None
            if len(problems[0]["loc"]) > 1:
                problems = self._problems_of_rows(body) or problems
            raise refusal(problems) from None
        is_suspect = self._lax_json.is_possible_in(body, records)
        if is_suspect or self._may_nest:
            refuse_too_deep(body, self._max_depth, n_records=len(records))
        if is_suspect:
            strictly_parsed(body)
        return self._acceptance.of_records(records, body, "list")

    def _problems_of_rows(self, body: bytes) -> list[InputProblem]:
        """Those of one record after the other, until there are as many as are told.

        Raises InvalidJSON, TooLarge.
        """
        records = strictly_parsed(body)
        if len(records) > self._max_rows:
            raise too_many_rows(self._max_rows)
        problems: list[InputProblem] = []
        for row, record in enumerate(records):
            try:
                self._one.validate_json(to_json(record))
            except ValidationError as error:
                problems += problems_of(error, ("body", row))
            if len(problems) > MAX_PROBLEMS:
                break
        return problems

    @_uncollected
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
        refuse_too_deep(body, self._max_depth)
        parsed = strictly_parsed(body)
        is_columns = isinstance(parsed, dict)
        rows = rows_of_columns(parsed, self._max_rows) if is_columns else parsed
        if not isinstance(rows, list) or not rows or error.problems[0]["type"] == "too_many_keys":
            raise error
        if len(rows) > self._max_rows:
            raise too_many_rows(self._max_rows)
        return reported(rows, "columns" if is_columns else "list", self._one, self._acceptance)

    def placed(
        self, error: InvalidInput, form: Form, rows: Sequence[int] | None = None
    ) -> InvalidInput:
        """A refusal with places (row, feature), or () for any, as one with places in the body.

        rows: where the rows stand in the body, if others were left out of it.
        """
        return self._acceptance.places.placed(error, form, rows)

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
