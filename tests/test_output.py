"""What an answer says, declared and undeclared, and that its JSON Schema says the same."""

import json
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tabserve.errors import BadModelOutput, PackError
from tabserve.output import COMMON_FIELDS, Bands, Output, Renderer, Target

BANDS = Bands(name="risk", labels=("Low", "Medium", "High"), edges=(0.3, 0.7))
BINARY = Target(kind="classes", classes=("No", "Yes"), has_proba=True)
THREE = Target(kind="classes", classes=(1, 2, 3), has_proba=True)
NUMBER = Target(kind="number")


def objects(*labels: Any) -> Any:
    return np.array([*labels, None], dtype=object)[:-1]


def rendered(targets: Any, outputs: Any, declared: Output | None = None) -> list[dict[str, Any]]:
    """The rows, each of which was found valid by the schema of an answer."""
    renderer = Renderer(targets, declared)
    rows = renderer.render(outputs, 1 if not outputs else len(next(iter(outputs.values()))))
    validator = jsonschema_rs.validator_for(renderer.json_schema())
    for row in rows:
        validator.validate(json.loads(json.dumps(row)))
        assert tuple(row) == renderer.own_fields
    return rows


# Bands


@pytest.mark.parametrize(
    "text",
    [
        "risk: Low < 0.3 <= Medium < 0.7 <= High",
        "risk:Low<0.3<=Medium<.7<=High",
        "  risk :  Low < 3e-1 <= Medium < +0.70 <= High  ",
    ],
)
def test_bands_read_from_text(text: str) -> None:
    assert Bands.parse(text) == BANDS
    assert Output.model_validate({"name": "p", "bands": text}).bands == BANDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "risk",
        "risk: Low",
        "Low < 0.3 <= High",
        ": Low < 0.3 <= High",
        "risk: Low < x <= High",
        "risk: Low <= 0.3 < High",
        "risk: < 0.3 <= High",
        "risk: Low < 0.3 <=",
        "risk: Low < 0.7 <= Medium < 0.3 <= High",
        "risk: Low < 0.3 <= Medium < 0.3 <= High",
        "risk: Low < 1e400 <= High",
        "risk: Low < nan <= High",
    ],
)
def test_bands_that_say_nothing_clear_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected bands|ascend|at least 1|finite"):
        Bands.parse(text)


