"""Responses in JSON, and the one body of errors."""

import logging
import math
import traceback
from typing import Any

import orjson

from tabserve.errors import (
    Internal,
    InvalidInput,
    MethodNotAllowed,
    TabserveError,
    UnsupportedCoding,
)
from tabserve.types import Response

logger = logging.getLogger("tabserve")


def json_response(content: Any, status: int = 200) -> Response:
    return Response(status, orjson.dumps(content))


def error_response(error: TabserveError, request_id: str) -> Response:
    """The one error body of the native protocol."""
    response = json_response(error_body(error) | {"request_id": request_id}, error.status)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, UnsupportedCoding):
        response.headers["Accept-Encoding"] = error.accepted
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        # Whole seconds, and never before the moment itself.
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return response


def error_body(error: TabserveError) -> dict[str, Any]:
    detail: Any = error.problems if isinstance(error, InvalidInput) else str(error)
    return {"error": error.code, "detail": detail}


def failure(error: BaseException, request_id: str) -> Response:
    """Where no other response can be made."""
    response = error_response(told(error, request_id), request_id)
    response.headers["X-Request-ID"] = request_id
    return response


def told(error: BaseException, request_id: str) -> TabserveError:
    """What the client may know of it. What is no error of ours, or is the server's or the model's
    fault, is told to the operator.
    """
    if not isinstance(error, TabserveError):
        log_failure(error, request_id)
        return Internal("The server failed.")
    if isinstance(error, Internal):
        logger.error("request %s failed: %s", request_id, error)
    return error


def log_failure(error: BaseException, request_id: str) -> None:
    """The place and the kind of the failure; its message may hold the row, so it stays out."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request %s failed: %s\n%s", request_id, type(error).__name__, frames)
