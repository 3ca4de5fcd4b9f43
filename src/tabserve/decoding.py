"""JSON records -> columns, by the user's request class or one made from the signature.

pydantic-core reads the bytes directly. What it lets pass and JSON does not allow (a key twice, NaN)
is looked for afterwards, and only where the bytes can hold it: parsing twice would cost as much
again as the whole validation.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from types import new_class
from typing import Annotated, Any, Literal, cast

import jiter
import orjson
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    StrictStr,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema, to_json

from tabserve.errors import InputProblem, InvalidInput, InvalidJSON, RequestClassError, TooLarge
from tabserve.signature import EXACT_INTEGER_LIMIT, Feature, Signature, inexact_as_float, problem
from tabserve.types import Columns, Values

# More would tell the caller nothing new, and would make a large answer to a bad batch.
MAX_PROBLEMS = 100
MAX_MESSAGE_CHARS = 300

# Of one record. Each key that no field has is a problem of its own, and costs 5 µs.
MAX_KEYS = 10_000

# Messages in place of those of pydantic's that repeat the input.
_WITHOUT_INPUT = {"union_tag_invalid": "Input has a tag that is none of the expected ones"}

_REF = "#/components/schemas/{model}"


@dataclass(slots=True)
class Records:
    """Valid records: the model's features and, row by row, the fields that are no feature.

    single: sent as one record, not as a list of them.
    """

    values: Values
    n_rows: int
    echoes: list[dict[str, Any]] | None
    single: bool


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
            else _told_about_extra(request_class, signature.extra_fields)
        )
        self._signature = signature
        self._max_rows = max_rows
        self._field_of = _fields_of_features(signature, self.request_class)
        self._echoed = set(self.request_class.model_fields) - set(self._field_of.values())
        # Of a record's fields those of the features, in one call; a second name, so that it gives
        # a tuple also where there is only one.
        names = list(self._field_of.values())
        self._values_of = itemgetter(*names, names[0])
        _refuse_clashes(self.request_class, self._echoed, reserved)
        self.wire_names = {
            feature: self._wire_name(field) for feature, field in self._field_of.items()
        }
        # One that adds keys or sets fields makes counting them say nothing.
        self._may_set_fields = _may_set_fields(self.request_class)
        self._one = TypeAdapter(self.request_class)
        listed: Any = list[self.request_class]  # type: ignore[name-defined]
        # Up to the first record that is wrong: a small body can have millions of problems.
        self._many: TypeAdapter[list[BaseModel]] = TypeAdapter(
            Annotated[listed, Field(min_length=1, max_length=max_rows), FailFast()]
        )

    def one(self, body: bytes) -> Records:
        """Raises InvalidInput or InvalidJSON; `loc` is ("body", field)."""
        _refuse_too_many_keys(body)
        try:
            record = self._one.validator.validate_json(body)
        except ValidationError as error:
            raise _refusal(_problems(error, ("body",))) from None
        return self._records([record], body, single=True)

    def many(self, body: bytes) -> Records:
        """Raises as `one` does, with `loc` ("body", row, field), and TooLarge past `max_rows`."""
        _refuse_too_many_keys(body)
        try:
            records = self._many.validator.validate_json(body)
        except ValidationError as error:
            problems = _problems(error, ("body",))
            if problems[0]["type"] == "too_long" and problems[0]["loc"] == ("body",):
                raise self._too_many_rows() from None
            if len(problems[0]["loc"]) > 1:
                problems = self._problems_of_rows(body) or problems
            raise _refusal(problems) from None
        return self._records(records, body, single=False)

    def _problems_of_rows(self, body: bytes) -> list[InputProblem]:
        """Those of one record after the other, until there are as many as are told.

        Raises InvalidJSON, TooLarge.
        """
        records = _strictly_parsed(body)
        if len(records) > self._max_rows:
            raise self._too_many_rows()
        problems: list[InputProblem] = []
        for row, record in enumerate(records):
            try:
                self._one.validate_json(to_json(record))
            except ValidationError as error:
                problems += _problems(error, ("body", row))
            if len(problems) > MAX_PROBLEMS:
                break
        return problems

    def _too_many_rows(self) -> TooLarge:
        return TooLarge(
            f"Expected at most {self._max_rows} records; send them in several requests."
        )

    def placed(self, error: InvalidInput, single: bool) -> InvalidInput:
        """A refusal with places (row, feature), or () for any, as one with places in the body."""
        problems = [
            {**found, "loc": ("body", *self._place(found["loc"], single))}
            for found in error.problems
        ]
        return _refusal(problems)

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of one record; `definitions` holds what it refers to."""
        return {name: part for name, part in self._schema.items() if name != "$defs"}

    def definitions(self) -> dict[str, Any]:
        return cast(dict[str, Any], self._schema.get("$defs", {}))

    @cached_property
    def _schema(self) -> dict[str, Any]:
        return self.request_class.model_json_schema(ref_template=_REF, schema_generator=_AsWritten)

    def echo_schema(self) -> dict[str, Any]:
        """JSON Schema, by name, of the fields that are echoed."""
        properties = self.json_schema()["properties"]
        return {
            _echo_name(self.request_class, field): properties[self._wire_name(field)]
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
        return _input_names(self.request_class, field)[0]

    def _records(self, records: list[BaseModel], body: bytes, single: bool) -> Records:
        n_keys = sum([len(record.model_fields_set) for record in records])
        if (
            self._may_set_fields
            or body.count(b":") != n_keys
            or b"NaN" in body
            or b"Infinity" in body
        ):
            _strictly_parsed(body)
        rows = [self._values_of(record.__dict__) for record in records]
        values = dict(zip(self._field_of, zip(*rows, strict=True), strict=False))
        try:
            taken: Values = values
            if not self._signature.admits(values):
                taken = self._checked(values, body, single)
            echoes = self._echoes(records) if self._echoed else None
        except InvalidInput as error:
            raise self.placed(error, single) from None
        return Records(taken, len(records), echoes, single)

    def _checked(self, values: Mapping[str, Sequence[Any]], body: bytes, single: bool) -> Columns:
        """Values of which one or another needs a closer look."""
        columns = self._signature.columns(values)
        self._refuse_inexact_integers(columns, body, single)
        return columns

    def _place(self, loc: tuple[Any, ...], single: bool) -> tuple[int | str, ...]:
        if not loc:
            return ()
        row, *names = loc
        wire_names = [self._wire_name(self._field_of.get(name, name)) for name in names]
        return tuple(wire_names) if single else (row, *wire_names)

    def _refuse_inexact_integers(self, columns: Columns, body: bytes, single: bool) -> None:
        suspects = [
            name
            for name, column in columns.items()
            if column.dtype == "float64" and (abs(column) >= EXACT_INTEGER_LIMIT).any()
        ]
        if not suspects:
            return
        parsed = _strictly_parsed(body)
        names = {name: _input_names(self.request_class, self._field_of[name]) for name in suspects}
        found = [
            problem(
                row,
                name,
                "int_inexact",
                "Input is an integer beyond 2**53, which a float cannot hold exactly",
            )
            for row, record in enumerate([parsed] if single else parsed)
            if isinstance(record, dict)
            for name in suspects
            if any(inexact_as_float(record.get(sent)) for sent in names[name])
        ]
        if found:
            raise InvalidInput(found)

    def _echoes(self, records: list[BaseModel]) -> list[dict[str, Any]]:
        # Most records have none, and a dump costs more than validation.
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


def _told_about_extra(
    request_class: type[BaseModel], extra_fields: Literal["refuse", "ignore"]
) -> type[BaseModel]:
    """The class itself where it sets `extra`, else as one that does.

    Left unset, pydantic would drop a misspelt field without a word.
    """
    if "extra" in request_class.model_config:
        return request_class
    told = ConfigDict(extra="ignore" if extra_fields == "ignore" else "forbid")
    names = ("__module__", "__qualname__", "__doc__")
    body = {name: getattr(request_class, name) for name in names} | {"model_config": told}
    name, bases = request_class.__name__, (request_class,)
    made = new_class(name, bases, exec_body=lambda namespace: namespace.update(body))
    return cast(type[BaseModel], made)


def _problems(error: ValidationError, root: tuple[int | str, ...]) -> list[InputProblem]:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        {
            "loc": (*root, *found["loc"]),
            "msg": _WITHOUT_INPUT.get(found["type"], found["msg"]),
            "type": found["type"],
        }
        for found in errors
    ]