@pytest.mark.parametrize("edge", [float("nan"), float("inf")])
def test_an_edge_is_a_finite_number(edge: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Bands(name="risk", labels=("Low", "High"), edges=(edge,))


@pytest.mark.parametrize(
    ("value", "band"),
    [
        (0.0, "Low"), (np.nextafter(0.3, 0), "Low"), (0.3, "Medium"),
        (np.nextafter(0.7, 0), "Medium"), (0.7, "High"), (1.0, "High"), (-5, "Low"),
    ],
)  # fmt: skip
def test_a_value_on_an_edge_belongs_to_the_upper_band(value: float, band: str) -> None:
    assert BANDS.of(value) == band


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_bands_are_as_their_text_reads(value: float) -> None:
    assert BANDS.of(value) == ("Low" if value < 0.3 else "Medium" if value < 0.7 else "High")


# Declared


def test_the_number_is_rounded_and_its_band_decided_on_the_unrounded_one() -> None:
    declared = Output(name="p", round=3, bands=BANDS)
    proba = np.array([0.29996, 0.6996, 0.7344])  # of the positive class
    assert rendered((BINARY,), {"proba": proba}, declared) == [
        {"p": 0.3, "risk": "Low"},
        {"p": 0.7, "risk": "Medium"},
        {"p": 0.734, "risk": "High"},
    ]


@pytest.mark.parametrize(
    ("target", "positive", "column"),
    [
        (BINARY, None, 1),
        (BINARY, "No", 0),
        (THREE, 3, 2),
        (THREE, "3", 2),
        (THREE, np.int64(2), 1),
        (Target(kind="classes", classes=(False, True), has_proba=True), "false", 0),
        (Target(kind="classes", classes=(0.0, 1.5), has_proba=True), "1.5", 1),
    ],
)
def test_the_positive_class_goes_by_its_label_or_its_name(
    target: Target, positive: Any, column: int
) -> None:
    proba = np.linspace(0.1, 0.3, len(target.classes))[None, :]
    declared = Output(name="p", positive=positive)
    renderer = Renderer((target,), declared)
    assert renderer.parts == {"proba": column}
    assert rendered((target,), {"proba": proba[:, column]}, declared) == [{"p": proba[0, column]}]


def test_a_declared_value_of_a_regressor_is_named_rounded_and_banded() -> None:
    declared = Output(name="price", round=0, bands=BANDS)
    assert rendered((NUMBER,), {"value": np.array([0.69])}, declared) == [
        {"price": 1.0, "risk": "Medium"}
    ]


@pytest.mark.parametrize(
    ("targets", "declared"),
    [
        ((THREE,), Output(name="p")),
        ((BINARY,), Output(name="p", positive="Maybe")),
        ((NUMBER,), Output(name="p", positive="Yes")),
        ((BINARY.model_copy(update={"has_proba": False}),), Output(name="p")),
        ((BINARY,), Output(name="model_version")),
        ((BINARY,), Output(name="risk", bands=BANDS)),
        ((BINARY,), Output(name="p", bands=BANDS.model_copy(update={"name": "prediction_id"}))),
        ((NUMBER.model_copy(update={"name": "a"}),) * 2, None),
        ((NUMBER.model_copy(update={"name": "a"}), NUMBER), None),
        (tuple(Target(name=name, kind="number") for name in ("a", "prediction_id")), None),
        (tuple(Target(name=name, kind="number") for name in ("a", "b")), Output(name="p")),
    ],
)
def test_a_declaration_that_does_not_fit_the_model_is_refused_with_a_sentence(
    targets: Any, declared: Output | None
) -> None:
    with pytest.raises(PackError, match=r"\.$"):
        Renderer(targets, declared)


# Undeclared


def test_an_undeclared_binary_answer_has_the_label_and_every_probability_unrounded() -> None:
    outputs = {"label": objects("Yes"), "proba": np.array([[1 / 3, 2 / 3]])}
    assert rendered((BINARY,), outputs) == [
        {"prediction": "Yes", "probability": 2 / 3, "probabilities": {"No": 1 / 3, "Yes": 2 / 3}}
    ]


@pytest.mark.parametrize(
    ("classes", "label", "names"),
    [
        ((1, 2, 3), 2, ["1", "2", "3"]),
        (("a", "b", "c"), "b", ["a", "b", "c"]),
        ((0.5, 1.0, 2.0), 1.0, ["0.5", "1.0", "2.0"]),
        ((True,), True, ["true"]),
    ],
)
def test_an_undeclared_label_keeps_its_type_and_names_its_probability(
    classes: Any, label: Any, names: list[str]
) -> None:
    target = Target(kind="classes", classes=classes, has_proba=True)
    proba = np.full((1, len(names)), 1 / len(names))
    row = rendered((target,), {"label": objects(label), "proba": proba})[0]
    assert row == {"prediction": label, "probabilities": dict.fromkeys(names, 1 / len(names))}
    assert type(row["prediction"]) is type(label)


def test_a_classifier_without_probabilities_answers_the_label_and_a_regressor_the_value() -> None:
    bare = BINARY.model_copy(update={"has_proba": False})
    assert rendered((bare,), {"label": objects("No")}) == [{"prediction": "No"}]
    assert rendered((NUMBER,), {"value": np.array([0.1])}) == [{"prediction": 0.1}]


def test_several_outputs_are_answered_by_name() -> None:
    targets = (Target(name="price", kind="number"), BINARY.model_copy(update={"name": "sold"}))
    outputs = {
        "price.value": np.array([1.5, 2.5]),
        "sold.label": objects("No", "Yes"),
        "sold.proba": np.array([[0.75, 0.25], [0.5, 0.5]]),
    }
    second = {"prediction": "Yes", "probability": 0.5, "probabilities": {"No": 0.5, "Yes": 0.5}}
    assert rendered(targets, outputs)[1] == {"price": 2.5, "sold": second}
    assert Renderer(targets, None).parts == dict.fromkeys(outputs)


# Bad outputs


@pytest.mark.parametrize(
    ("target", "outputs", "message"),
    [
        (NUMBER, {"value": np.array([1.0, np.nan])}, "record 1 is not a finite number"),
        (NUMBER, {"value": np.array([np.inf, 1.0])}, "record 0 is not a finite number"),
        (NUMBER, {"value": np.array([1.0])}, "answered 1 rows for 2"),
        (NUMBER, {}, "answered none rows for 2"),
        (BINARY, {"label": objects("No", "No"), "proba": np.array([[1, 0], [np.nan, 0]])},
         "record 1 is not a finite number"),
    ],
)  # fmt: skip
def test_a_model_that_answers_no_number_or_too_few_is_a_server_error(
    target: Target, outputs: Any, message: str
) -> None:
    with pytest.raises(BadModelOutput, match=message):
        Renderer((target,), None).render(outputs, 2)


def test_fields_are_the_answers_own_and_those_of_every_answer() -> None:
    renderer = Renderer((BINARY,), Output(name="p", bands=BANDS))
    assert set(renderer.fields) == {"p", "risk", "warnings", *COMMON_FIELDS}
