"""What an answer says: the model's targets, the user's declaration, and the rendering of both."""

import math
import re
from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from tabserve.errors import BadModelOutput, PackError
from tabserve.types import Array, Outputs, Parts

Label = bool | int | float | str
Prediction = dict[str, Any]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_EDGE = re.compile(rf"\s*<\s*({_NUMBER})\s*<=\s*")


class Bands(BaseModel):
    """Named ranges of a number: label i holds edges[i-1] <= x < edges[i]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    labels: tuple[str, ...]
    edges: tuple[FiniteFloat, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """`risk_category: Low < 0.3 <= Medium < 0.7 <= High`"""
        name, colon, rest = text.partition(":")
        pieces = _EDGE.split(rest.strip())
        labels, edges = pieces[::2], pieces[1::2]
        if not colon or len(labels) < 2 or not all(re.fullmatch(r"[^<>=]+", x) for x in labels):
            raise ValueError(
                'expected bands like "risk_category: Low < 0.3 <= Medium < 0.7 <= High", '
                f"got {text!r}"
            )
        return cls(name=name.strip(), labels=tuple(labels), edges=tuple(map(float, edges)))

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return cls.parse(value).model_dump() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if len(self.labels) != len(self.edges) + 1:
            raise ValueError("expected one more label than edges")
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError("the edges of bands must ascend")
        return self

    def of(self, value: float) -> str:
        return self.labels[bisect_right(self.edges, value)]


class Output(BaseModel):
    """The user's declaration of the answer.

    name: of the field that holds the number: a class's probability, or a regressor's value.
    positive: the class whose probability it is; the second one where left out.
    round: decimal places of the number as answered; bands are decided on the unrounded one.
    bands: a second field; also as text, see `Bands.parse`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    positive: Label | None = None
    round: int | None = Field(default=None, ge=0, le=15)
    bands: Bands | None = None

    @classmethod
    def declared(cls, output: "Output | Mapping[str, Any] | None") -> "Output | None":
        """Raises PackError, naming the part that cannot be."""
        try:
            return None if output is None else cls.model_validate(output)
        except ValidationError as error:
            found = error.errors()[0]
            place = ".".join(map(str, found["loc"]))
            raise PackError(
                f"The output cannot be declared so: {found['msg']} at {place}."
            ) from None


class Target(BaseModel):
    """One thing that the model predicts. `name` is "" where it predicts only one.

    has_score: whether a number beside the label says how far a row is inside (or, where negative,
    outside). Instead of probabilities.
    is_open: whether labels may come that are none of the classes: those of a function are what it
    answered to its sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    kind: Literal["classes", "number"]
    classes: tuple[Label, ...] = ()
    has_proba: bool = False
    has_score: bool = False
    is_open: bool = False

    def part(self, part: str) -> str:
        return f"{self.name}.{part}" if self.name else part


# Fields of every answer, beside the prediction itself.
COMMON_FIELDS = ("model_version", "prediction_id", "prediction_timestamp")
# Of some answers; the name is not free either.
WARNINGS = "warnings"


class Renderer:
    """Outputs -> one dict per row, ready for JSON.

    Raises PackError where the declaration does not fit the targets.
    """

    def __init__(self, targets: tuple[Target, ...], declared: Output | None) -> None:
        self._targets = targets
        self._declared = declared
        _refuse_clashes([target.name for target in targets])
        if declared is not None:
            _refuse_misfit(declared, targets)
        self._as_declared = None if declared is None else _Declared(declared)

    @cached_property
    def parts(self) -> Parts:
        """What an answer needs, so that an engine computes no more."""
        if self._declared is not None:
            target = self._targets[0]
            if target.kind == "number":
                return {target.part("value"): None}
            return {target.part("proba"): _positive_column(self._declared, target)}
        return {target.part(part): None for target in self._targets for part in _parts(target)}

    def render(self, outputs: Outputs, n_rows: int) -> list[Prediction]:
        """Raises BadModelOutput where a number is not finite or an array not of n_rows."""
        if self._as_declared is not None:
            (part,) = self.parts
            return self._as_declared.render(_listed(outputs.get(part), n_rows))
        values = {part: _listed(outputs.get(part), n_rows) for part in self.parts}
        rendered = [_render_target(target, values) for target in self._targets]
        if len(self._targets) == 1 and not self._targets[0].name:
            return rendered[0]
        names = [target.name for target in self._targets]
        return [
            {
                name: row["prediction"] if len(row) == 1 else row
                for name, row in zip(names, rows, strict=True)
            }
            for rows in zip(*rendered, strict=True)
        ]

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of one prediction, without COMMON_FIELDS."""
        if self._declared is not None:
            probability = self._targets[0].kind == "classes"
            fields = {self._declared.name: _number(probability)}
            if self._declared.bands is not None:
                labels = list(self._declared.bands.labels)
                fields[self._declared.bands.name] = {"type": "string", "enum": labels}
            return _object(fields)
        schemas = {target.name: _target_schema(target) for target in self._targets}
        if len(schemas) == 1 and "" in schemas:
            return schemas[""]
        return _object(
            {
                name: schema["properties"]["prediction"]
                if list(schema["properties"]) == ["prediction"]
                else schema
                for name, schema in schemas.items()
            }
        )

    @cached_property
    def own_fields(self) -> tuple[str, ...]:
        """The names of an answer's fields, without COMMON_FIELDS."""
        return tuple(self.json_schema()["properties"])

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.own_fields, *COMMON_FIELDS, WARNINGS)


