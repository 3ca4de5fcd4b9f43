"""Every error TabServe raises.

TabserveError                                    code                    status
├── ClientError: the request's fault
│   ├── BadRequest                               bad_request             400
│   ├── Unauthorized                             unauthorized            401
│   ├── Forbidden                                forbidden               403
│   │   └── UnknownKey                           forbidden               403
│   ├── NotFound                                 not_found               404
│   ├── MethodNotAllowed                         method_not_allowed      405
│   ├── ArrivedTooSlowly                         timeout                 408
│   ├── Conflict                                 conflict                409
│   ├── TooLarge                                 too_large               413
│   ├── TargetTooLong                            target_too_long         414
│   ├── UnsupportedMediaType                     unsupported_media_type  415
│   │   └── UnsupportedCoding                    unsupported_media_type  415
│   ├── Misdirected                              misdirected             421
│   ├── InvalidInput                             invalid_input           422
│   │   └── InvalidJSON                          invalid_json            422
│   ├── RateLimited                              rate_limited            429
│   ├── HeadersTooLarge                          headers_too_large       431
│   └── ClientLeft                               client_left             499
├── ServerError: the server's state or the model's fault
│   ├── Internal                                 internal                500
│   │   └── BadModelOutput                       bad_model_output        500
│   ├── ModelNotReady                            model_not_ready         503
│   │   └── Overloaded                           overloaded              503
│   └── DeadlineExceeded                         deadline                504
└── OperatorError: found when packing, checking or starting; the command ends with 2
    ├── InvalidSettings                          invalid_settings
    ├── MissingExtra                             missing_extra
    ├── CannotImport                             cannot_import
    ├── PackError                                pack
    │   └── WrongFormat                          pack
    ├── ArtifactError                            artifact
    │   ├── UntrustedModel                       untrusted_model
    │   └── NotReproduced                        not_reproduced
    ├── ReleaseError                             release
    ├── RequestClassError                        request_class
    ├── BenchError                               bench
    ├── ScoreError                               score
    └── NewProjectError                          new_project
"""

from collections.abc import Sequence
from typing import Any, ClassVar

# An error of one input value: {"loc": [...], "msg": ..., "type": ...}, as pydantic words it.
InputProblem = dict[str, Any]


class TabserveError(Exception):
    """`str(error)` is one sentence, fit to be shown to the one who caused it.

    The first line of a client's or server's error's docstring is its description in OpenAPI.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500


class ClientError(TabserveError):
    pass


class BadRequest(ClientError):
    """The request is not as HTTP or this route has it."""

    code, status = "bad_request", 400


class Unauthorized(ClientError):
    """No API key was sent."""

    code, status = "unauthorized", 401


class Forbidden(ClientError):
    """The API key is unknown, revoked or of another role, or a page of another origin asks."""

    code, status = "forbidden", 403


class UnknownKey(Forbidden):
    """No such API key is known, or not any more."""


class NotFound(ClientError):
    """There is no such route, model or version."""

    code, status = "not_found", 404


class MethodNotAllowed(ClientError):
    """The route answers other methods: Allow names them."""

    code, status = "method_not_allowed", 405

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(f"This route answers {', '.join(allowed)}.")
        self.allowed = allowed


class ArrivedTooSlowly(ClientError):
    """The head of the request, or its body, was not whole in time."""

    code, status = "timeout", 408


class Conflict(ClientError):
    """It cannot be done as things stand: `detail` says why."""

    code, status = "conflict", 409


class TooLarge(ClientError):
    """The body, or the number of its records, is over the limit."""

    code, status = "too_large", 413


class TargetTooLong(ClientError):
    """The path with its query is over the limit."""

    code, status = "target_too_long", 414


class UnsupportedMediaType(ClientError):
    """The Content-Type is not application/json, or the Content-Encoding not gzip."""

    code, status = "unsupported_media_type", 415


class UnsupportedCoding(UnsupportedMediaType):
    """The Content-Encoding is not gzip: Accept-Encoding names what it may be."""

    accepted = "gzip, identity"


class Misdirected(ClientError):
    """The request is meant for another server."""

    code, status = "misdirected", 421


class InvalidInput(ClientError):
    """A value cannot be: `detail` names each one and why.

    problems: each names its place as a path from the body, and never holds the value.
    """

    code, status = "invalid_input", 422

    def __init__(self, problems: list[InputProblem]) -> None:
        super().__init__(f"{len(problems)} invalid value(s)")
        self.problems = problems


class InvalidJSON(InvalidInput):
    """The body is no JSON: `detail` says where."""

    code = "invalid_json"


class RateLimited(ClientError):
    """Too many requests, or wrong keys: Retry-After says when the next one is taken."""

    code, status = "rate_limited", 429

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HeadersTooLarge(ClientError):
    """The headers are too many, or too large."""

    code, status = "headers_too_large", 431


class ClientLeft(ClientError):
    """The client left before its answer, so that nobody reads this one.

    It is for the log and the metrics. The status is that of nginx' logs.
    """

    code, status = "client_left", 499


class ServerError(TabserveError):
    pass


class Internal(ServerError):
    """The server or the model failed; the server's own log knows the request_id."""


class BadModelOutput(Internal):
    """The model's answer is no number, or of the wrong shape.

    rows: the records whose answer is to blame, where that is known.
    """

    code = "bad_model_output"

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class ModelNotReady(ServerError):
    """The model is being loaded, or too many requests wait for it: try again later."""

    code, status = "model_not_ready", 503
    retry_after_s: float = 1.0


class Overloaded(ModelNotReady):
    """Too many requests wait for the model, or too many bodies are held, already.

    retry_after_s: when there may be room.
    """

    code = "overloaded"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServerError):
    """The model did not answer in time."""

    code, status = "deadline", 504


class OperatorError(TabserveError):
    code = "operator"


class InvalidSettings(OperatorError):
    code = "invalid_settings"


class MissingExtra(OperatorError):
    code = "missing_extra"

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f'{library} is not installed; install it with: pip install "tabserve[{extra}]"'
        )


class CannotImport(OperatorError):
    code = "cannot_import"


class PackError(OperatorError):
    code = "pack"


class WrongFormat(PackError):
    """expected: what a file of its name holds."""

    def __init__(self, expected: str) -> None:
        super().__init__(f"Expected {expected}.")


class ArtifactError(OperatorError):
    code = "artifact"


class UntrustedModel(ArtifactError):
    code = "untrusted_model"


class NotReproduced(ArtifactError):
    code = "not_reproduced"


class ReleaseError(OperatorError):
    code = "release"


class RequestClassError(OperatorError):
    code = "request_class"


class BenchError(OperatorError):
    code = "bench"


class ScoreError(OperatorError):
    code = "score"


class NewProjectError(OperatorError):
    code = "new_project"
