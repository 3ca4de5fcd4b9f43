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


DATE = {"type": "datetime", "dtype": "datetime64[us]", "categories": None}

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
    "may be left out": (
        "tenure_months", {}, {"required": False}, "may be left out now", False
    ),
    "must be sent": (
        "tenure_months", {"required": False}, {}, "must be sent now", True
    ),
    "another default": (
        "tenure_months", {"default": 1}, {"default": 2}, "another default stands in for null", False
    ),
    "a range": (
        "tenure_months", {}, {"range": "refuse", "minimum": 0.0, "maximum": 72.0},
        "refuses what is not from 0 to 72", True,
    ),
    "a range of one end": (
        "tenure_months", {"minimum": None, "maximum": None},
        {"range": "refuse", "minimum": None, "maximum": 72.0}, "refuses what is not at most 72",
        True,
    ),
    "a narrower range": (
        "tenure_months", {"range": "refuse", "minimum": 0.0, "maximum": 72.0},
        {"range": "refuse", "minimum": 0.0, "maximum": 60.0},
        "refuses what is not from 0 to 60", True,
    ),
    "a wider range": (
        "tenure_months", {"range": "refuse", "minimum": 0.0, "maximum": 72.0},
        {"range": "refuse", "minimum": 0.0, "maximum": None}, "refuses what is not at least 0",
        False,
    ),
    "a range no longer": (
        "tenure_months", {"range": "refuse", "minimum": 0.0, "maximum": 72.0}, {"range": "warn"},
        "refuses no longer what is not from 0 to 72", False,
    ),
    "unknown are warned of": (
        "contract_type", {}, {"unknown": "warn"}, "refuses unknown categories no longer", False
    ),
    "dates": (
        "contract_type", {}, DATE, "takes datetime, before string", True,
    ),
    "later dates": (
        "contract_type", {**DATE, "range": "refuse", "earliest": "2020-01-01T00:00:00Z"},
        {**DATE, "range": "refuse", "earliest": "2024-01-01T00:00:00Z"},
        "refuses what is not at least 2024-01-01T00:00:00", True,
    ),
    "dates of another zone": (
        "contract_type", {**DATE, "nullable": True},
        {**DATE, "nullable": False, "dtype": "datetime64[us, Asia/Tokyo]"},
        "may be null no longer", True,
    ),
    "dates of nanoseconds": (
        "contract_type", DATE, {**DATE, "dtype": "datetime64[ns, UTC]"},
        "takes 1677-09-21 to 2262-04-11, before 0001-01-01 to 9999-12-31", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FEATURES)
def test_a_feature_that_takes_less_breaks_and_one_that_takes_more_does_not(
    churn: Manifest, case: str
) -> None:
    name, before, after, text, is_breaking = FEATURES[case]
    old, new = with_feature(churn, name, **before), with_feature(churn, name, **after)
    assert changes(old, new) == [Change(f"features.{name}", text, is_breaking)]


def test_a_default_lets_a_field_be_null_and_be_left_out(churn: Manifest) -> None:
    old = with_feature(churn, "contract_type", nullable=False)
    new = with_feature(old, "contract_type", default="One year")
    texts = ["may be null now", "may be left out now"]
    assert changes(old, new) == [Change("features.contract_type", text, False) for text in texts]
    texts = ["may be null no longer", "must be sent now"]
    assert changes(new, old) == [Change("features.contract_type", text, True) for text in texts]


@pytest.mark.parametrize(
    "seen",
    [{"minimum": 3.0}, {"typical": (5,)}, {"missing": "none"}, {"imputed": "warn"},
     {"range": "warn", "maximum": 60.0}],
)  # fmt: skip
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
