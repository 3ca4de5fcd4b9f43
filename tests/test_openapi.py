import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from examples.churn.request import ChurnRequest
from tabserve import Service, errors
from tabserve.auth import add_key
from tabserve.openapi import error_answer
from tests.conftest import RECORD
from tests.serving import FRAMEWORKS, PATIENCE_S, client_of, settings

Document = dict[str, Any]

# Of a name, below /models/{name}: they answer also where it is the only one.
OF_A_MODEL = {
    "/predict": ["post"],
    "/predict/batch": ["post"],
    "/ready": ["get"],
    "/metadata": ["get"],
    "": ["get"],
}
BELOW = OF_A_MODEL | {
    "/rollout": ["get"],
    **{f"/versions/{{version}}{path}": methods for path, methods in OF_A_MODEL.items()},
}


def document_of(
    path: Path, framework: str = "fastapi", request: Any = None, **told: Any
) -> Document:
    service = Service(path, request=request, settings=settings(**told))
    document = client_of(service, framework).get("/openapi.json").json()
    service.close()
    return document


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, methods in document["paths"].items():
        yield from ((path, operation) for operation in methods.values())


def references(value: Any) -> set[str]:
    """Every $ref below a value."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set()


@pytest.fixture(scope="module")
def plain(repository: Path) -> Document:
    return document_of(repository)


@pytest.fixture(scope="module")
def churn(repository: Path) -> Document:
    return document_of(repository, request=ChurnRequest)


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Document:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    add_key(keys, "ada")
    return document_of(repository, keys=str(keys), rate_limit="1/day")


@pytest.mark.parametrize("name", ["plain", "churn", "guarded"])
def test_the_document_is_valid_and_refers_to_nothing_that_is_not_there(
    name: str, request: pytest.FixtureRequest
) -> None:
    document = request.getfixturevalue(name)

    OPENAPI_31_VALIDATOR.validate(document)
    named = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= named


def test_it_is_the_same_from_both_frameworks(repository: Path) -> None:
    both = [document_of(repository, framework, ChurnRequest) for framework in FRAMEWORKS]

    assert both[0] == both[1]


def test_it_names_each_route_that_a_client_may_call(plain: Document) -> None:
    assert {path: list(methods) for path, methods in plain["paths"].items()} == {
        "/predict": ["post"],
        "/predict/batch": ["post"],
        "/health": ["get"],
        "/ready": ["get"],
        "/metadata": ["get"],
        "/metrics": ["get"],
        "/models": ["get"],
    } | {f"/models/churn{path}": methods for path, methods in BELOW.items()}
    assert plain["info"]["title"] == "churn"
    assert plain["info"]["version"] == "1.2.3"


def test_of_several_models_each_has_its_routes_and_schemas(
    repository: Path, lines: Path, tmp_path: Path
) -> None:
    for folder in (repository / "churn", lines / "line"):
        shutil.copytree(folder, tmp_path / folder.name)

    document = document_of(tmp_path)

    OPENAPI_31_VALIDATOR.validate(document)
    below = {f"/models/{name}{path}" for name in ("churn", "line") for path in BELOW}
    assert below == {path for path in document["paths"] if path.startswith("/models/")}
    assert {"churn.Record", "line.Record"} <= set(document["components"]["schemas"])
    versions = document["paths"]["/models/line/versions/{version}/predict"]["post"]["parameters"]
    assert versions[0]["schema"]["enum"] == ["2.0.0", "1.0.0"]


def test_without_a_class_of_the_users_the_features_are_the_models(plain: Document) -> None:
    record = plain["components"]["schemas"]["Record"]

    assert list(record["properties"]) == list(RECORD)
    assert record["required"] == list(RECORD)
    assert record["additionalProperties"] is False
    assert record["properties"]["tenure_months"]["anyOf"] == [
        {"type": "integer", "format": "int64"},
        {"type": "null"},
    ]
    assert record["properties"]["contract_type"]["enum"] == [
        "Month-to-month",
        "One year",
        "Two year",
    ]


def test_the_users_fields_constraints_and_descriptions_are_in_it(churn: Document) -> None:
    assert churn["components"]["schemas"]["Record"] == (
        ChurnRequest.model_json_schema() | {"additionalProperties": False}
    )


def test_the_users_examples_are_in_the_requests(churn: Document) -> None:
    declared = ChurnRequest.model_json_schema()["examples"]

    one, many = (
        churn["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        for path in ("/predict", "/predict/batch")
    )

    assert [example["value"] for example in one.values()][:2] == declared
    assert many["example_1"]["value"][:2] == declared


def test_the_examples_are_answered(repository: Path, churn: Document) -> None:
    service = Service(repository, request=ChurnRequest, settings=settings())
    service.wait(PATIENCE_S)
    client = client_of(service, "fastapi")
    for path in ("/predict", "/predict/batch"):
        content = churn["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            assert client("POST", path, orjson.dumps(example["value"])).status == 200
    service.close()


def test_the_answer_is_described_with_its_echo(churn: Document) -> None:
    prediction = churn["components"]["schemas"]["Prediction"]

    assert list(prediction["properties"]) == [
        "churn_probability",
        "risk_category",
        "customer_id",
        "model_version",
        "prediction_id",
        "prediction_timestamp",
    ]
    assert "customer_id" not in prediction["required"]


def test_without_keys_no_key_is_asked_for(plain: Document) -> None:
    assert "securitySchemes" not in plain["components"]
    for _, operation in operations(plain):
        assert "security" not in operation
        assert {"401", "403", "429"} & set(operation["responses"]) == set()


def test_with_keys_they_are_asked_for_where_they_are_needed(guarded: Document) -> None:
    assert guarded["components"]["securitySchemes"] == {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    }
    secured = {path for path, operation in operations(guarded) if "security" in operation}
    everything = {path for path, _ in operations(guarded)}
    assert everything - secured == {"/health", *(p for p in everything if p.endswith("/ready"))}
    for path, operation in operations(guarded):
        assert ({"401", "403"} <= set(operation["responses"])) == (path in secured)
        assert ("429" in operation["responses"]) == (path in secured)


def test_each_error_is_described_and_says_when_to_try_again(guarded: Document) -> None:
    for _, operation in operations(guarded):
        for status, answer in operation["responses"].items():
            if re.match("[45]", status):
                schema = answer["content"]["application/json"]["schema"]["$ref"]
                expected = "InvalidInput" if status == "422" else "Error"
                assert schema == f"#/components/schemas/{expected}"
            assert ("Retry-After" in answer.get("headers", {})) == (status in ("429", "503"))


def test_a_prediction_may_end_in_these_ways(guarded: Document) -> None:
    for path in ("/predict", "/predict/batch"):
        assert list(guarded["paths"][path]["post"]["responses"]) == [
            "200", "400", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504",
        ]  # fmt: skip


def test_a_batch_of_a_certain_version_takes_the_same_parameter(plain: Document) -> None:
    path = "/models/churn/versions/{version}/predict/batch"
    of_the_live, of_any = (
        plain["paths"][place]["post"]["parameters"] for place in ("/predict/batch", path)
    )

    assert [parameter["name"] for parameter in of_any] == ["version", "on_error"]
    assert of_any[1:] == of_the_live


def test_with_names_for_the_server_others_are_refused_where_a_route_is_not_public(
    repository: Path,
) -> None:
    document = document_of(repository, allowed_hosts=("api.example.org",))

    refusing = {path for path, found in operations(document) if "421" in found["responses"]}
    everything = {path for path, _ in operations(document)}
    assert everything - refusing == {"/health", *(p for p in everything if p.endswith("/ready"))}


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        (errors.InvalidInput, "invalid_input or invalid_json: "),
        (errors.ModelNotReady, "model_not_ready or overloaded: "),
        (errors.TooLarge, "too_large: "),
    ],
)
def test_an_answer_names_every_code_that_it_may_have(
    kind: type[errors.TabserveError], codes: str
) -> None:
    assert error_answer(kind)["description"].startswith(codes)


def all_below(kind: type[errors.TabserveError]) -> Iterator[type[errors.TabserveError]]:
    for special in kind.__subclasses__():
        yield special
        yield from all_below(special)


@pytest.mark.parametrize(
    "kind",
    [*all_below(errors.ClientError), *all_below(errors.ServerError)],
    ids=lambda k: k.__name__,
)
def test_each_error_that_a_client_may_see_is_described_by_a_sentence(
    kind: type[errors.TabserveError],
) -> None:
    description = error_answer(kind)["description"]
    assert re.fullmatch(r"[a-z_ ]+: [A-Z].{10,}\.", description)
