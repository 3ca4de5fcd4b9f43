"""Which models there are: their names, versions, and what became of a new version."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from tabserve.changes import Changes
from tabserve.errors import ModelNotReady, NotFound
from tabserve.metadata import metadata_of
from tabserve.metrics import Metrics
from tabserve.models import Models
from tabserve.named import NamedModel
from tabserve.openapi import ON_ERROR, error_answer
from tabserve.responses import json_response
from tabserve.rollout import common_labels, common_numbers
from tabserve.routing import PREDICT, Route
from tabserve.served import ServedModel
from tabserve.types import Handler, Pending, Request, Response

JSON = dict[str, Any]

# Below /models/{name}/versions/{version}, of a version that is not loaded.
_PREDICTING = ("/predict", "/predict/batch")


def routes(models: Models) -> list[Route]:
    """Of the server that serves them."""

    def listed(request: Request) -> Response:
        return json_response({"models": [_summary(named) for named in models.named.values()]})

    operation = _operation("The models that are served", {"models": {"type": "array"}})
    return [Route("GET", "/models", listed, operation=operation)]


def several_routes(models: Models) -> list[Route]:
    """In the place of the routes without a name, where nobody chose whose they are."""

    def ready(request: Request) -> Response:
        versions = {
            name: named.live.answering.manifest.version for name, named in models.named.items()
        }
        return json_response({"status": "ready", "models": versions})

    def refused(request: Request) -> Response:
        raise NotFound(
            "Several models are served here and none is the default one: /models lists them, "
            "each with its routes."
        )

    properties = {"status": {"type": "string"}, "models": {"type": "object"}}
    operation = _operation(
        "Whether each model is loaded, warmed and proven, and answers", properties
    )
    operation["responses"][str(ModelNotReady.status)] = error_answer(ModelNotReady)
    return [
        Route("GET", "/ready", ready, public=True, operation=operation),
        Route("GET", "/metadata", refused),
        *(Route("POST", path, refused) for path in _PREDICTING),
    ]


def shared(
    ours: Iterable[Route], theirs: Iterable[Route], is_theirs: Callable[[Request], bool]
) -> list[Route]:
    """Routes that answer some requests by those of another model."""
    handlers = {route.path: route.handler for route in theirs}

    def of_both(route: Route) -> Route:
        if route.path not in handlers:
            return route
        our, their = route.handler, handlers[route.path]
        handler: Handler = lambda request: (their if is_theirs(request) else our)(request)  # noqa: E731
        return replace(route, handler=handler)

    return [of_both(route) for route in ours]


def told_routes(models: Models, named: NamedModel, metrics: Metrics) -> Iterator[Route]:
    """What is told of one name."""

    def described(request: Request) -> Response:
        # Not of the name that these routes were made for: what it says may change before they do.
        now = models.named[named.name]
        versions = [_version(now, version) for version in now.versions]
        refusal = None if now.refusal is None else asdict(now.refusal)
        return json_response(_summary(now) | {"versions": versions, "refused": refusal})

    def rollout(request: Request) -> Response:
        return json_response(_rollout(models.named[named.name], metrics))

    tried = _operation("The version that is tried beside the live one, and how they agree", {})
    yield Route("GET", "/rollout", rollout, template="/rollout", operation=tried)
    yield Route("GET", "", described, operation=_operation("The versions of the model", {}))


def named_routes(
    models: Models, changes: Changes, named: NamedModel, metrics: Metrics
) -> Iterator[Route]:
    """Of one name, beside those of its live version."""
    yield from told_routes(models, named, metrics)
    for version in named.versions:
        model = named.models.get(version)
        inner = (
            _closed_routes(changes, named.name, version)
            if model is None
            else [_metadata_route(model)]
        )
        for route in inner:
            yield route.below(f"/versions/{version}", "/versions/{version}")


def version_operations(named: NamedModel) -> Iterator[Route]:
    """For the document alone: the routes below each version, once for all of them. What a version
    takes is in its metadata.
    """
    parameter = {"name": "version", "in": "path", "required": True,
                 "schema": {"type": "string", "enum": list(named.versions)}}  # fmt: skip
    anything: JSON = {"application/json": {"schema": {}}}
    told = {"": "What the version is", "/metadata": "The same",
            "/ready": "Whether the version is loaded and proven"}  # fmt: skip
    operations = {("GET", path): _operation(summary, {}) for path, summary in told.items()}
    operations["GET", "/ready"]["responses"]["503"] = error_answer(ModelNotReady)
    for path in _PREDICTING:
        body = {"requestBody": {"required": True, "content": anything}}
        operations["POST", path] = _operation(f"As {path}, by this version", {}) | body
    for (method, path), operation in operations.items():
        own = [ON_ERROR] if path.endswith("/batch") else []
        operation |= {"parameters": [parameter, *own]}
        operation["responses"]["404"] = error_answer(NotFound)
        is_open, is_limited = path == "/ready", method == "POST"
        yield Route(method, f"/versions/{{version}}{path}", _nothing, public=is_open,
                    limited=is_limited, operation=operation)  # fmt: skip


def _nothing(request: Request) -> Response:
    raise NotFound("This route is for the document alone.")


def _closed_routes(changes: Changes, name: str, version: str) -> list[Route]:
    """Of a version that is loaded once somebody asks for a prediction."""

    def predict(request: Request) -> Response:
        raise changes.ask_for(name, version)

    def ready(request: Request) -> Response:
        raise ModelNotReady("This version is loaded at the first request for a prediction.")

    def metadata(request: Request) -> Pending:
        found = changes.do(lambda: metadata_of(changes.model_of(name, version)))
        return Pending(found, json_response)

    return [
        Route("GET", "", metadata),
        Route("GET", "/metadata", metadata),
        Route("GET", "/ready", ready, public=True),
        *(Route("POST", path, predict, limited=True, roles=PREDICT) for path in _PREDICTING),
    ]


def _metadata_route(model: ServedModel) -> Route:
    return Route("GET", "", lambda request: json_response(metadata_of(model)))


def _summary(named: NamedModel) -> JSON:
    return {
        "name": named.name,
        "live": named.version,
        "ready": named.live.is_ready and not named.live.is_stuck,
        "versions": list(named.versions),
        "predict": f"/models/{named.name}/predict",
    }


def _version(named: NamedModel, version: str) -> JSON:
    model = named.models.get(version)
    return {
        "version": version,
        "live": version == named.version,
        "loaded": model is not None and model.is_ready,
        "predict": f"/models/{named.name}/versions/{version}/predict",
    }


def _rollout(named: NamedModel, metrics: Metrics) -> JSON:
    """Of all workers together; of this pair of versions since the server was started."""
    trial = named.trial
    if trial is None:
        refusal = named.trial_refusal
        return {"rollout": None, "refused": None if refusal is None else asdict(refusal)}
    live, tried = trial.live.manifest, trial.tried.manifest
    found = metrics.of_rollout(named.name, live.version, tried.version)
    rows, calls = found.get("rows", 0.0), found.get("timed_calls", 0.0)
    has_labels = rows and common_labels(live, tried)
    has_numbers = rows and common_numbers(live, tried)

    def mean_ms(version: str) -> float | None:
        seconds = found.get(f"timed_seconds {version}", 0.0)
        return 1000 * seconds / calls if calls else None

    return {
        "rollout": trial.plan.model_dump(),
        "live": live.version,
        "rows": int(rows),
        "equal_labels": found.get("equal_labels", 0.0) / rows if has_labels else None,
        "mean_difference": found.get("difference", 0.0) / rows if has_numbers else None,
        "largest_difference": found.get("largest_difference", 0.0) if has_numbers else None,
        "latency_ms": {version: mean_ms(version) for version in (live.version, tried.version)},
        "dropped_rows": int(found.get("dropped_rows", 0.0)),
        "failed_rows": int(found.get("failed_rows", 0.0)),
        "refused": None,
    }


def _operation(summary: str, properties: JSON) -> JSON:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    content = {"application/json": {"schema": schema}}
    return {
        "summary": summary,
        "tags": ["models"],
        "responses": {"200": {"description": "OK", "content": content}},
    }
