"""What probes, scrapers and people ask of a service: health, ready, metadata, metrics."""

from typing import Any

from tabserve.errors import ModelNotReady
from tabserve.metadata import metadata_of
from tabserve.metrics import Metrics
from tabserve.openapi import error_answer
from tabserve.responses import json_response
from tabserve.routing import METRICS, Route
from tabserve.served import ServedModel
from tabserve.types import Request, Response

JSON = dict[str, Any]


def server_routes() -> list[Route]:
    """Of the process, whatever it serves."""

    def health(request: Request) -> Response:
        return json_response({"status": "healthy"})

    healthy = _operation("Whether the process runs", _object({"status": {"type": "string"}}))
    return [Route("GET", "/health", health, public=True, operation=healthy)]


def metrics_routes(metrics: Metrics) -> list[Route]:
    def exposition(request: Request) -> Response:
        accept = request.headers.get("accept", "").lower()
        if "application/json" in accept:
            return json_response(metrics.summary())
        body, content_type = metrics.exposition(accept)
        return Response(200, body, content_type)

    return [Route("GET", "/metrics", exposition, roles=METRICS, operation=_metrics_operation())]


def stopping_route(why: str) -> Route:
    """In the place of /ready once nothing more is to be sent here."""

    def stopping(request: Request) -> Response:
        raise ModelNotReady(why)

    return Route("GET", "/ready", stopping, public=True)


def routes(model: ServedModel) -> list[Route]:
    """Of one model."""

    def ready(request: Request) -> Response:
        version = model.answering.manifest.version
        return json_response({"status": "ready", "model_version": version})

    def metadata(request: Request) -> Response:
        return json_response(metadata_of(model))

    return [
        Route(
            "GET",
            "/ready",
            ready,
            public=True,
            operation=_operation(
                "Whether the model is loaded, warmed and proven, and answers",
                _object({"status": {"type": "string"}, "model_version": {"type": "string"}}),
                not_ready=True,
            ),
        ),
        Route(
            "GET",
            "/metadata",
            metadata,
            operation=_operation("What the model is", {"type": "object"}),
        ),
    ]


def _object(properties: JSON) -> JSON:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _operation(summary: str, schema: JSON, not_ready: bool = False) -> JSON:
    responses: JSON = {
        "200": {"description": "OK", "content": {"application/json": {"schema": schema}}}
    }
    if not_ready:
        responses[str(ModelNotReady.status)] = error_answer(ModelNotReady)
    return {"summary": summary, "tags": ["status"], "responses": responses}


def _metrics_operation() -> JSON:
    numbers = _object(
        {
            "predictions_total": {"type": "number"},
            "errors_total": {"type": "number"},
            "latency_avg_ms": {"type": ["number", "null"]},
        }
    )
    operation = _operation("Prometheus metrics, or a summary as JSON", numbers)
    text = {"schema": {"type": "string"}}
    operation["responses"]["200"]["content"] |= {
        "text/plain": text,
        "application/openmetrics-text": text,
    }
    return operation
