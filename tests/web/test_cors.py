"""What a browser is told of pages of other origins."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tabserve import Service, auth
from tests.serving import FRAMEWORKS, PATIENCE_S, Answer, Client, client_of, settings

PAGE, OTHER = "https://app.example.org", "https://evil.example.org"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


@pytest.fixture(params=FRAMEWORKS)
def serve(request: pytest.FixtureRequest, repository: Path) -> Iterator[Callable[..., Client]]:
    made: list[Service] = []

    def make(**told: Any) -> Client:
        made.append(Service(repository, settings=settings(**told)))
        made[-1].wait(PATIENCE_S)
        return client_of(made[-1], request.param)

    yield make
    for service in made:
        service.close()


def allowed(answer: Answer) -> dict[str, str]:
    return {
        name.removeprefix("access-control-"): value
        for name, value in answer.headers.items()
        if name.startswith("access-control-") or name == "vary"
    }


def test_no_page_may_ask_unless_its_origin_is_named(serve: Any) -> None:
    client = serve()

    assert allowed(client.predict({"Origin": PAGE})) == {}
    answer = client("OPTIONS", "/predict", headers={"Origin": PAGE} | ASKS)
    assert (answer.status, allowed(answer)) == (405, {})


def test_a_page_that_is_named_may_read_answers_and_errors(serve: Any) -> None:
    client = serve(cors_origins=f"http://localhost:3000, {PAGE}")

    told = {"allow-origin": PAGE, "expose-headers": "X-Request-ID, Retry-After", "vary": "Origin"}
    for target in ("/predict", "/no-such"):
        assert allowed(client("POST", target, b"{", {"Origin": PAGE})) == told
    for origin in (OTHER, "null", PAGE + ".evil.org", PAGE.upper(), "*"):
        assert allowed(client.predict({"Origin": origin})) == {"vary": "Origin"}
    assert allowed(client.predict()) == {"vary": "Origin"}


def test_a_preflight_needs_no_key_and_the_request_does(serve: Any, tmp_path: Path) -> None:
    key = auth.add_key(tmp_path / "keys.json", "page")
    client = serve(cors_origins=PAGE, keys=str(tmp_path / "keys.json"))

    for path in ("/predict", "/no-such"):  # it tells nobody which routes there are
        answer = client("OPTIONS", path, headers={"Origin": PAGE} | ASKS)
        assert (answer.status, answer.body) == (200, b"")
        told = allowed(answer)
        assert told.pop("allow-methods") == "GET, HEAD, POST"
        assert "X-API-Key" in told.pop("allow-headers")
        assert (told.pop("allow-origin"), told.pop("max-age")) == (PAGE, "600")
        assert set(told) == {"expose-headers", "vary"}
    foreign = client("OPTIONS", "/predict", headers={"Origin": OTHER} | ASKS)
    assert allowed(foreign) == {"vary": "Origin"}
    assert client("OPTIONS", "/predict", headers={"Origin": PAGE}).status == 401
    assert client.predict({"Origin": PAGE}).status == 401
    assert client.predict({"Origin": PAGE, "X-API-Key": key}).status == 200


def test_a_star_is_for_all_and_never_with_credentials(serve: Any) -> None:
    client = serve(cors_origins="*")

    for answer in (
        client.predict({"Origin": OTHER, "Cookie": "a=b"}),
        client("OPTIONS", "/predict", headers={"Origin": OTHER} | ASKS),
    ):
        assert allowed(answer)["allow-origin"] == "*"
        assert "allow-credentials" not in allowed(answer)
