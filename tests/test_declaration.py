"""What is declared of a signature, and that packing keeps to it or says why it cannot."""

from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from tabserve.declaration import Declaration
from tabserve.errors import PackError
from tabserve.signature import Feature, Signature

FOUND = Signature(
    features=(
        Feature(name="age", type="integer", dtype="int64", minimum=18, maximum=90, typical=(40,)),
        Feature(name="income", type="number", dtype="float64", nullable=True),
        Feature(
            name="plan", type="string", dtype="object", categories=("a", "b"), typical=("b", "a")
        ),
        Feature(name="note", type="string", dtype="object"),
        Feature(name="since", type="datetime", dtype="datetime64[ns]"),
    )
)


def declared(given: Any) -> dict[str, Feature]:
    signature = Declaration.of(given).applied(FOUND)
    return {feature.name: feature for feature in signature.features}


def of(feature: str, **told: Any) -> Feature:
    return declared({"features": {feature: told}})[feature]


def test_what_is_not_declared_stays_as_it_was_found() -> None:
    for nothing in (None, {}, {"features": {"age": {}}}):
        assert Declaration.of(nothing).applied(FOUND) == FOUND


def test_a_file_declares_every_part(tmp_path: Path) -> None:
    file = tmp_path / "signature.toml"
    file.write_text(
        'extra_fields = "ignore"\n'
        '[features.age]\nrange = "warn"\nmaximum = 100\n'
        '[features.income]\ndefault = 0\nimputed = "warn"\n'
        '[features.plan]\nunknown = "warn"\ncategories = ["a"]\n'
        '[features.since]\nminimum = 2020-01-01\nrange = "refuse"\ndefault = 2024-01-01T12:00:00\n'
    )
    signature = Declaration.of(file).applied(FOUND)
    age, income, plan, _, since = signature.features

    assert signature.extra_fields == "ignore"
    assert (age.minimum, age.maximum, age.range) == (18, 100, "warn")
    assert (income.default, income.imputed, income.nullable, income.takes_null) == (
        0, "warn", False, True,
    )  # fmt: skip
    assert (plan.categories, plan.unknown, plan.typical) == (("a",), "warn", ("a",))
    assert (since.earliest, since.default) == (
        datetime(2020, 1, 1, tzinfo=UTC), "2024-01-01T12:00:00Z",
    )  # fmt: skip


class Plan(Enum):
    BASIC = "a"
    GOLD = "b"


class Person(BaseModel):
    customer: str | None = None
    age: Annotated[int, Field(gt=17, le=100)]
    income: float | None = Field(default=None, ge=0)
    plan: Plan = Plan.BASIC
    since: date = Field(ge=date(2020, 1, 1))


def test_a_pydantic_class_declares_types_nulls_defaults_ranges_and_categories() -> None:
    made = declared(Person)

    assert {"customer"}.isdisjoint(made)
    assert (made["age"].minimum, made["age"].maximum, made["age"].range) == (18, 100, "refuse")
    assert (made["income"].nullable, made["income"].required, made["income"].minimum) == (
        True, False, 0,
    )  # fmt: skip
    assert (made["plan"].categories, made["plan"].default) == (("a", "b"), "a")
    assert made["since"].earliest == datetime(2020, 1, 1, tzinfo=UTC)


def test_literals_of_a_class_are_categories() -> None:
    class Person(BaseModel):
        plan: Literal["b"]

    assert declared(Person)["plan"].categories == ("b",)


@pytest.mark.parametrize(
    ("feature", "told", "sentence"),
    [
        (
            "age",
            {"rnage": "warn"},
            r"unknown key 'rnage' at features\.age; the known ones",
        ),
        ("age", {"range": "maybe"}, r"'inform', 'warn' or 'refuse' at features\.age\.range"),
        ("age", {"nullable": "perhaps"}, "boolean"),
        ("age", {"minimum": 91}, "minimum of age is above its maximum"),
        ("age", {"minimum": date(2020, 1, 1)}, "minimum and maximum are numbers"),
        ("age", {"default": "x"}, "default 'x' of age is no value of it: Input should be a valid"),
        ("age", {"default": 1.5}, "valid integer"),
        ("age", {"required": False}, "give it a default"),
        ("age", {"imputed": "warn"}, "nothing is imputed"),
        ("income", {"range": "warn"}, "income has no minimum or maximum to warn by"),
        ("plan", {"categories": ["a", "z"]}, "'z' of plan, which the model's encoder does not"),
        ("plan", {"default": "z"}, "default 'z' of plan"),
        ("plan", {"minimum": 1}, "plan is a string, which has no minimum"),
        ("note", {"unknown": "warn"}, "note has no categories"),
        ("since", {"default": "yesterday"}, "ISO 8601"),
        ("since", {"maximum": 5}, "minimum and maximum are dates"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_with_a_sentence(
    feature: str, told: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PackError, match=sentence):
        of(feature, **told)


def test_a_feature_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(PackError, match=r"declares agee, which is no feature .* age, income"):
        Declaration.of({"features": {"agee": {}}}).refuse_strangers(
            [feature.name for feature in FOUND.features]
        )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read: No such file"),
        ("features = 3", "features"),
        ("[features", "is no TOML"),
        ("features.age.minimum = 'x'", r"as a number at features\.age\.minimum\.$"),
        ("extra = 1", "unknown key 'extra'; the known ones are extra_fields, features"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    file = tmp_path / "signature.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PackError, match=rf"signature\.toml .*{sentence}"):
        Declaration.of(file)
