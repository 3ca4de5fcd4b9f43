"""Which changes from one version to the next break the clients of the first."""

from pathlib import Path
from typing import Any

import pytest

from tabserve.artifact import Artifact, Manifest
from tabserve.compatibility import Change, breaking, changes
from tabserve.output import Bands, Output, Target
from tabserve.signature import Feature


@pytest.fixture(scope="module")
def churn(repository: Path) -> Manifest:
    return Artifact(repository / "churn" / "1.2.3").manifest


def with_feature(manifest: Manifest, name: str, **changed: Any) -> Manifest:
    features = tuple(
        Feature(**feature.model_dump() | changed) if feature.name == name else feature
        for feature in manifest.signature.features
    )
    return with_signature(manifest, features=features)


def with_signature(manifest: Manifest, **changed: Any) -> Manifest:
    signature = manifest.signature.model_copy(update=changed)
    return manifest.model_copy(update={"signature": signature})


def with_answer(manifest: Manifest, **changed: Any) -> Manifest:
    return manifest.model_copy(update=changed)


def test_nothing_changes_from_a_version_to_itself(churn: Manifest) -> None:
    assert changes(churn, churn) == []


FEATURES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str, bool]] = {
    # case: the feature, what it has in the old version, what in the new one, text, breaking
    "wider type": ("tenure_months", {}, {"type": "number"}, "takes number, before integer", False),
    "narrower type": (
        "monthly_charges", {}, {"type": "integer", "dtype": "int64"},
        "takes integer, before number", True,
    ),
    "other type": (
        "tenure_months", {}, {"type": "string", "dtype": "object"},
        "takes string, before integer", True,
    ),
    "not null": ("tenure_months", {}, {"nullable": False}, "may be null no longer", True),
    "null": ("contract_type", {}, {"nullable": True}, "may be null now", False),
    "smaller dtype": (
        "tenure_months", {"nullable": False}, {"nullable": False, "dtype": "int8"},
        "takes -128 to 127, before -9007199254740992 to 9007199254740992", True,
    ),
    "larger dtype": (
        "tenure_months", {"nullable": False, "dtype": "uint8"}, {"nullable": False},
        "takes -9007199254740992 to 9007199254740992, before 0 to 255", False,
    ),
    "fewer categories": (
        "contract_type", {}, {"categories": ("One year", "Two year")},
        "knows 'Month-to-month' no longer", True,
    ),
    "fewer, none refused": (
        "contract_type", {"unknown": "allow"}, {"unknown": "allow", "categories": ("One year",)},
        "knows 'Month-to-month', 'Two year' no longer", False,
    ),
    "more categories": (
        "contract_type", {"categories": ("One year",)}, {"categories": ("One year", "Weekly")},
        "knows 'Weekly' now", False,
    ),
    "refuses": (
        "contract_type", {"unknown": "missing"}, {}, "refuses unknown categories", True
    ),
    "refuses no longer": (
        "contract_type", {}, {"unknown": "allow"}, "refuses unknown categories no longer", False
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FEATURES)
def test_a_feature_that_takes_less_breaks_and_one_that_takes_more_does_not(
    churn: Manifest, case: str
) -> None:
    name, before, after, text, is_breaking = FEATURES[case]
    old, new = with_feature(churn, name, **before), with_feature(churn, name, **after)
    assert changes(old, new) == [Change(f"features.{name}", text, is_breaking)]


@pytest.mark.parametrize("seen", [{"minimum": 3.0}, {"typical": (5,)}, {"missing": "none"}])
def test_what_no_client_can_tell_is_no_change(churn: Manifest, seen: dict[str, Any]) -> None:
    assert changes(churn, with_feature(churn, "tenure_months", **seen)) == []


@pytest.mark.parametrize(("extra", "is_breaking"), [("refuse", True), ("ignore", False)])
def test_a_removed_feature_breaks_where_extra_fields_are_refused(
    churn: Manifest, extra: Any, is_breaking: bool
) -> None:
    churn = with_signature(churn, extra_fields=extra)
    fewer = with_signature(churn, features=churn.signature.features[1:])
    (change,) = changes(churn, fewer)
    assert (change.place, change.breaking) == ("features.tenure_months", is_breaking)


def test_a_feature_that_must_be_sent_breaks(churn: Manifest) -> None:
    age = Feature(name="age", type="integer", dtype="int64")
    more = with_signature(churn, features=(*churn.signature.features, age))
    assert breaking(churn, more) == [
        Change("features.age", "added (integer); a request without it is refused", True)
    ]


def test_the_order_of_features_is_no_change(churn: Manifest) -> None:
    assert changes(churn, with_signature(churn, features=churn.signature.features[::-1])) == []


@pytest.mark.parametrize(("extra", "is_breaking"), [("refuse", True), ("ignore", False)])
def test_refusing_extra_fields_breaks(churn: Manifest, extra: Any, is_breaking: bool) -> None:
    before: Any = {"refuse": "ignore", "ignore": "refuse"}[extra]
    old, new = (with_signature(churn, extra_fields=policy) for policy in (before, extra))
    assert changes(old, new) == [
        Change("extra_fields", f"extra fields: {extra}, before {before}", is_breaking)
    ]


BANDS = Bands.parse("risk_category: Low < 0.3 <= Medium < 0.7 <= High")
CHURN = Output(name="churn_probability", positive="Yes", round=3, bands=BANDS)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            Output(name="risk", positive="Yes", round=3, bands=BANDS),
            [("churn_probability", "removed", True), ("risk", "added", False)],
        ),
        (
            Output(name="churn_probability", positive="No", round=3, bands=BANDS),
            [("churn_probability", "is the probability of 'No', before of 'Yes'", True)],
        ),
        (
            Output(name="churn_probability", positive="Yes", bands=BANDS),
            [("churn_probability", "not rounded, before rounded to 3 places", False)],
        ),
        (
            Output(name="churn_probability", positive="Yes", round=3),
            [("risk_category", "removed", True)],
        ),
        (
            Output(name="churn_probability", positive="Yes", round=3,
                   bands=Bands.parse("risk_category: Low < 0.2 <= Medium < 0.7 <= High")),
            [("risk_category", "edges 0.2, 0.7, before 0.3, 0.7", False)],
        ),
        (
            Output(name="churn_probability", positive="Yes", round=3,
                   bands=Bands.parse("risk_category: Low < 0.3 <= Medium < 0.7 <= Alarm")),
            [("risk_category", "may be 'Alarm', which clients do not know", True),
             ("risk_category", "is never 'High' now", False)],
        ),
    ],
)  # fmt: skip
def test_an_answer_that_clients_cannot_read_breaks(
    churn: Manifest, output: Output, expected: list[tuple[str, str, bool]]
) -> None:
    old, new = with_answer(churn, output=CHURN), with_answer(churn, output=output)
    assert changes(old, new) == [Change(f"output.{name}", *rest) for name, *rest in expected]