def _refusal(problems: list[InputProblem]) -> InvalidInput:
    if problems[0]["type"] == "json_invalid":
        return InvalidJSON(_shortened(problems))
    return InvalidInput(_shortened(problems))


def _shortened(problems: list[InputProblem]) -> list[InputProblem]:
    """The first ones. A key of the input, and so a message too, may be as long as the body."""
    listed: list[InputProblem] = [
        {
            "loc": tuple(_short(part) for part in found["loc"]),
            "msg": _short(found["msg"]),
            "type": found["type"],
        }
        for found in problems[:MAX_PROBLEMS]
    ]
    if len(problems) > MAX_PROBLEMS:
        message = "Further problems are not listed"
        listed.append({"loc": ("body",), "msg": message, "type": "too_many_problems"})
    return listed


def _refuse_too_many_keys(body: bytes) -> None:
    if body.count(b":") <= MAX_KEYS:
        return
    parsed = _strictly_parsed(body)
    for record in parsed if isinstance(parsed, list) else [parsed]:
        if isinstance(record, dict) and len(record) > MAX_KEYS:
            message = f"Input should have at most {MAX_KEYS} keys"
            raise InvalidInput([{"loc": ("body",), "msg": message, "type": "too_many_keys"}])


def _strictly_parsed(body: bytes) -> Any:
    try:
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        message = _short(f"Invalid JSON: {error}")
        raise InvalidJSON([{"loc": ("body",), "msg": message, "type": "json_invalid"}]) from None


