"""Serving without ports: one client for both frameworks, and an engine that a test can hold."""

import asyncio
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import orjson
import pytest
from werkzeug.test import run_wsgi_app

from tabserve import Service, Settings, loading
from tabserve.loading import LoadedModel
from tabserve.types import Columns, Outputs, n_rows
from tests.conftest import RECORD

FRAMEWORKS = ["fastapi", "flask"]
BODY = orjson.dumps(RECORD)
# Nothing in a test takes this long, unless it hangs.
PATIENCE_S = 20


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # by lower-case name
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class Client:
    """Sends requests to an ASGI or WSGI app, from whichever thread calls it.

    It sends what it is told, byte by byte: httpx would mend a path and refuse a header.
    """

    def __init__(self, app: Any, host: str = "127.0.0.1") -> None:
        self._host = host
        self._app = app
        is_asgi = iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004
        self._send = self._send_asgi if is_asgi else self._send_wsgi

    def __call__(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        path, _, query = target.partition("?")
        encoded = {name.lower(): value for name, value in (headers or {}).items()}
        if body:
            encoded["content-length"] = str(len(body))
        status, given, content = self._send(method, path, query, encoded, body)
        answered = {name.lower(): value for name, value in given}
        assert len(answered) == len(given), "a header twice"
        return Answer(status, answered, content)

    def predict(self, headers: Mapping[str, str] | None = None) -> Answer:
        return self("POST", "/predict", BODY, headers)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self("GET", path, headers=headers)

    def _send_asgi(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
            "method": method, "path": unquote(path), "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "client": (self._host, 1), "server": ("test", 80),
            "headers": [(name.encode(), text.encode("latin-1")) for name, text in headers.items()],
        }  # fmt: skip
        sent: list[Any] = []

        messages = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            # After the body, as a server: nothing until the client leaves.
            return messages.pop() if messages else await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self._app(scope, receive, send))
        given = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
        return sent[0]["status"], given, b"".join(part["body"] for part in sent[1:])

    def _send_wsgi(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        environ = {
            "REQUEST_METHOD": method, "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "SCRIPT_NAME": "", "QUERY_STRING": query, "SERVER_NAME": "test", "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": self._host, "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(body), "wsgi.errors": sys.stderr, "wsgi.version": (1, 0),
        }  # fmt: skip
        for name, value in headers.items():
            bare = name in ("content-type", "content-length")
            environ[("" if bare else "HTTP_") + name.upper().replace("-", "_")] = value
        content, status, given = run_wsgi_app(self._app, environ, buffered=True)
        return int(status.split()[0]), list(given), b"".join(content)


def app_of(service: Service, framework: str) -> Any:
    return service.fastapi() if framework == "fastapi" else service.flask()


def client_of(service: Service, framework: str) -> Client:
    return Client(app_of(service, framework))


def settings(**told: Any) -> Settings:
    return Settings(**{"log": "off"} | told)


def error(answer: Answer) -> tuple[int, str]:
    """Status and code, once the body was seen to have the one shape of an error."""
    body = answer.json()
    assert list(body) == ["error", "detail", "request_id"]
    assert answer.headers["content-type"] == "application/json"
    assert body["request_id"] == answer.headers["x-request-id"]
    return answer.status, body["error"]


def masked(body: bytes) -> bytes:
    """Without what differs from one answer to the next."""
    return re.sub(
        rb'"(prediction_id|prediction_timestamp|request_id)":"[^"]*"', rb'"\1":"..."', body
    )


class HeldEngine:
    """Notes the rows of each call, and computes no call before `release` is set."""

    name, reentrant = "held", False

    def __init__(self, held: bool = True) -> None:
        self.calls: list[int] = []
        self.entered = threading.Event()
        self.release = threading.Event()
        if not held:
            self.release.set()

    def predict(self, columns: Columns) -> Outputs:
        self.calls.append(n_rows(columns))
        self.entered.set()
        assert self.release.wait(PATIENCE_S)
        return {"proba": np.full(n_rows(columns), 0.75)}


class Depth:
    """Stands for the gauge of the queue's length, and can be waited for."""

    def __init__(self) -> None:
        self._now = 0
        self._changed = threading.Condition()

    def inc(self, change: int) -> None:
        with self._changed:
            self._now += change
            self._changed.notify_all()

    def wait_for(self, depth: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._now == depth, PATIENCE_S)


def service_with(
    engine: Any, path: Path, monkeypatch: pytest.MonkeyPatch, **told: Any
) -> tuple[Service, Depth]:
    """A ready service that computes with `engine`, and the length of its queue."""

    def load(artifact: Any, **_: Any) -> LoadedModel:
        return LoadedModel(artifact.manifest, engine, 0.0)

    monkeypatch.setattr(loading, "load", load)
    service, depth = Service(path, settings=settings(**told)), Depth()
    service.metrics.queue_depth = depth
    service.wait(PATIENCE_S)
    return service, depth


class FailingEngine:
    """Raises, with the row in the message, as libraries like to do."""

    name, reentrant = "failing", False

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def predict(self, columns: Columns) -> Outputs:
        raise self._kind(f"cannot compute {[column.tolist() for column in columns.values()]}")


class ConstantEngine:
    """Answers the same for each row: the probability of the positive class."""

    name, reentrant = "constant", False

    def __init__(self, probability: float) -> None:
        self._probability = probability

    def predict(self, columns: Columns) -> Outputs:
        return {"proba": np.full(n_rows(columns), self._probability)}