def test_another_class_is_one_that_clients_do_not_know(churn: Manifest) -> None:
    two, three = (
        with_answer(
            churn,
            output=None,
            targets=(Target(kind="classes", classes=classes, has_proba=True),),
        )
        for classes in (("a", "b"), ("a", "b", "c"))
    )
    assert {(change.place, change.breaking) for change in changes(two, three)} == {
        ("output.prediction", True),
        ("output.probability", True),
        ("output.probabilities.c", False),
    }
    number = with_answer(churn, output=None, targets=(Target(kind="number"),))
    assert Change("output.prediction", "is number, before a class", True) in changes(two, number)


def test_a_declared_name_that_means_another_kind_of_number_breaks(churn: Manifest) -> None:
    number = with_answer(churn, targets=(Target(kind="number"),), output=Output(name="x"))
    share = with_answer(churn, output=Output(name="x"))
    expected = Change("output.x", "is a probability, before the model's number", True)
    assert changes(number, share) == [expected]


def test_of_many_categories_the_first_are_named(churn: Manifest) -> None:
    many = with_feature(churn, "contract_type", categories=tuple("abcdefgh"))
    (change,) = changes(many, with_feature(churn, "contract_type", categories=("a",)))
    assert change.text == "knows 'b', 'c', 'd', 'e', 'f' and 2 more no longer"


def test_1_and_true_are_two_categories(churn: Manifest) -> None:
    old, new = (
        with_feature(churn, "contract_type", categories=categories)
        for categories in ((True, False), (1, 0))
    )
    assert any(change.breaking for change in changes(old, new))