def _short(part: Any) -> Any:
    return part[:MAX_MESSAGE_CHARS] if isinstance(part, str) else part


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


def _input_names(request_class: type[BaseModel], field: str) -> tuple[str, ...]:
    """The keys under which a field may be sent: its aliases, the first one before all, its name."""
    alias = request_class.model_fields[field].validation_alias
    aliases = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return (*(name for name in aliases if isinstance(name, str)), field)


def _echo_name(request_class: type[BaseModel], field: str) -> str:
    return request_class.model_fields[field].serialization_alias or field


def _may_set_fields(request_class: type[BaseModel]) -> bool:
    """Whether a validator of the whole record may change which fields count as sent."""
    validators = request_class.__pydantic_decorators__.model_validators.values()
    modes = {validator.info.mode for validator in validators}
    if request_class.__init__ is not BaseModel.__init__:
        return True
    if request_class.model_config.get("frozen"):
        modes.discard("after")
        return bool(modes)
    return bool(modes) or request_class.model_post_init is not BaseModel.model_post_init


def _fields_of_features(signature: Signature, request_class: type[BaseModel]) -> dict[str, str]:
    by_alias = {
        name: field
        for field in request_class.model_fields
        for name in _input_names(request_class, field)[:-1]
    }
    found = {}
    for feature in signature.features:
        if feature.name in by_alias:
            found[feature.name] = by_alias[feature.name]
        elif feature.name in request_class.model_fields:
            found[feature.name] = feature.name
    missing = [feature.name for feature in signature.features if feature.name not in found]
    if missing:
        raise RequestClassError(
            f"{request_class.__name__} has no field for the feature(s) {', '.join(missing)}; "
            "add each as a field of that name, or with that alias."
        )
    return found


def _refuse_clashes(
    request_class: type[BaseModel], echoed: set[str], reserved: Sequence[str]
) -> None:
    clashes = sorted({_echo_name(request_class, field) for field in echoed} & set(reserved))
    if clashes:
        raise RequestClassError(
            f"{request_class.__name__} has the field(s) {', '.join(clashes)}, which are fields of "
            "the answer too; rename them, since fields that are no feature are echoed."
        )


class _AsWritten(GenerateJsonSchema):
    """Fields and examples in the order in which the user wrote them, and not by the alphabet."""

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value


class _WholeNumber:
    """JSON numbers without a fraction, 12.0 too; no text and no booleans, which `int` would take.

    The bounds are those of int64. One chain inside pydantic-core: a Python validator would cost
    ten times as much.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        number = core_schema.union_schema(
            [core_schema.int_schema(strict=True), core_schema.float_schema(strict=True)],
            custom_error_type="int_type",
        )
        whole = core_schema.int_schema(ge=-(2**63), le=2**63 - 1)
        return core_schema.chain_schema([number, whole])

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "integer", "format": "int64"}


def class_of(signature: Signature) -> type[BaseModel]:
    """The request class of a signature for which the user gave none.

    Feature names need not be Python names, so they are aliases.
    """
    fields: dict[str, Any] = {
        f"feature_{i}": (_annotation(feature), _field(feature))
        for i, feature in enumerate(signature.features)
    }
    extra: Literal["forbid", "ignore"] = (
        "forbid" if signature.extra_fields == "refuse" else "ignore"
    )
    config = ConfigDict(extra=extra, title="Record")
    return cast(type[BaseModel], create_model("Record", __config__=config, **fields))


def _annotation(feature: Feature) -> Any:
    annotation: Any
    if feature.type == "integer":
        annotation = Annotated[int, _WholeNumber()]
    elif feature.type == "number":
        annotation = Annotated[float, Field(strict=True, allow_inf_nan=False)]
    elif feature.type == "boolean":
        annotation = StrictBool
    elif feature.categories and feature.unknown == "refuse":
        annotation = Literal[tuple(feature.categories)]
    else:
        annotation = StrictStr
    return annotation | None if feature.nullable else annotation


def _field(feature: Feature) -> Any:
    about = []
    if feature.minimum is not None and feature.maximum is not None:
        about.append(f"{feature.minimum:g} to {feature.maximum:g} in the training data.")
    schema: dict[str, Any] = {}
    if feature.categories and feature.type != "string" and feature.unknown == "refuse":
        schema["enum"] = [*feature.categories, None] if feature.nullable else feature.categories
    return Field(
        alias=feature.name,
        title=feature.name,
        description=" ".join(about) or None,
        examples=list(feature.typical[:1]) or None,
        json_schema_extra=schema or None,
    )
