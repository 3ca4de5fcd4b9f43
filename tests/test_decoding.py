"""JSON bytes to columns: what is taken, what is refused, and how a refusal reads."""

import gc
import json
import math
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from tabserve.decoding import RecordDecoder
from tabserve.errors import InvalidInput, InvalidJSON, RequestClassError, TooLarge
from tabserve.records import Records
from tabserve.refusal import MAX_MESSAGE_CHARS, MAX_PROBLEMS
from tabserve.signature import Feature, Signature
from tabserve.types import Columns

FEATURES = (
    Feature(name="age", type="integer", dtype="int64"),
    Feature(name="income", type="number", dtype="float64", nullable=True),
    Feature(name="member", type="boolean", dtype="bool"),
    Feature(name="plan", type="string", dtype="object", categories=("a", "b")),
)
SIGNATURE = Signature(features=FEATURES)
RECORD = {"age": 12, "income": 2.5, "member": True, "plan": "a"}


class Person(BaseModel):
    """A user's own class: lax types, an extra field, and no word on fields beyond these."""

    customer_id: str | None = None
    age: int
    income: float | None = None
    member: bool
    plan: str


def body(**changes: Any) -> bytes:
    return json.dumps(RECORD | changes).encode()


def columns(records: Records, signature: Signature = SIGNATURE) -> Columns:
    return signature.arrays(records.values)


def row(records: Records, signature: Signature = SIGNATURE) -> dict[str, Any]:
    return {name: column.tolist()[0] for name, column in columns(records, signature).items()}


def problems(decoder: RecordDecoder, text: bytes, batch: bool = False) -> list[tuple[Any, str]]:
    with pytest.raises(InvalidInput) as caught:
        (decoder.many if batch else decoder.one)(text)
    assert all(found.keys() == {"loc", "msg", "type"} for found in caught.value.problems)
    return [(found["loc"], found["type"]) for found in caught.value.problems]


@pytest.fixture(scope="module")
def plain() -> RecordDecoder:
    return RecordDecoder(SIGNATURE)


@pytest.fixture(scope="module")
def own() -> RecordDecoder:
    return RecordDecoder(SIGNATURE, Person)


# Numbers


@pytest.mark.parametrize(("text", "age"), [("12", 12), ("12.0", 12), ("1.2e1", 12), ("-0.0", 0)])
def test_a_whole_number_is_an_integer_however_it_is_written(
    plain: RecordDecoder, text: str, age: int
) -> None:
    found = columns(plain.one(body().replace(b"12", text.encode())))["age"]
    assert (found.dtype, found.tolist()) == (np.int64, [age])


@pytest.mark.parametrize("value", ["12", True, 12.5, None, [12], {}, 2**63, -(2**63), 1e19])
def test_anything_else_is_no_integer(plain: RecordDecoder, value: Any) -> None:
    assert {loc for loc, _ in problems(plain, body(age=value))} == {("body", "age")}


@pytest.mark.parametrize("value", ["2.5", True, [2.5], 2**53 + 1, -(2**53) - 1, 10**30, 10**400])
def test_text_booleans_and_integers_that_a_float_cannot_hold_are_no_numbers(
    plain: RecordDecoder, own: RecordDecoder, value: Any
) -> None:
    assert {loc for loc, _ in problems(plain, body(income=value))} == {("body", "income")}
    if type(value) is int:
        assert {loc for loc, _ in problems(own, body(income=value))} == {("body", "income")}


def test_the_largest_exact_integers_are_taken(plain: RecordDecoder) -> None:
    records = plain.one(body(age=2**63 - 1, income=2**53))
    assert row(records) == RECORD | {"age": 2**63 - 1, "income": 2.0**53}


def test_an_inexact_integer_is_refused_under_whichever_name_it_came() -> None:
    class ByTwoNames(Person):
        model_config = ConfigDict(validate_by_name=True)
        income: float | None = Field(default=None, validation_alias=AliasChoices("pay", "wage"))

    decoder = RecordDecoder(SIGNATURE, ByTwoNames)
    for name in ("pay", "wage", "income"):
        text = body(income=2**53 + 1).replace(b"income", name.encode())
        assert [kind for _, kind in problems(decoder, text)] == ["int_inexact"]


# JSON


