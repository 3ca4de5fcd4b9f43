"""What /openapi.json promises is kept for whatever a client sends: schemathesis."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from examples.churn.request import ChurnRequest
from tabserve import Service, Settings, auth
from tests.conftest import RECORD

HEALTH_CHECKS = list(hypothesis.HealthCheck)

PATHS = {"/predict", "/predict/batch", "/health", "/ready", "/metadata", "/metrics", "/models"}
BELOW = {"", "/predict", "/predict/batch", "/ready", "/metadata"}
NAMED = {f"/models/churn{path}" for path in (*BELOW, "/rollout")} | {
    f"/models/churn/versions/{{version}}{path}" for path in BELOW
}

# JSON's numbers have no bounds, int64 and a model of float32 have; and no schema says that lists
# are of one length.
UNSAYABLE = re.compile(
    b'"type":"(out_of_range|less_than_equal|greater_than_equal|int_inexact|int_parsing_size'
    b'|column_length)"'
)

# Of each operation's examples one half is right, the other wrong.
FEW = hypothesis.settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=HEALTH_CHECKS
)
MANY = hypothesis.settings(FEW, max_examples=500)
RIGHT_QUERIES: list[dict[str, list[str]]] = [
    {},
    *({"on_error": [value]} for value in ("refuse", "report")),
]
KEYS, USERS_CLASS = "fastapi with keys and a limit", "fastapi with the user's class"

load_all_checks()


class Api:
    """A ready service, its OpenAPI document, and how often each route gave each status."""

    def __init__(self, service: Service, framework: str, headers: dict[str, str]) -> None:
        service.wait(60)
        load = schemathesis.openapi
        if framework == "fastapi":
            self.schema = load.from_asgi("/openapi.json", service.fastapi())
        else:
            self.schema = load.from_wsgi("/openapi.json", service.flask())
        self.headers = headers
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.is_users_class = False
        self.paths = PATHS

    def check(self, case: Any) -> None:
        response = case.call(headers=self.headers)
        unsayable = []
        if self.is_users_class or "{version}" in case.operation.path:
            # What it takes is pydantic's affair: no schema can say what a validator of several
            # fields wants, nor that "12" and true will do as numbers. And what a version takes its
            # metadata say.
            unsayable = [positive_data_acceptance, negative_data_rejection]
        elif UNSAYABLE.search(response.content):
            unsayable = [positive_data_acceptance]
        if case.query.get("on_error") == "report" and response.status_code == 200:
            unsayable.append(negative_data_rejection)  # each bad record is refused in its place
        sent = parse_qs(urlsplit(str(response.request.url)).query)
        if not case.meta.is_negative_at(ParameterLocation.BODY) and sent in RIGHT_QUERIES:
            # What is wrong then are parameters of no value, which are not sent, and a missing key,
            # which self.headers bring.
            unsayable.append(negative_data_rejection)
        case.validate_response(response, headers=self.headers, excluded_checks=unsayable)
        self.statuses[case.operation.path, response.status_code] += 1


@pytest.fixture(params=["fastapi", "flask", KEYS, USERS_CLASS])
def api(request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> Iterator[Api]:
    headers, told, request_class = {}, {"log": "off"}, None
    if request.param == KEYS:
        keys = tmp_path / "keys.json"
        headers = {auth.HEADER: auth.add_key(keys, "tester", "admin")}
        told |= {"keys": str(keys), "rate_limit": "1000000/minute"}
        told |= {"key_tries": "1000000/minute"}  # schemathesis tries wrong ones too
    if request.param == USERS_CLASS:
        request_class = ChurnRequest
    service = Service(repository, request=request_class, settings=Settings(**told))
    made = Api(service, request.param.split()[0], headers)
    made.is_users_class = request_class is not None
    if request.param == KEYS:  # once is enough: they are the same handlers
        made.paths = PATHS | NAMED
    yield made
    service.close()


def ask_all(api: Api, given: hypothesis.settings) -> None:
    """By hypothesis itself: schemathesis' own pytest plugin does not know pytest 9."""
    for operation in (result.ok() for result in api.schema.get_all_operations()):
        if operation.path not in api.paths:
            continue
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:
            cases = operation.as_strategy(generation_mode=mode)
            given(hypothesis.given(cases)(api.check))()
    # Else nothing would have been proven.
    assert {path for path, _ in api.statuses} == api.paths
    assert {status for path, status in api.statuses if path == "/predict"} >= {200, 422}


def test_every_operation_keeps_its_promise(api: Api) -> None:
    ask_all(api, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("api", [KEYS], indirect=True)
def test_every_operation_keeps_its_promise_for_1000_examples(api: Api) -> None:
    ask_all(api, MANY)


def test_a_limit_that_is_reached_is_documented(repository: Path) -> None:
    service = Service(repository, settings=Settings(log="off", rate_limit="1/hour"))
    schema = Api(service, "fastapi", {}).schema
    case = schema["/predict"]["POST"].Case(body=RECORD)

    assert case.call_and_validate().status_code == 200
    # It is a promised status; that the data were right says nothing then.
    assert case.call_and_validate(excluded_checks=[positive_data_acceptance]).status_code == 429
    service.close()
