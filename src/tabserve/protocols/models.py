"""Which models there are: their names, versions, and what became of a new version."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tabserve.errors import ModelNotReady, NotFound
from tabserve.http import Route, json_response
from tabserve.models import Models, Named
from tabserve.openapi import error_answer
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
            name: named.live.loaded.manifest.version for name, named in models.named.items()
        }
        return json_response({"status": "ready", "models": versions})

    def refused(request: Request) -> Response:
        raise NotFound(
            "Several models are served here and none is the default one: /models lists them, "
            "each with its routes."
        )

    properties = {"status": {"type": "string"}, "models": {"type": "object"}}
    operation = _operation("Whether each model is loaded, warmed and proven", properties)
    operation["responses"][str(ModelNotReady.status)] = error_answer(ModelNotReady)
    return [
        Route("GET", "/ready", ready, public=True, operation=operation),
        Route("GET", "/metadata", refused),
        *(Route("POST", path, refused) for path in _PREDICTING),
    ]


def named_routes(models: Models, named: Named) -> Iterator[Route]:
    """Of one name, beside those of its live version."""

    def described(request: Request) -> Response:
        # Not of the name that these routes were made for: what it says may change before they do.
        now = models.named[named.name]
        versions = [_version(now, version) for version in now.versions]
        refusal = None if now.refusal is None else asdict(now.refusal)
        return json_response(_summary(now) | {"versions": versions, "refused": refusal})

    yield Route("GET", "", described, operation=_operation("The versions of the model", {}))
    for version in named.versions:
        model = named.live if version == named.version else named.opened.get(version)
        inner = (
            _closed_routes(models, named.name, version)
            if model is None
            else [Route("GET", "", _metadata_of(model))]
        )
        for route in inner:
            yield route.below(f"/versions/{version}", "/versions/{version}")


def _closed_routes(models: Models, name: str, version: str) -> list[Route]:
    """Of a version that is loaded once somebody asks for a prediction."""

    def predict(request: Request) -> Response:
        raise models.ask_for(name, version)

    def ready(request: Request) -> Response:
        raise ModelNotReady("This version is loaded at the first request for a prediction.")

    def metadata(request: Request) -> Pending:
        found = models.do(lambda: models.model_of(name, version).metadata())
        return Pending(found, json_response)

    return [
        Route("GET", "", metadata),
        Route("GET", "/metadata", metadata),
        Route("GET", "/ready", ready, public=True),
        *(Route("POST", path, predict, limited=True) for path in _PREDICTING),
    ]


def _metadata_of(model: ServedModel) -> Handler:
    return lambda request: json_response(model.metadata())


def _summary(named: Named) -> JSON:
    return {
        "name": named.name,
        "live": named.version,
        "ready": named.live.is_ready,
        "versions": list(named.versions),
        "predict": f"/models/{named.name}/predict",
    }


def _version(named: Named, version: str) -> JSON:
    model = named.live if version == named.version else named.opened.get(version)
    return {
        "version": version,
        "live": version == named.version,
        "loaded": model is not None and model.is_ready,
        "predict": f"/models/{named.name}/versions/{version}/predict",
    }


def _operation(summary: str, properties: JSON) -> JSON:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    content = {"application/json": {"schema": schema}}
    return {
        "summary": summary,
        "tags": ["models"],
        "responses": {"200": {"description": "OK", "content": content}},
    }
