"""TabServe's apps inside those that a user has, and with the user's own routes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from tabserve import Service
from tests.serving import BODY, FRAMEWORKS, PATIENCE_S, Client, app_of, error, settings

ROUTES = [
    ("GET", "/health", 200),
    ("GET", "/ready", 200),
    ("GET", "/metadata", 200),
    ("GET", "/metrics", 200),
    ("GET", "/docs", 200),
    ("GET", "/docs/swagger-ui.css", 200),
    ("GET", "/redoc", 200),
    ("GET", "/openapi.json", 200),
    ("POST", "/predict", 200),
    ("POST", "/predict/batch", 422),
    ("GET", "/predict", 405),
    ("GET", "/nowhere", 404),
    ("GET", "/", 404),
    ("POST", "//predict", 404),
]


@pytest.fixture(scope="module")
def service(repository: Path) -> Iterator[Service]:
    made = Service(repository, settings=settings())
    made.wait(PATIENCE_S)
    yield made
    made.close()


def fastapi_around(inner: Any) -> Any:
    outer = FastAPI()

    @outer.middleware("http")
    async def stamp(request: Request, call_next: Callable[..., Any]) -> Any:
        response = await call_next(request)
        response.headers["x-users-own"] = "stamped"
        return response

    @outer.get("/own")
    def own() -> str:
        return "own"

    outer.mount("/ml/churn", inner)
    return outer


def flask_around(inner: Any) -> Any:
    outer = flask.Flask("outer")
    outer.add_url_rule("/own", view_func=lambda: '"own"', endpoint="own")
    dispatcher = DispatcherMiddleware(outer.wsgi_app, {"/ml/churn": inner})

    def stamping(environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[Any], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, ("x-users-own", "stamped")], exc_info)

        return dispatcher(environ, start)

    return stamping


AROUND = {"fastapi": fastapi_around, "flask": flask_around}


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def mounted(service: Service, framework: str) -> Client:
    return Client(AROUND[framework](app_of(service, framework)))


@pytest.mark.parametrize(("method", "path", "status"), ROUTES)
def test_a_mounted_app_answers_each_route_through_the_users_middleware(
    mounted: Client, method: str, path: str, status: int
) -> None:
    answer = mounted(method, "/ml/churn" + path, BODY if method == "POST" else b"")

    assert (answer.status, answer.headers["x-users-own"]) == (status, "stamped")
    if status >= 400:
        assert error(answer)[0] == status


def test_the_users_app_keeps_its_own_routes_and_none_of_ours(mounted: Client) -> None:
    assert mounted.get("/own").json() == "own"
    assert [mounted.get(path).status for path in ("/health", "/ml/health")] == [404, 404]


def test_the_document_of_a_mounted_app_names_its_place(mounted: Client) -> None:
    document = mounted.get("/ml/churn/openapi.json").json()

    assert document["servers"] == [{"url": "/ml/churn"}]
    assert "/predict" in document["paths"]


def test_an_app_that_is_not_mounted_names_no_place(service: Service, framework: str) -> None:
    assert "servers" not in Client(app_of(service, framework)).get("/openapi.json").json()


def test_mounted_twice_each_place_is_named(service: Service) -> None:
    outer = FastAPI()
    app = service.fastapi()
    outer.mount("/a", app)
    outer.mount("/b", app)

    places = [Client(outer).get(f"/{x}/openapi.json").json()["servers"] for x in "ab"]

    assert places == [[{"url": "/a"}], [{"url": "/b"}]]


def test_a_path_that_a_proxy_took_away_is_named(service: Service) -> None:
    app = service.fastapi()
    app.root_path = "/behind"

    assert Client(app).get("/openapi.json").json()["servers"] == [{"url": "/behind"}]
    assert Client(app).predict().status == 200


def test_a_users_lifespan_runs_and_ours_is_not_needed(repository: Path) -> None:
    lived: list[str] = []
    service = Service(repository, settings=settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        lived.append("began")
        yield
        lived.append("ended")

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/ml", service.fastapi())

    async def live() -> list[int]:
        async with outer.router.lifespan_context(outer):
            transport = httpx.ASGITransport(app=outer)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                health = await client.get("/ml/health")
                await asyncio.to_thread(service.wait, PATIENCE_S)
                ready = await client.get("/ml/ready")
                return [health.status_code, ready.status_code]

    assert (asyncio.run(live()), lived) == ([200, 200], ["began", "ended"])
    service.close()


class Prediction(BaseModel):
    """The user's own, of the same name as one of TabServe's."""

    of_the_user: int


@pytest.fixture
def extended(service: Service, framework: str) -> Client:
    """TabServe's app with routes and a middleware that the user added."""
    app = app_of(service, framework)
    if framework == "fastapi":

        @app.get("/own/{number}")
        def own(number: int) -> Prediction:
            return Prediction(of_the_user=number)

        @app.get("/health")
        def health() -> dict[str, str]:
            return {"status": "mine"}

        @app.middleware("http")
        async def stamp(request: Request, call_next: Callable[..., Any]) -> Any:
            response = await call_next(request)
            response.headers["x-users-own"] = "stamped"
            return response

    else:

        @app.get("/own/<int:number>")
        def own_flask(number: int) -> Any:
            return {"of_the_user": number}

        @app.get("/health")
        def health_flask() -> Any:
            return {"status": "mine"}

        @app.after_request
        def stamp_flask(response: flask.Response) -> flask.Response:
            response.headers["x-users-own"] = "stamped"
            return response

    return Client(app)


@pytest.mark.parametrize(("method", "path", "status"), ROUTES)
def test_a_users_middleware_runs_on_each_route_of_an_extended_app(
    extended: Client, method: str, path: str, status: int
) -> None:
    answer = extended(method, path, BODY if method == "POST" else b"")

    assert (answer.status, answer.headers["x-users-own"]) == (status, "stamped")


def test_a_users_own_routes_come_first(extended: Client) -> None:
    assert extended.get("/own/7").json() == {"of_the_user": 7}
    assert extended.get("/health").json() == {"status": "mine"}


@pytest.mark.parametrize("framework", ["fastapi"], indirect=True)
def test_a_users_own_routes_are_in_the_document_and_ours_too(extended: Client) -> None:
    document = extended.get("/openapi.json").json()

    OPENAPI_31_VALIDATOR.validate(document)
    own = document["paths"]["/own/{number}"]["get"]["responses"]["200"]
    reference = own["content"]["application/json"]["schema"]["$ref"]
    schemas = document["components"]["schemas"]
    assert list(schemas[reference.rpartition("/")[2]]["properties"]) == ["of_the_user"]
    assert "prediction_id" in schemas["Prediction"]["properties"]
    assert {"/predict", "/predict/batch", "/metadata"} <= set(document["paths"])


def test_a_users_own_catch_all_wins(service: Service) -> None:
    app = service.flask()
    app.add_url_rule("/<path:rest>", view_func=lambda rest: f'"{rest}"', endpoint="own")

    assert Client(app).get("/nowhere/at/all").json() == "nowhere/at/all"
    assert Client(app).get("/").status == 404


def test_an_error_that_a_user_raises_is_the_users(service: Service) -> None:
    app = service.flask()
    app.add_url_rule("/own", view_func=lambda: flask.abort(405), endpoint="own")

    answer = Client(app).get("/own")

    assert (answer.status, answer.headers["content-type"]) == (405, "text/html; charset=utf-8")
