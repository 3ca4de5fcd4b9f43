"""The native protocol: JSON records in, JSON predictions out."""

from typing import Any

from tabserve.errors import UnsupportedMediaType
from tabserve.http import Route, json_response
from tabserve.output import Prediction
from tabserve.served import ServedModel
from tabserve.types import Pending, Request, Response

JSON = dict[str, Any]

_CONTENT_TYPE = "application/json"


def routes(model: ServedModel) -> list[Route]:
    def predict(request: Request) -> Pending:
        require_json(request)
        record = model.decoder.one(request.body)

        def then(answers: list[Prediction]) -> Response:
            response = json_response(answers[0])
            response.log = lambda: model.log_lines(record, answers)
            return response

        return Pending(model.answers(record, request.deadline), then)

    def predict_batch(request: Request) -> Pending:
        require_json(request)
        records = model.decoder.batch(request.body)

        def then(answers: list[Prediction]) -> Response:
            response = json_response({"predictions": answers, "count": len(answers)})
            response.log = lambda: model.log_lines(records, answers)
            response.n_log_lines = len(answers)
            return response

        return Pending(model.answers(records, request.deadline), then)

    record, prediction = (
        {"$ref": "#/components/schemas/Record"},
        {"$ref": "#/components/schemas/Prediction"},
    )
    examples = model.decoder.examples()
    return [
        Route(
            "POST",
            "/predict",
            predict,
            limited=True,
            operation=_operation("Predict one record", record, prediction, examples),
        ),
        Route(
            "POST",
            "/predict/batch",
            predict_batch,
            limited=True,
            operation=_operation(
                "Predict a list of records, or columns, with one call of the model",
                {
                    "oneOf": [
                        {"type": "array", "items": record, "minItems": 1},
                        {"$ref": "#/components/schemas/Columns"},
                    ]
                },
                {
                    "type": "object",
                    "required": ["predictions", "count"],
                    "properties": {
                        "predictions": {"type": "array", "items": prediction},
                        "count": {"type": "integer", "minimum": 1},
                    },
                },
                [examples] if examples else [],
            ),
        ),
    ]


def schemas(model: ServedModel) -> JSON:
    """The components that the operations refer to."""
    answer = model.renderer.json_schema()
    common = {
        "model_version": {"type": "string"},
        "prediction_id": {"type": "string"},
        "prediction_timestamp": {"type": "string", "format": "date-time"},
    }
    return {
        **model.decoder.definitions(),
        "Record": model.decoder.json_schema(),
        "Columns": model.decoder.columns_schema(),
        "Prediction": {
            "type": "object",
            "properties": {**answer["properties"], **model.decoder.echo_schema(), **common},
            "required": [*answer["required"], *common],
        },
    }


def require_json(request: Request) -> None:
    """A request that does not say what it sends is taken to send JSON."""
    given = request.headers.get("content-type") or _CONTENT_TYPE
    if given == _CONTENT_TYPE:
        return
    if given.partition(";")[0].strip().lower() != _CONTENT_TYPE:
        raise UnsupportedMediaType(
            f"Expected the header Content-Type: {_CONTENT_TYPE}, got another type."
        )


def _operation(summary: str, body: JSON, answer: JSON, examples: list[Any]) -> JSON:
    named = {f"example_{i}": {"value": example} for i, example in enumerate(examples, 1)}
    content: JSON = {"schema": body} | ({"examples": named} if named else {})
    return {
        "summary": summary,
        "tags": ["prediction"],
        "requestBody": {"required": True, "content": {_CONTENT_TYPE: content}},
        "responses": {"200": {"description": "OK", "content": {_CONTENT_TYPE: {"schema": answer}}}},
    }
