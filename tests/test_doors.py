"""Who is let in: every route that a service has, by every method, with every kind of key."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tabserve import Service, auth
from tabserve.exchange import respond
from tabserve.http import Dispatcher
from tabserve.routing import Route
from tabserve.types import Request
from tests.serving import FRAMEWORKS, PATIENCE_S, client_of, settings

# All that answers without a key, by GET and HEAD.
PUBLIC = {
    "/health",
    "/ready",
    "/models/{name}/ready",
    "/models/{name}/versions/{version}/ready",
    "/openapi.json",
    "/docs",
    "/redoc",
    "/docs/favicon.png",
    "/docs/redoc-start.js",
    "/docs/redoc.standalone.js",
    "/docs/swagger-start.js",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
}
# Roles whose keys a route takes, by the end of its path; of the others those of any role.
TAKEN = {
    "/predict": {"predict", "admin"},
    "/predict/batch": {"predict", "admin"},
    "/metrics": {"metrics", "admin"},
    "/promote": {"admin"},
    "/rollback": {"admin"},
    "/reload": {"admin"},
}
ROLES = ("predict", "metrics", "admin")
METHODS = (
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW",
)  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A key of each role, one that is none, and no key; and the path of the file under `path`."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    made = {role: auth.add_key(path, role, role) for role in ROLES}  # type: ignore[arg-type]
    return {**made, "wrong": "ts_wrong", "path": str(path)}


@pytest.fixture(scope="module")
def service(
    lines: Path, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    models = shutil.copytree(lines, tmp_path_factory.mktemp("models") / "models")
    made = Service(models, settings=settings(keys=keys["path"], key_tries="off"))
    made.wait(PATIENCE_S)
    yield made
    made.close()


class Door:
    """How one listener of the service answers by a framework: its status."""

    def __init__(self, service: Service, listener: str, framework: str) -> None:
        is_admin = listener == "admin"
        self.core = service.admin_dispatcher() if is_admin else service.dispatcher()
        self._client = None if is_admin else client_of(service, framework)

    def __call__(self, method: str, path: str, key: str | None) -> int:
        headers = {} if key is None else {"x-api-key": key}
        if self._client is not None:
            return self._client(method, path, headers=headers).status
        return respond(self.core, Request(method, path, headers, b"", "127.0.0.1")).status


@pytest.fixture(
    scope="module",
    params=[("main", framework) for framework in FRAMEWORKS] + [("admin", "fastapi")],
    ids="-".join,
)
def door(request: pytest.FixtureRequest, service: Service) -> Door:
    return Door(service, *request.param)


def template(path: str) -> str:
    return re.sub(r"/versions/[^/]+", "/versions/{version}", path.replace("/line", "/{name}", 1))


def is_public(method: str, path: str) -> bool:
    return method in ("GET", "HEAD") and template(path) in PUBLIC


def is_there(core: Dispatcher, method: str, path: str) -> bool:
    """Whether a request by this method has a route there."""
    asked = "GET" if method == "HEAD" else method
    return any((route.method, route.path) == (asked, path) for route in core.routes)


def taken(route: Route) -> set[str]:
    for end, roles in TAKEN.items():
        if route.path.endswith(end):
            return roles
    changes = route.path.endswith("/rollout") and route.method != "GET"
    return {"admin"} if changes else set(ROLES)


def test_without_a_key_of_its_own_nobody_is_answered_but_by_the_public_routes(
    door: Door, keys: dict[str, str]
) -> None:
    paths = {route.path for route in door.core.routes} | {"/", "/no-such", "/models/other/predict"}

    answered = {
        (method, path)
        for path in paths
        for method in METHODS
        for key, refusal in ((None, 401), (keys["wrong"], 403))
        if door(method, path, key) != refusal
    }

    assert answered == {(m, p) for p in paths for m in METHODS if is_public(m, p)}


def test_each_route_takes_the_keys_of_its_roles_only(door: Door, keys: dict[str, str]) -> None:
    for route in door.core.routes:
        if is_public(route.method, route.path):
            continue
        refused = {role for role in ROLES if door(route.method, route.path, keys[role]) == 403}
        assert refused == set(ROLES) - taken(route), (route.method, route.path)


def test_with_a_key_a_wrong_method_and_a_wrong_path_are_told_as_such(
    door: Door, keys: dict[str, str]
) -> None:
    for route in door.core.routes:
        others = [m for m in METHODS if not is_there(door.core, m, route.path)]
        assert {door(method, route.path, keys["predict"]) for method in others} <= {405}
    assert door("GET", "/no-such", keys["predict"]) == 404
