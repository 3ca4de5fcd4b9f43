"""The native protocol: JSON records in, JSON predictions out."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from tabserve.admission import charged
from tabserve.errors import BadRequest, InvalidInput, TabserveError
from tabserve.openapi import ON_ERROR, PROBLEM
from tabserve.output import Prediction
from tabserve.predictor import Outcome
from tabserve.responses import error_body, json_response, told
from tabserve.routing import JSON_TYPE, PREDICT, Route
from tabserve.served import ServedModel
from tabserve.types import Pending, Request, Response

JSON = dict[str, Any]

# The schemas of what is sent and answered.
_RECORD = {"$ref": "#/components/schemas/Record"}
_BATCH: JSON = {
    "oneOf": [
        {"type": "array", "items": _RECORD, "minItems": 1},
        {"$ref": "#/components/schemas/Columns"},
    ]
}
_PREDICTION = {"$ref": "#/components/schemas/Prediction"}
_PREDICTIONS: JSON = {
    "type": "object",
    "required": ["predictions", "count"],
    "properties": {
        "predictions": {
            "type": "array",
            "items": {"anyOf": [_PREDICTION, {"$ref": "#/components/schemas/RowError"}]},
        },
        "count": {"type": "integer", "minimum": 1},
        "errors": {
            "type": "integer",
            "minimum": 0,
            "description": "With on_error=report: how many rows have an error.",
        },
    },
}
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_WARNINGS: JSON = {
    "warnings": {
        "type": "array",
        "items": _PROBLEM,
        "minItems": 1,
        "description": "What is unusual in the record; absent where nothing is.",
    }
}


def routes(model: ServedModel) -> list[Route]:
    def predict(request: Request) -> Pending:
        record = model.decoder.one(request.body)

        def then(answers: list[Prediction]) -> Response:
            response = json_response(answers[0])
            response.log = lambda: model.log_lines(record, answers)
            return response

        return Pending(model.answers(record, request.deadline), then)

    def predict_batch(request: Request) -> Pending | Response:
        if _on_error(request.query) == "report":
            return report(request)
        records = model.decoder.batch(request.body)

        def then(answers: list[Prediction]) -> Response:
            response = json_response({"predictions": answers, "count": len(answers)})
            response.log = lambda: model.log_lines(records, answers)
            response.n_log_lines = len(answers)
            return response

        return charged(
            request, records.n_rows, lambda: Pending(model.answers(records, request.deadline), then)
        )

    def report(request: Request) -> Pending | Response:
        reported = model.decoder.each(request.body)
        records = reported.records

        def then(outcomes: Sequence[Outcome]) -> Response:
            rows: dict[int, Outcome] = dict(reported.refused)
            if records is not None:
                rows |= zip(records.places or (), outcomes, strict=True)
            errors = _told_errors(rows, request.request_id)
            model.count_row_errors(error.code for error in errors.values())
            predictions = [
                error_body(errors[row]) if row in errors else rows[row]
                for row in range(reported.n_rows)
            ]
            answer = {"predictions": predictions, "count": len(rows), "errors": len(errors)}
            response = json_response(answer)
            if records is not None and len(errors) < len(rows):
                response.log = lambda: model.log_lines(records, outcomes)
                response.n_log_lines = len(rows) - len(errors)
            return response

        def go_on() -> Pending | Response:
            if records is None:
                return then(())
            return Pending(model.answers(records, request.deadline), then)

        return charged(request, reported.n_rows, go_on)

    examples = model.decoder.examples()
    return [
        Route(
            "POST",
            "/predict",
            predict,
            limited=True,
            roles=PREDICT,
            takes=JSON_TYPE,
            operation=_operation("Predict one record", _RECORD, _PREDICTION, examples),
        ),
        Route(
            "POST",
            "/predict/batch",
            predict_batch,
            limited=True,
            has_rows=True,
            roles=PREDICT,
            takes=JSON_TYPE,
            operation=_operation(
                "Predict a list of records, or columns, with one call of the model",
                _BATCH,
                _PREDICTIONS,
                [examples] if examples else [],
            )
            | {"parameters": [ON_ERROR]},
        ),
    ]


def schemas(model: ServedModel) -> JSON:
    """The components that the operations refer to."""
    answer = model.renderer.json_schema()
    common: JSON = {
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
            "properties": {
                **answer["properties"],
                **model.decoder.echo_schema(),
                **common,
                **(_WARNINGS if model.manifest.signature.may_warn else {}),
            },
            "required": [*answer["required"], *common],
        },
        "Problem": PROBLEM,
        "RowError": {
            "type": "object",
            "description": "In place of the prediction of a record that has none.",
            "properties": {
                "error": {"type": "string", "description": "A stable code."},
                "detail": {"anyOf": [{"type": "array", "items": _PROBLEM}, {"type": "string"}]},
            },
            "required": ["error", "detail"],
            "additionalProperties": False,
        },
    }


def _on_error(query: str) -> str:
    """Raises BadRequest."""
    if not query:
        return "refuse"
    try:
        ((name, value),) = parse_qsl(query, keep_blank_values=True, max_num_fields=1)
    except ValueError:
        name = value = ""
    if name != "on_error" or value not in ("refuse", "report"):
        raise BadRequest("Expected no parameter, on_error=refuse or on_error=report.")
    return value


def _told_errors(rows: Mapping[int, Outcome], request_id: str) -> dict[int, TabserveError]:
    """By row, what the client may know. The operator is told of each kind of failure once."""
    errors: dict[int, TabserveError] = {}
    by_kind: dict[type, TabserveError] = {}
    for row, outcome in rows.items():
        if isinstance(outcome, InvalidInput):
            errors[row] = outcome
        elif isinstance(outcome, Exception):
            kind = type(outcome)
            if kind not in by_kind:
                by_kind[kind] = told(outcome, request_id)
            errors[row] = by_kind[kind]
    return errors


def _operation(summary: str, body: JSON, answer: JSON, examples: list[Any]) -> JSON:
    named = {f"example_{i}": {"value": example} for i, example in enumerate(examples, 1)}
    content: JSON = {"schema": body} | ({"examples": named} if named else {})
    return {
        "summary": summary,
        "tags": ["prediction"],
        "requestBody": {"required": True, "content": {JSON_TYPE: content}},
        "responses": {"200": {"description": "OK", "content": {JSON_TYPE: {"schema": answer}}}},
    }
