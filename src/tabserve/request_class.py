"""The pydantic class that says what a record is: the user's own, or one made from the signature."""

from collections.abc import Sequence
from types import new_class
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    StrictStr,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from tabserve.errors import RequestClassError
from tabserve.moments import ISO_DATE, ISO_PATTERN
from tabserve.signature import Feature, Signature
from tabserve.validation import range_text


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
    elif feature.type == "datetime":
        annotation = Annotated[str, _ISODate()]
    elif feature.categories and feature.unknown == "refuse":
        annotation = Literal[tuple(feature.categories)]
    else:
        annotation = StrictStr
    may_be_null = feature.takes_null or not feature.must_be_sent
    return annotation | None if may_be_null else annotation


def _field(feature: Feature) -> Any:
    about = []
    least, largest = _limits(feature)
    if least is not None and largest is not None and feature.range != "refuse":
        about.append(f"{least} to {largest} in the training data.")
    schema: dict[str, Any] = {}
    if feature.categories and feature.type != "string" and feature.unknown == "refuse":
        schema["enum"] = [*feature.categories, None] if feature.takes_null else feature.categories
    if feature.range == "refuse" and feature.type == "datetime":
        about.append(f"{range_text(feature).capitalize()}.")
    elif feature.range == "refuse":  # kept by the signature, whose refusal is alike everywhere
        ends = {"minimum": feature.minimum, "maximum": feature.maximum}
        schema |= {name: end for name, end in ends.items() if end is not None}
    # The signature puts the default in, for a null as well; here it is only told.
    absent: dict[str, Any] = {} if feature.must_be_sent else {"default": None}
    if feature.default is not None:
        schema["default"] = feature.default
    return Field(
        **absent,
        alias=feature.name,
        title=feature.name,
        description=" ".join(about) or None,
        examples=list(feature.typical[:1]) or None,
        json_schema_extra=schema or None,
    )


def _limits(feature: Feature) -> tuple[Any, Any]:
    if feature.type == "datetime":
        return (
            feature.earliest and feature.earliest.date(),
            feature.latest and feature.latest.date(),
        )
    ends = [None if end is None else f"{end:g}" for end in (feature.minimum, feature.maximum)]
    return ends[0], ends[1]


class _ISODate:
    """Text of a date, or of a date and time; the signature makes a date of it.

    Not `datetime`, of which pydantic-core also makes numbers and what looks like one.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.custom_error_schema(
            core_schema.str_schema(strict=True, pattern=ISO_PATTERN),
            custom_error_type="iso_date",
            custom_error_message=ISO_DATE,
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "format": "date-time"}


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


class AsWritten(GenerateJsonSchema):
    """Fields and examples in the order in which the user wrote them, and not by the alphabet."""

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value


def told_about_extra(
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


def fields_of_features(signature: Signature, request_class: type[BaseModel]) -> dict[str, str]:
    by_alias = {
        name: field
        for field in request_class.model_fields
        for name in input_names(request_class, field)[:-1]
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


def refuse_clashes(
    request_class: type[BaseModel], echoed: set[str], reserved: Sequence[str]
) -> None:
    clashes = sorted({echo_name(request_class, field) for field in echoed} & set(reserved))
    if clashes:
        raise RequestClassError(
            f"{request_class.__name__} has the field(s) {', '.join(clashes)}, which are fields of "
            "the answer too; rename them, since fields that are no feature are echoed."
        )


def input_names(request_class: type[BaseModel], field: str) -> tuple[str, ...]:
    """The keys under which a field may be sent: its aliases, the first one before all, its name."""
    alias = request_class.model_fields[field].validation_alias
    aliases = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return (*(name for name in aliases if isinstance(name, str)), field)


def echo_name(request_class: type[BaseModel], field: str) -> str:
    return request_class.model_fields[field].serialization_alias or field


def may_set_fields(request_class: type[BaseModel]) -> bool:
    """Whether code of the user's may change which fields of a record count as sent."""
    modes = _validator_modes(request_class)
    if may_add_keys(request_class):
        return True
    if request_class.model_config.get("frozen"):
        return False
    return "after" in modes or request_class.model_post_init is not BaseModel.model_post_init


def may_add_keys(request_class: type[BaseModel]) -> bool:
    """Whether code of the user's may make a record valid that lacks a required key."""
    own_init = request_class.__init__ is not BaseModel.__init__
    return own_init or bool(_validator_modes(request_class) - {"after"})


def _validator_modes(request_class: type[BaseModel]) -> set[str]:
    validators = request_class.__pydantic_decorators__.model_validators.values()
    return {validator.info.mode for validator in validators}
