"""What the user declares of a signature, in place of what packing reads from model and sample."""

import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from tabserve.coercion import plain
from tabserve.errors import PackError
from tabserve.feature import Feature, Scalar, Type, Unknown
from tabserve.moments import MOMENTS, texts_of_moments
from tabserve.request_class import input_names
from tabserve.signature import Signature

# As a file, as what is in it, or as a request class.
Declared = str | Path | Mapping[str, Any] | type[BaseModel]


class DeclaredFeature(BaseModel):
    """As Feature has it; what is left out stays as it was found. minimum and maximum of a date are
    dates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Type | None = None
    nullable: bool | None = None
    required: bool | None = None
    default: Scalar | datetime | date | None = None
    imputed: Literal["silent", "warn"] | None = None
    minimum: float | datetime | date | None = None
    maximum: float | datetime | date | None = None
    range: Literal["inform", "warn", "refuse"] | None = None
    categories: tuple[Scalar, ...] | None = None
    unknown: Unknown | None = None


class Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    extra_fields: Literal["refuse", "ignore"] | None = None
    features: dict[str, DeclaredFeature] = {}

    @classmethod
    def of(cls, given: Declared | None) -> Self:
        """Raises PackError, naming the key."""
        source = f"The signature in {given}" if isinstance(given, str | Path) else "The signature"
        if isinstance(given, str | Path):
            try:
                given = tomllib.loads(Path(given).read_text(encoding="utf-8"))
            except OSError as error:
                raise PackError(f"{source} cannot be read: {error.strerror}.") from None
            except ValueError as error:
                raise PackError(f"{source} is no TOML: {error}.") from None
        elif isinstance(given, type):
            given = {"features": _fields(given)}
        try:
            return cls.model_validate(given or {})
        except ValidationError as error:
            raise PackError(f"{source} cannot be: {_sentence(error)}") from None

    def types(self) -> dict[str, Type]:
        """By feature, where declared."""
        return {name: told.type for name, told in self.features.items() if told.type is not None}

    def refuse_strangers(self, names: list[str]) -> None:
        """Raises PackError for what is declared of no feature."""
        strangers = [name for name in self.features if name not in names]
        if strangers:
            raise PackError(
                f"The signature declares {', '.join(strangers)}, which is no feature of the model; "
                f"its features are {', '.join(names)}."
            )

    def applied(self, found: Signature) -> Signature:
        """found: of a sample whose columns have the declared types. Raises PackError."""
        return Signature(
            features=tuple(
                _applied(self.features[feature.name], feature)
                if feature.name in self.features
                else feature
                for feature in found.features
            ),
            layout=found.layout,
            extra_fields=self.extra_fields or found.extra_fields,
        )

    def refuse_unproven(self, proven: Signature) -> None:
        """Raises PackError where the model fails on what was declared."""
        for feature in proven.features:
            told = self.features.get(feature.name)
            if told is not None and told.nullable and not feature.takes_null:
                raise PackError(
                    f"{feature.name} was declared nullable, but the model fails on a missing "
                    "value; give it a default, or impute it in the pipeline."
                )


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    *place, last = map(str, first["loc"])
    if first["type"] == "extra_forbidden":
        kind = DeclaredFeature if place[:1] == ["features"] else Declaration
        known = ", ".join(kind.model_fields)
        where = f" at {'.'.join(place)}" if place else ""
        return f"unknown key {last!r}{where}; the known ones are {known}."
    # features.NAME.KEY; behind it pydantic says which of several types it tried.
    return f"{first['msg']} at {'.'.join(map(str, first['loc'][:3]))}."


def _applied(told: DeclaredFeature, found: Feature) -> Feature:
    given = told.model_dump(exclude_unset=True, exclude={"default", "minimum", "maximum"})
    changes = {key: value for key, value in given.items() if value is not None}
    if told.categories is not None:
        changes |= _categories(told, found)
    kind = changes.get("type", found.type)
    if kind == "boolean" and found.type != "boolean":
        changes |= {"minimum": None, "maximum": None, "categories": None}
        changes["typical"] = tuple(bool(value) for value in found.typical)
    changes |= _ends(told, found.name, kind)
    if told.default is not None:
        # What stands in is what the model is given, so that it need not take a missing value.
        changes |= {"default": _default(told.default), "nullable": False}
    made = Feature(**found.model_dump() | changes)
    _refuse_misfit(told, made)
    return made


def _default(default: Any) -> Scalar:
    if isinstance(default, date):  # a datetime is one
        return str(texts_of_moments(np.array([_in_utc(default)], dtype=MOMENTS))[0])
    return default  # type: ignore[no-any-return]


def _in_utc(moment: date) -> Any:
    feature = Feature(name="", type="datetime", dtype="datetime64[us]")
    return Signature(features=(feature,)).checked({"": [moment]}).columns[""][0]


def _categories(told: DeclaredFeature, found: Feature) -> dict[str, Any]:
    categories = told.categories or ()
    if found.dtype == "category":
        raise PackError(
            f"The categories of {found.name} are those of the DataFrame that the model was fitted "
            "on; others cannot be declared."
        )
    strangers = [value for value in categories if value not in (found.categories or categories)]
    if strangers and (told.unknown or found.unknown) not in ("allow", "warn"):
        raise PackError(
            f"The signature declares {', '.join(map(repr, strangers))} of {found.name}, which the "
            "model's encoder does not know."
        )
    return {"typical": tuple(x for x in found.typical if x in categories) or categories[:1]}


def _ends(told: DeclaredFeature, name: str, kind: Type) -> dict[str, Any]:
    given = {"minimum": told.minimum, "maximum": told.maximum}
    given = {key: end for key, end in given.items() if end is not None}
    if not given:
        return {}
    if kind not in ("integer", "number", "datetime"):
        raise PackError(f"{name} is a {kind}, which has no minimum or maximum.")
    if kind != "datetime":
        if not all(isinstance(end, float) for end in given.values()):
            raise PackError(f"{name} is a {kind}, and its minimum and maximum are numbers.")
        return given
    if not all(isinstance(end, date) for end in given.values()):
        raise PackError(f"{name} is a date, and its minimum and maximum are dates.")
    names = {"minimum": "earliest", "maximum": "latest"}
    return {names[key]: _default(end) for key, end in given.items()}


def _refuse_misfit(told: DeclaredFeature, made: Feature) -> None:
    """Raises PackError for a declaration that no value could meet, or that would do nothing."""
    least, largest = made.limits
    if least is not None and largest is not None and least > largest:
        raise PackError(f"The minimum of {made.name} is above its maximum.")
    if made.range != "inform" and (least, largest) == (None, None):
        raise PackError(f"{made.name} has no minimum or maximum to {made.range} by.")
    if told.unknown is not None and made.categories is None:
        raise PackError(
            f"{made.name} has no categories that could be unknown; declare them, or leave the "
            "policy out."
        )
    if not (made.takes_null or made.required):
        raise PackError(f"{made.name} need not be sent, but may not be null; give it a default.")
    if made.imputed == "warn" and not made.takes_null:
        raise PackError(f"{made.name} may not be null, so that nothing is imputed there.")
    if made.default is not None:
        told_default = Feature(**made.model_dump() | {"default": None, "range": "inform"})
        found = Signature(features=(told_default,)).checked({made.name: [made.default]})
        if found.problems:
            raise PackError(
                f"The default {made.default!r} of {made.name} is no value of it: "
                f"{found.problems[0]['msg']}."
            )


# A request class as a declaration.

# Of pydantic's constraints, with the step from an open end to the next value within.
_ENDS = {"ge": ("minimum", 0), "le": ("maximum", 0), "gt": ("minimum", 1), "lt": ("maximum", -1)}

_TYPES: dict[Any, Type] = {
    bool: "boolean", int: "integer", float: "number", str: "string", datetime: "datetime",
    date: "datetime",
}  # fmt: skip


def _fields(request_class: type[BaseModel]) -> dict[str, Any]:
    """Of its fields those whose type a feature may have, under the names that are sent."""
    found = {}
    for name, field in request_class.model_fields.items():
        told: dict[str, Any] = {}
        _learn(field.annotation, told)
        _learn_ends(field.metadata, told)
        if not field.is_required():
            default = plain(field.get_default(call_default_factory=False))
            if isinstance(default, bool | int | float | str | date):
                told["default"] = default
            else:
                told["required"] = False
        found[input_names(request_class, name)[0]] = told
    return found


def _learn(annotation: Any, told: dict[str, Any]) -> None:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        _learn(inner, told)
        _learn_ends(metadata, told)
    elif origin in (Union, UnionType):
        choices = get_args(annotation)
        told["nullable"] = NoneType in choices
        others = [choice for choice in choices if choice is not NoneType]
        if len(others) == 1:
            _learn(others[0], told)
    elif origin is Literal:
        _learn_categories(get_args(annotation), told)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        _learn_categories([member.value for member in annotation], told)
    elif annotation in _TYPES:
        told["type"] = _TYPES[annotation]


def _learn_categories(values: Any, told: dict[str, Any]) -> None:
    told["categories"] = [value for value in map(plain, values) if value is not None]
    told["type"] = _TYPES.get(type(told["categories"][0]))


def _learn_ends(metadata: list[Any], told: dict[str, Any]) -> None:
    """Of Field(ge=…) and the like. An open end of whole numbers is the next whole number."""
    is_whole = told.get("type") == "integer"
    for constraint in metadata:
        for end, (key, step) in _ENDS.items():
            value = getattr(constraint, end, None)
            if not isinstance(value, int | float | date):
                continue
            if step and not isinstance(value, date):
                next_one = float(np.nextafter(value, step * np.inf))
                value = value + step if is_whole else next_one
            told |= {key: value, "range": "refuse"}
