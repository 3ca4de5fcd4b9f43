"""The OpenAPI document, made from the routes' own operations."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from tabserve import errors
from tabserve.auth import HEADER
from tabserve.routing import Route

JSON = dict[str, Any]

_ERROR = {"$ref": "#/components/schemas/Error"}
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_INVALID_INPUT = {"$ref": "#/components/schemas/InvalidInput"}

# What any route may answer, and what only routes with a key, a limit or a body may. 414 and 431
# are left out: no request that is made from the document is so long.
_ANYWHERE: tuple[type[errors.TabserveError], ...] = (errors.BadRequest, errors.Internal)
_WITH_KEY = (
    errors.Unauthorized,
    errors.Forbidden,
    errors.RateLimited,
    errors.ModelNotReady,
)
_WITH_LIMIT = (errors.RateLimited,)
_WITH_HOSTS = (errors.Misdirected,)
_WITH_BODY = (
    errors.ArrivedTooSlowly,
    errors.TooLarge,
    errors.UnsupportedMediaType,
    errors.InvalidInput,
    errors.ModelNotReady,
    errors.DeadlineExceeded,
)


def document(
    routes: Iterable[Route],
    *,
    title: str,
    version: str,
    description: str,
    schemas: JSON,
    with_keys: bool,
    with_limits: bool,
    with_hosts: bool,
    root_path: str = "",
) -> JSON:
    """OpenAPI 3.1. schemas: the components that the operations refer to."""
    paths: dict[str, JSON] = {}
    for route in routes:
        if route.operation is not None:
            operation = _completed(route, with_keys, with_limits, with_hosts)
            paths.setdefault(route.path, {})[route.method.lower()] = operation
    found: JSON = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {"schemas": {**schemas, **_error_schemas()}},
    }
    if root_path:
        found["servers"] = [{"url": root_path}]
    if with_keys:
        scheme = {"type": "apiKey", "in": "header", "name": HEADER}
        found["components"]["securitySchemes"] = {"ApiKey": scheme}
    return found


def extend(found: JSON, other: JSON) -> None:
    """Add the paths and components of another document, where they are not there yet.

    Its schemas whose names are taken get other names: both may well have a `Prediction`.
    """
    other = _renamed(other, taken=found["components"]["schemas"])
    found["paths"] = {**other.get("paths", {}), **found["paths"]}
    for kind, components in other.get("components", {}).items():
        found["components"][kind] = {**components, **found["components"].get(kind, {})}


def below(name: str, routes: Iterable[Route], schemas: JSON) -> tuple[list[Route], JSON]:
    """Routes of a model that is one of several: its components have its name before theirs, and so
    have the references to them.
    """
    prefix = "#/components/schemas/"

    def renamed(part: JSON) -> JSON:
        text = orjson.dumps(part).decode()
        found: JSON = orjson.loads(text.replace(f'"{prefix}', f'"{prefix}{name}.'))
        return found

    described = [
        tagged(replace(route, operation=renamed(route.operation)), name)
        for route in routes
        if route.operation is not None
    ]
    return described, {f"{name}.{key}": schema for key, schema in renamed(schemas).items()}


def tagged(route: Route, tag: str) -> Route:
    """The docs pages show what has one tag together."""
    if route.operation is None:
        return route
    return replace(route, operation=route.operation | {"tags": [tag]})


def _renamed(document: JSON, taken: Iterable[str]) -> JSON:
    schemas = document.get("components", {}).get("schemas", {})
    clashes = schemas.keys() & set(taken)
    text = orjson.dumps(document).decode()
    for name in clashes:
        reference = f"#/components/schemas/{name}"
        text = text.replace(f'"{reference}"', f'"{reference}_"')
    renamed: JSON = orjson.loads(text)
    for name in clashes:
        schemas = renamed["components"]["schemas"]
        schemas[f"{name}_"] = schemas.pop(name)
    return renamed


def _completed(route: Route, with_keys: bool, with_limits: bool, with_hosts: bool) -> JSON:
    operation = dict(route.operation or {})
    kinds = list(_ANYWHERE)
    if with_keys and not route.public:
        kinds += _WITH_KEY
        operation["security"] = [{"ApiKey": []}]
    if with_limits and route.limited:
        kinds += _WITH_LIMIT
    if with_hosts and not route.public:
        kinds += _WITH_HOSTS
    if "requestBody" in operation:
        kinds += _WITH_BODY
    answers = {str(kind.status): error_answer(kind) for kind in kinds}
    operation["responses"] = dict(sorted({**answers, **operation["responses"]}.items()))
    return operation


def error_answer(kind: type[errors.TabserveError]) -> JSON:
    """How an operation describes that it may answer with this error."""
    named = [kind.code, *(special.code for special in kind.__subclasses__())]
    codes = " or ".join(dict.fromkeys(named))
    answer: JSON = {
        "description": f"{codes}: {(kind.__doc__ or '').partition(chr(10))[0]}",
        "content": {
            "application/json": {
                "schema": _INVALID_INPUT if issubclass(kind, errors.InvalidInput) else _ERROR
            }
        },
    }
    if hasattr(kind, "retry_after_s") or kind is errors.RateLimited:
        answer["headers"] = {
            "Retry-After": {
                "description": "Seconds after which to try again.",
                "schema": {"type": "integer"},
            }
        }
    return answer


# Of a batch, also of one for a certain version.
ON_ERROR: JSON = {
    "name": "on_error",
    "in": "query",
    "description": "With report, a record that is wrong has its own error in place of its "
    "prediction, and the others are predicted; else it refuses the batch.",
    "schema": {"type": "string", "enum": ["refuse", "report"], "default": "refuse"},
}

# One problem, or one warning, with its place in the body.
PROBLEM: JSON = {
    "type": "object",
    "required": ["loc", "msg", "type"],
    "properties": {
        "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
        "msg": {"type": "string"},
        "type": {"type": "string"},
    },
}


def _error_schemas() -> JSON:
    def body(detail: JSON) -> JSON:
        return {
            "type": "object",
            "required": ["error", "detail", "request_id"],
            "properties": {
                "error": {"type": "string", "description": "A stable code."},
                "detail": detail,
                "request_id": {"type": "string"},
            },
        }

    return {
        "Problem": PROBLEM,
        "Error": body({"type": "string"}),
        "InvalidInput": body({"type": "array", "items": _PROBLEM}),
    }