@pytest.mark.parametrize(
    "text",
    [
        body(income=math.nan),
        body(income=math.inf),
        body(income=-math.inf),
        body()[:-1] + b', "age": 12}',
        body()[:-1] + b', "\\u0061ge": 12}',
        body() + b" x",
        b"\xef\xbb\xbf" + body(),
        body(plan="a").replace(b'"a"', b'"\\ud800"'),
        body(plan="a").replace(b'"a"', b'"\xff"'),
        body()[:-1],
        body().replace(b"}", b",}"),
        b"'a'",
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_what_strict_json_does_not_allow_is_refused(
    plain: RecordDecoder, own: RecordDecoder, text: bytes, batch: bool
) -> None:
    for decoder in (plain, own):
        found = problems(decoder, b"[" + text + b"]" if batch else text, batch)
        assert [kind for _, kind in found] in (["json_invalid"], ["finite_number"])


def test_a_number_beyond_float64_is_refused(plain: RecordDecoder, own: RecordDecoder) -> None:
    for decoder in (plain, own):
        found = problems(decoder, body().replace(b"2.5", b"1e400"))
        assert found == [(("body", "income"), "finite_number")]


def test_a_key_twice_is_refused_inside_a_nested_field_and_among_colons() -> None:
    class Nested(Person):
        note: dict[str, int] = {}

    decoder = RecordDecoder(SIGNATURE, Nested)
    echoed = decoder.one(body(note={"a:b": 1, ":": 2}, customer_id="a:::b"))
    assert echoed.echoes == [{"customer_id": "a:::b", "note": {"a:b": 1, ":": 2}}]
    twice = body()[:-1] + b', "note": {"a:": 1, "a:": 2}}'
    assert problems(decoder, twice) == [(("body",), "json_invalid")]


def test_a_key_twice_is_refused_where_a_validator_sets_a_field_that_was_not_sent() -> None:
    class Filling(Person):
        @model_validator(mode="after")
        def fill(self) -> Self:
            self.customer_id = "unknown"
            return self

    decoder = RecordDecoder(SIGNATURE, Filling)
    assert decoder.one(body()).echoes == [{"customer_id": "unknown"}]
    assert problems(decoder, body()[:-1] + b', "age": 12}') == [(("body",), "json_invalid")]


# Fields


@pytest.mark.parametrize(
    ("change", "loc", "kind"),
    [
        ({"extra": 1}, "extra", "extra_forbidden"),
        ({"age": None}, "age", "int_type"),
        ({"member": None}, "member", "bool_type"),
        ({"member": 1}, "member", "bool_type"),
        ({"plan": None}, "plan", "literal_error"),
        ({"plan": "c"}, "plan", "literal_error"),
        ({"plan": 1}, "plan", "literal_error"),
    ],
)
def test_a_bad_field_is_named_by_its_path_alone_and_in_a_batch(
    plain: RecordDecoder, change: dict[str, Any], loc: str, kind: str
) -> None:
    assert problems(plain, body(**change)) == [(("body", loc), kind)]
    batch = b"[" + body() + b"," + body(**change) + b"]"
    assert problems(plain, batch, batch=True) == [(("body", 1, loc), kind)]


@pytest.mark.parametrize("name", RECORD)
def test_a_missing_field_is_refused_even_where_it_may_be_null(
    plain: RecordDecoder, name: str
) -> None:
    sent = {key: value for key, value in RECORD.items() if key != name}
    assert problems(plain, json.dumps(sent).encode()) == [(("body", name), "missing")]


@pytest.mark.parametrize("text", [b"[]", b"{}", b"null", b"3", b'"a"', b"[[]]"])
def test_a_body_of_another_shape_is_refused(plain: RecordDecoder, text: bytes) -> None:
    assert problems(plain, text)
    assert problems(plain, text, batch=True)


def test_null_is_a_missing_value_where_the_feature_may_be_null(plain: RecordDecoder) -> None:
    assert math.isnan(columns(plain.one(body(income=None)))["income"][0])


def test_columns_are_in_the_models_order_whatever_the_records(plain: RecordDecoder) -> None:
    turned = json.dumps(dict(reversed(RECORD.items()))).encode()
    records = plain.many(b"[" + turned + b"," + body(age=13) + b"]")
    assert {name: column.tolist() for name, column in columns(records).items()} == {
        "age": [12, 13], "income": [2.5, 2.5], "member": [True, True], "plan": ["a", "a"],
    }  # fmt: skip
    assert list(records.values) == list(RECORD)


def test_a_refusal_holds_no_value_of_the_row(plain: RecordDecoder, own: RecordDecoder) -> None:
    secret = body(age="s3cret", income="s3cret", member="s3cret", plan="s3cret")
    for decoder in (plain, own):
        with pytest.raises(InvalidInput) as caught:
            decoder.one(secret)
        assert len(caught.value.problems) >= 3
        assert "s3cret" not in json.dumps(caught.value.problems)


@pytest.mark.parametrize("change", [{"age": "x"}, {"plan": "c"}])
def test_of_many_problems_the_first_are_listed(own: RecordDecoder, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        own.many(b"[" + b",".join([body(**change)] * (MAX_PROBLEMS + 5)) + b"]")
    assert MAX_PROBLEMS // 4 < len(caught.value.problems) <= MAX_PROBLEMS + 1
    assert len(json.dumps(caught.value.problems)) < 4096
    assert caught.value.problems[-1] == {
        "loc": ("body",), "msg": "Further problems are not listed", "type": "too_many_problems",
    }  # fmt: skip


def test_a_long_key_is_shortened(plain: RecordDecoder) -> None:
    key = "k" * 100_000
    assert problems(plain, body(**{key: 1})) == [
        (("body", key[:MAX_MESSAGE_CHARS]), "extra_forbidden")
    ]
    with pytest.raises(InvalidJSON) as caught:
        plain.one(json.dumps({key: 1})[:-1].encode() + json.dumps({key: 1})[:-1].encode())
    assert len(json.dumps(caught.value.problems)) < 2 * MAX_MESSAGE_CHARS


def test_more_rows_than_allowed_are_too_large() -> None:
    decoder = RecordDecoder(SIGNATURE, max_rows=2)
    for rows in ([body()] * 3, [b"{}"] * 3):
        with pytest.raises(TooLarge, match="at most 2 records"):
            decoder.many(b"[" + b",".join(rows) + b"]")


def test_a_small_body_with_millions_of_problems_costs_little(plain: RecordDecoder) -> None:
    # As many errors as pydantic would make of them take 75 s and 4.6 GB.
    with pytest.raises(TooLarge):
        plain.many(b"[" + b"{}," * 1_400_000 + b"{}]")
    with pytest.raises(InvalidInput) as caught:
        plain.many(b"[" + b"{}," * 9_999 + b"{}]")
    assert len(caught.value.problems) <= MAX_PROBLEMS + 1


# A user's own class


def test_a_users_class_keeps_its_own_idea_of_types_and_its_extra_field_is_echoed_when_sent(
    own: RecordDecoder,
) -> None:
    records = own.many(b"[" + body(age="12", customer_id="c1") + b"," + body() + b"]")
    assert columns(records)["age"].tolist() == [12, 12]
    assert records.echoes == [{"customer_id": "c1"}, {}]
    assert own.echo_schema().keys() == {"customer_id"}


def test_a_users_class_refuses_unknown_fields_unless_it_says_otherwise(own: RecordDecoder) -> None:
    class Lenient(Person):
        model_config = ConfigDict(extra="ignore")

    assert problems(own, body(incme=1)) == [(("body", "incme"), "extra_forbidden")]
    assert row(RecordDecoder(SIGNATURE, Lenient).one(body(incme=1))) == RECORD
    ignoring = SIGNATURE.model_copy(update={"extra_fields": "ignore"})
    assert row(RecordDecoder(ignoring).one(body(incme=1))) == RECORD
    assert row(RecordDecoder(ignoring, Person).one(body(incme=1))) == RECORD


def test_categories_hold_even_where_the_users_class_says_plain_text(own: RecordDecoder) -> None:
    assert problems(own, body(plan="c")) == [(("body", "plan"), "unknown_category")]


def test_literals_enums_and_aliases_of_a_users_class_reach_the_model_as_plain_values() -> None:
    class Plan(Enum):
        A = "a"

    class Typed(BaseModel):
        years: Literal[12] = Field(alias="age")
        pay: Annotated[float, Field(validation_alias="income")]
        member: bool
        plan: Plan

    found = RecordDecoder(SIGNATURE, Typed).one(body())
    assert row(found) == RECORD
    assert type(columns(found)["plan"][0]) is str


def test_a_cross_field_validator_runs_before_or_after_the_fields() -> None:
    class Checked(Person):
        @model_validator(mode="before")
        @classmethod
        def rename(cls, sent: Any) -> Any:
            return {("age" if key == "years" else key): value for key, value in sent.items()}

        @model_validator(mode="after")
        def adds_up(self) -> Self:
            if self.income is not None and self.income > self.age:
                raise ValueError("income is larger than age")
            return self

    decoder = RecordDecoder(SIGNATURE, Checked)
    assert row(decoder.one(body().replace(b"age", b"years"))) == RECORD
    assert problems(decoder, body(income=99.0)) == [(("body",), "value_error")]
    assert problems(decoder, b"[" + body(income=99.0) + b"]", True) == [
        (("body", 0), "value_error")
    ]


@pytest.mark.parametrize(
    "text", [b'{"deep": [1e400]}', b'{"deep": [NaN]}', b"1e400", b"[18446744073709551616]"]
)
def test_a_number_that_the_answer_cannot_say_is_never_echoed(text: bytes) -> None:
    class Tagged(Person):
        tag: Any = None

    decoder = RecordDecoder(SIGNATURE, Tagged)
    found = problems(decoder, body(tag=0).replace(b'"tag": 0', b'"tag": ' + text))
    assert found in ([(("body", "tag"), "finite_number")], [(("body",), "json_invalid")])


def test_a_nested_model_is_echoed_and_described() -> None:
    class Source(BaseModel):
        system: str

    class Traced(Person):
        source: Source | None = None

    decoder = RecordDecoder(SIGNATURE, Traced)
    assert decoder.one(body(source={"system": "crm"})).echoes == [{"source": {"system": "crm"}}]
    assert decoder.definitions().keys() == {"Source"}
    assert "#/components/schemas/Source" in json.dumps(decoder.echo_schema())


def test_a_nested_class_has_its_own_idea_of_extra_fields() -> None:
    class Free(BaseModel):
        model_config = ConfigDict(extra="allow")

    class Traced(Person):
        source: Free | None = None

    decoder = RecordDecoder(SIGNATURE, Traced)
    assert decoder.one(body(source={"z": 1})).echoes == [{"source": {"z": 1}}]
    assert problems(decoder, body(sorce={})) == [(("body", "sorce"), "extra_forbidden")]


@pytest.mark.parametrize(
    ("number", "is_whole_body"), [("1e400", True), ("9" * 210 + "e99", True), (str(2**64), False)]
)
def test_no_depth_hides_a_number_that_json_cannot_say(number: str, is_whole_body: bool) -> None:
    @dataclass(slots=True)
    class Point:
        x: float | int

    class Free(BaseModel):
        model_config = ConfigDict(extra="allow")

    class Traced(Person):
        source: Free | None = None
        point: Point | None = None
        queue: deque[Any] | None = None

    decoder = RecordDecoder(SIGNATURE, Traced)
    for name, text in [("source", '{"z":[%s]}'), ("point", '{"x":%s}'), ("queue", '[{"z":%s}]')]:
        sent = body(**{name: "here"}).replace(b'"here"', (text % number).encode())
        place = (("body",), "json_invalid") if is_whole_body else (("body", name), "finite_number")
        assert problems(decoder, sent) == [place]


def test_an_echo_goes_by_the_name_under_which_the_class_writes_it() -> None:
    class Renamed(Person):
        reference: str = Field(default="", alias="ref", serialization_alias="reference_id")

    decoder = RecordDecoder(SIGNATURE, Renamed)
    assert decoder.one(body(ref="r1")).echoes == [{"reference_id": "r1"}]
    assert decoder.echo_schema().keys() == {"customer_id", "reference_id"}
    with pytest.raises(RequestClassError, match="reference_id, which are fields of the answer"):
        RecordDecoder(SIGNATURE, Renamed, reserved=["reference_id"])


def test_a_class_that_lacks_a_feature_or_clashes_with_the_answer_is_refused_at_once() -> None:
    class Short(BaseModel):
        age: int

    with pytest.raises(RequestClassError, match=r"no field for .* income, member, plan"):
        RecordDecoder(SIGNATURE, Short)
    with pytest.raises(RequestClassError, match="customer_id"):
        RecordDecoder(SIGNATURE, Person, reserved=["customer_id"])


# Policies and names


@pytest.mark.parametrize(("policy", "expected"), [("allow", "z"), ("missing", None)])
def test_an_unknown_category_follows_the_policy_of_its_feature(policy: Any, expected: Any) -> None:
    feature = FEATURES[3].model_copy(update={"unknown": policy, "nullable": True})
    decoder = RecordDecoder(Signature(features=(*FEATURES[:3], feature)))
    assert row(decoder.one(body(plan="z"))) == RECORD | {"plan": expected}


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_categories_may_be_numbers(kind: Any) -> None:
    feature = Feature(name="code", type=kind, dtype="int64", categories=(1, 2))
    signature = Signature(features=(feature,))
    decoder = RecordDecoder(signature)
    assert row(decoder.one(b'{"code": 2}'), signature) == {"code": 2}
    assert problems(decoder, b'{"code": 3}') == [(("body", "code"), "unknown_category")]
    assert decoder.json_schema()["properties"]["code"]["enum"] == [1, 2]


AWKWARD = ["class", "model_x", "_x", "Monthly Charges", "schema", "copy", "feature_1", "ü", "a.b"]


def test_a_feature_may_have_any_name() -> None:
    features = tuple(Feature(name=name, type="number", dtype="float64") for name in AWKWARD)
    signature = Signature(features=features)
    decoder = RecordDecoder(signature)
    record = {name: float(i) for i, name in enumerate(AWKWARD)}
    assert row(decoder.one(json.dumps(record).encode()), signature) == record
    assert list(decoder.json_schema()["properties"]) == AWKWARD
    assert problems(decoder, json.dumps(record | {"ü": "x"}).encode()) == [
        (("body", "ü"), "float_type")
    ]


def test_examples_are_records_that_the_decoder_takes() -> None:
    usual = {"age": (30, 20), "income": (1.5,), "member": (True,), "plan": ("b", "a")}
    features = tuple(
        feature.model_copy(update={"typical": usual[feature.name]}) for feature in FEATURES
    )
    assert RecordDecoder(Signature(features=features)).examples() == [
        {"age": 30, "income": 1.5, "member": True, "plan": "b"},
        {"age": 20, "income": 1.5, "member": True, "plan": "a"},
    ]


records = st.fixed_dictionaries(
    {
        "age": st.integers(1 - 2**63, 2**63 - 1),
        "income": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "member": st.booleans(),
        "plan": st.sampled_from(["a", "b"]),
    }
)


@given(st.lists(records, min_size=1, max_size=5))
def test_every_valid_record_arrives_as_it_was_sent(sent: list[dict[str, Any]]) -> None:
    found = RecordDecoder(SIGNATURE).many(json.dumps(sent).encode())
    rows = zip(*(column.tolist() for column in columns(found).values()), strict=True)
    arrived = [dict(zip(found.values, values, strict=True)) for values in rows]
    assert [
        row | {"income": None if math.isnan(row["income"]) else row["income"]} for row in arrived
    ] == sent


def test_a_record_of_a_million_keys_costs_little(plain: RecordDecoder) -> None:
    keys = b",".join(b'"k%d":0' % i for i in range(300_000))
    for decode, text in ((plain.one, b"{%s}"), (plain.many, b"[{%s}]")):
        with pytest.raises(InvalidInput) as caught:
            decode(text % keys)
        assert [found["type"] for found in caught.value.problems] == ["too_many_keys"]


def test_a_tag_that_no_class_has_is_not_repeated() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"]

    class Dog(BaseModel):
        kind: Literal["dog"]

    class Owner(Person):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None

    with pytest.raises(InvalidInput) as caught:
        RecordDecoder(SIGNATURE, Owner).one(body(pet={"kind": "s3cret"}))
    assert "s3cret" not in json.dumps(caught.value.problems)


def test_a_class_with_an_init_of_its_own_hides_no_key_that_was_sent_twice() -> None:
    class Made(Person):
        source: str = "form"

        def __init__(self, **fields: Any) -> None:
            super().__init__(**fields | {"source": "init"})

    decoder = RecordDecoder(SIGNATURE, Made)
    assert problems(decoder, body()[:-1] + b',"age":13}') == [(("body",), "json_invalid")]


def test_an_example_on_which_a_users_validator_fails_is_left_out() -> None:
    class Ratio(Person):
        @model_validator(mode="after")
        def ratio(self) -> Self:
            raise ZeroDivisionError

    assert RecordDecoder(SIGNATURE, Ratio).examples() == []


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations that were looked through for garbage."""
    found: list[int] = []

    def note(phase: str, what: dict[str, int]) -> None:
        if phase == "start":
            found.append(what["generation"])

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


@pytest.mark.parametrize("decode", [RecordDecoder.one, RecordDecoder.batch, RecordDecoder.each])
def test_what_grows_while_it_is_read_is_not_looked_through_for_garbage(
    decode: Any, collections: list[int]
) -> None:
    """Lists within lists of a megabyte kept all other requests waiting for seconds."""
    record = RECORD | {"age": [[[[[1]]]]] * 10}
    body = json.dumps([record] * 1000).encode()
    decoder = RecordDecoder(SIGNATURE)
    gc.collect()
    collections.clear()

    with suppress(InvalidInput):
        decode(decoder, body)

    assert (collections[1:], gc.isenabled()) == ([], True)
