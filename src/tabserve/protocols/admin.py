"""What an operator does over HTTP, on a port of its own: promote, roll back, look again, try."""

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tabserve import releases
from tabserve.changes import Changes
from tabserve.errors import Conflict, InvalidInput, OperatorError
from tabserve.models import Models
from tabserve.responses import json_response
from tabserve.routing import ADMIN, JSON_TYPE, Route
from tabserve.strict import strictly_parsed
from tabserve.types import Handler, Pending, Request, Response

T = TypeVar("T", bound=BaseModel)


class Promotion(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: str
    allow_breaking: bool = False


class Rollout(BaseModel):
    """Of canary and shadow one, the version; as `tabserve rollout` takes them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    canary: str | None = None
    shadow: str | None = None
    share: float | None = Field(default=None, ge=0, le=1)
    sticky: str | None = None


def routes(models: Models, changes: Changes, name: str) -> list[Route]:
    """Below /models/{name}."""

    def promote(request: Request) -> Pending:
        asked = _read(Promotion, request.body)
        return done(
            lambda: changes.promote(name, asked.version, allow_breaking=asked.allow_breaking)
        )

    def rollback(request: Request) -> Pending:
        return done(lambda: changes.rollback(name))

    def reload(request: Request) -> Pending:
        return done(lambda: changes.reload(name))

    def begin(request: Request) -> Pending:
        asked = _read(Rollout, request.body)
        return done(lambda: changes.roll_out(name, releases.plan(**asked.model_dump())))

    def stop(request: Request) -> Pending:
        return done(lambda: changes.roll_out(name, None))

    def done(action: Callable[[], None]) -> Pending:
        def settled() -> None:
            try:
                action()
            except OperatorError as error:
                raise Conflict(models.folders.reason(error)) from None

        return Pending(changes.do(settled), told)

    def told(nothing: None) -> Response:
        """As it is now in this worker; the others follow."""
        named = models.named[name]
        plan = None if named.trial is None else named.trial.plan.model_dump()
        return json_response({"name": name, "live": named.version, "rollout": plan})

    actions: dict[tuple[str, str], Handler] = {
        ("POST", "/promote"): promote,
        ("POST", "/rollback"): rollback,
        ("POST", "/reload"): reload,
        ("POST", "/rollout"): begin,
        ("DELETE", "/rollout"): stop,
    }
    # Of those that read no body none is asked for its type.
    reading = {("POST", "/promote"), ("POST", "/rollout")}
    return [
        Route(
            method,
            path,
            handler,
            roles=ADMIN,
            takes=JSON_TYPE if (method, path) in reading else "",
            template=path,
        )
        for (method, path), handler in actions.items()
    ]


def _read(kind: type[T], body: bytes) -> T:
    try:
        asked = kind.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise InvalidInput(
            [{"loc": ("body", *each["loc"]), "msg": each["msg"], "type": each["type"]}
             for each in found]
        ) from None  # fmt: skip
    strictly_parsed(body)
    return asked