def class_name(label: Label) -> str:
    """A label as a key of `probabilities`: text as it is, anything else as JSON writes it."""
    return label if isinstance(label, str) else orjson.dumps(label).decode()


def _refuse_clashes(names: list[str]) -> None:
    """Of several outputs, each is a field of the answer under its name."""
    taken = {"", WARNINGS, *COMMON_FIELDS}
    if len(names) > 1 and len(set(names) - taken) < len(names):
        raise PackError(
            f"The outputs are named {', '.join(map(repr, names))}; each needs a name of its own, "
            f"and none of {', '.join(COMMON_FIELDS)}, {WARNINGS}, which are in answers already."
        )


def _refuse_misfit(declared: Output, targets: tuple[Target, ...]) -> None:
    if len(targets) > 1:
        raise PackError("An output can be declared for a model with one target only.")
    target = targets[0]
    names = {declared.name, declared.bands.name if declared.bands else None}
    taken = names & {WARNINGS, *COMMON_FIELDS}
    if taken or (declared.bands and declared.bands.name == declared.name):
        raise PackError(
            f"The output's name {declared.name!r} or that of its bands is in answers already; "
            "choose another."
        )
    if target.kind == "number":
        if declared.positive is not None:
            raise PackError("A positive class was declared, but the model predicts a number.")
        return
    if not target.has_proba:
        raise PackError("An output was declared, but the model has no predict_proba.")
    if declared.positive is None and len(target.classes) != 2:
        raise PackError(
            f"The model has {len(target.classes)} classes; say with `positive` whose probability "
            f"{declared.name!r} is."
        )
    if declared.positive is not None:
        _positive_column(declared, target)


def _positive_column(declared: Output, target: Target) -> int:
    if declared.positive is None:
        return 1
    # By its name as well: a flag of the command line is text, the label may be a number.
    for column, label in enumerate(target.classes):
        if label == declared.positive or class_name(label) == declared.positive:
            return column
    raise PackError(
        f"Expected the positive class to be one of {list(target.classes)}, "
        f"got {declared.positive!r}."
    )


def _parts(target: Target) -> tuple[str, ...]:
    if target.kind == "number":
        return ("value",)
    if target.has_score:
        return ("label", "score")
    return ("label", "proba") if target.has_proba else ("label",)


def _listed(array: Array | None, n_rows: int) -> list[Any]:
    """By row, as Python values. Raises BadModelOutput."""
    if array is None or len(array) != n_rows:
        got = "none" if array is None else len(array)
        raise BadModelOutput(f"The model answered {got} rows for {n_rows}.")
    listed: list[Any] = array.tolist()
    if array.dtype.kind == "f":
        # For one number math.isfinite takes a tenth of numpy's time.
        is_finite = all(map(math.isfinite, listed)) if array.ndim == 1 else np.isfinite(array).all()
        if not is_finite:
            bad = ~np.isfinite(array.reshape(n_rows, -1)).all(axis=1)
            raise BadModelOutput(
                f"The model's answer for record {int(bad.argmax())} is not a finite number.",
                np.flatnonzero(bad).tolist(),
            )
    return listed


class _Declared:
    """Renders numbers as was declared."""

    def __init__(self, declared: Output) -> None:
        self._name = declared.name
        self._decimals = declared.round
        self._band = None if declared.bands is None else (declared.bands.name, declared.bands.of)

    def render(self, numbers: list[float]) -> list[Prediction]:
        name, decimals = self._name, self._decimals
        shown = numbers if decimals is None else [round(number, decimals) for number in numbers]
        if self._band is None:
            return [{name: number} for number in shown]
        band, of = self._band
        return [
            {name: number, band: of(exact)} for number, exact in zip(shown, numbers, strict=True)
        ]


def _render_target(target: Target, values: dict[str, list[Any]]) -> list[Prediction]:
    if target.kind == "number":
        return [{"prediction": value} for value in values[target.part("value")]]
    labels = values[target.part("label")]
    if target.has_score:
        scores = values[target.part("score")]
        return [
            {"prediction": label, "score": score}
            for label, score in zip(labels, scores, strict=True)
        ]
    if not target.has_proba:
        return [{"prediction": label} for label in labels]
    names = [class_name(label) for label in target.classes]
    binary = len(names) == 2
    rows = []
    for label, proba in zip(labels, values[target.part("proba")], strict=True):
        row: Prediction = {"prediction": label}
        if binary:
            row["probability"] = proba[1]
        row["probabilities"] = dict(zip(names, proba, strict=True))
        rows.append(row)
    return rows


def _number(probability: bool) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": 1} if probability else {"type": "number"}


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _label_schema(target: Target) -> dict[str, Any]:
    if not target.is_open:
        return {"enum": list(target.classes)}
    is_text = isinstance(target.classes[0], str)
    return {"type": "string" if is_text else "boolean", "examples": list(target.classes)}


def _target_schema(target: Target) -> dict[str, Any]:
    if target.kind == "number":
        return _object({"prediction": _number(probability=False)})
    fields: dict[str, Any] = {"prediction": _label_schema(target)}
    if target.has_score:
        fields["score"] = _number(probability=False)
    if target.has_proba:
        names = [class_name(label) for label in target.classes]
        if len(names) == 2:
            fields["probability"] = _number(probability=True)
        fields["probabilities"] = _object({name: _number(probability=True) for name in names})
    return _object(fields)
