"""A served model as the user holds it: path and settings in, web apps out."""

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tabserve import openapi, repository
from tabserve.auth import Keys
from tabserve.errors import InvalidSettings, RequestClassError
from tabserve.http import Dispatcher, Route
from tabserve.importing import imported
from tabserve.limits import RateLimiter
from tabserve.logs import RequestLog
from tabserve.metrics import Metrics
from tabserve.protocols import docs, records, status
from tabserve.served import ServedModel, refusal_sentence
from tabserve.settings import PROCESS_SETTINGS, Rate, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask

logger = logging.getLogger("tabserve")


class Service:
    """One served model.

    path: a version's folder, a name's folder or a repository; settings.path where left out.
    request: the user's own pydantic class, which declares each feature and may declare more.
    settings: flags, TABSERVE_* and tabserve.toml where left out.

    Nothing is loaded before the first request or `start()`, and no thread or file is made before
    either, so that a service may be made ahead of a fork. It pickles as what it was made of.
    Raises ArtifactError, RequestClassError, InvalidSettings.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        request: type[BaseModel] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings.load()
        self.path = Path(path or self.settings.path)
        self._request_class = request or _request_class(self.settings.request)
        self._lock = threading.Lock()
        self._dispatcher: Dispatcher | None = None
        self._log: RequestLog | None = None
        self._extensions: list[Callable[[], dict[str, Any]]] = []
        self.on_refused: Callable[[Exception], None] = _log_refusal
        self.metrics = Metrics()
        self.model = ServedModel(
            repository.find(self.path),
            self.metrics,
            request_class=self._request_class,
            allow_pickle=self.settings.allow_pickle,
            workers=self.settings.workers,
            max_queue=self.settings.max_queue,
            max_rows=self.settings.max_rows,
            on_refused=lambda error: self.on_refused(error),
        )
        self._keys = Keys(self.settings.keys) if self.settings.keys else None
        self._refuse_unknown_fields(self.settings.hide)

    def with_settings(self, settings: Settings) -> "Service":
        """The same service, where `settings` was told something else by flag, variable or file."""
        told = settings.model_fields_set | PROCESS_SETTINGS
        merged = self.settings.model_copy(update={name: getattr(settings, name) for name in told})
        return Service(self.path, request=self._request_class, settings=merged)

    def start(self) -> None:
        """Begin to load the model in a thread; returns at once."""
        self.dispatcher()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the model is ready. Raises what refused it, or ModelNotReady at the timeout."""
        self.start()
        self.model.wait(timeout_s)

    def close(self) -> None:
        """Finish what is queued and write the log to its end; the next request starts it anew.

        A model that takes longer than the deadline, by when nobody waits for it, is left behind.
        """
        with self._lock:
            if self._dispatcher is not None:
                self.model.close(self.settings.deadline)
            if self._log is not None:
                self._log.close()
            self._dispatcher = self._log = None

    def fastapi(self) -> "FastAPI":
        """An ordinary FastAPI app, to be extended, mounted or served."""
        from tabserve.web import fastapi

        manifest = self.model.manifest
        app = fastapi.app(self.dispatcher, self.close, manifest.name, manifest.version)
        self._extensions.append(lambda: fastapi.own_operations(app))
        return app

    def flask(self) -> "Flask":
        """An ordinary Flask app. Raises MissingExtra."""
        from tabserve.web import flask

        return flask.app(self.dispatcher)

    def dispatcher(self) -> Dispatcher:
        """What answers requests; made, and the model's loading begun, at the first call."""
        if self._dispatcher is None:
            with self._lock:
                if self._dispatcher is None:
                    self._dispatcher = self._wired()
                    self.model.start()
        return self._dispatcher

    def _wired(self) -> Dispatcher:
        settings = self.settings
        self._log = RequestLog(settings.log, settings.hide, self.metrics.log_dropped.inc)
        return Dispatcher(
            self._routes(),
            metrics=self.metrics,
            log=self._log,
            keys=self._keys,
            limiter=self._limiter(),
            max_body=settings.max_body,
            deadline_s=settings.deadline,
        )

    def _limiter(self) -> RateLimiter | None:
        if self.settings.rate_limit is None:
            return None
        run_dir = self.settings.run_dir
        path = run_dir / "limits" if run_dir is not None else None
        return RateLimiter(Rate.parse(self.settings.rate_limit), path)

    def _routes(self) -> list[Route]:
        routes = [*records.routes(self.model), *status.routes(self.model, self.metrics)]
        return [*routes, *docs.routes(self.model.manifest.name, self._document)]

    def _document(self, root_path: str) -> dict[str, Any]:
        manifest = self.model.manifest
        document = openapi.document(
            [*records.routes(self.model), *status.routes(self.model, self.metrics)],
            title=manifest.name,
            version=manifest.version,
            description=f"{manifest.model_type}, served by TabServe.",
            schemas=records.schemas(self.model),
            with_keys=self._keys is not None,
            with_limits=self.settings.rate_limit is not None,
            root_path=root_path,
        )
        for extension in self._extensions:
            openapi.extend(document, extension())
        return document

    def _refuse_unknown_fields(self, hide: Iterable[str]) -> None:
        """A misspelt name would leave in the log what was to be hidden."""
        unknown = sorted(set(hide) - self.model.logged_fields)
        if unknown:
            raise InvalidSettings(
                f"Expected in the setting hide the names of fields that are logged "
                f"({', '.join(sorted(self.model.logged_fields))}), got {', '.join(unknown)}."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "request": self._request_class, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Service.__init__(self, state["path"], request=state["request"], settings=state["settings"])


def resolve(settings: Settings) -> Service:
    """The service that `settings.path` means: a path, or module:service of the user's.

    Raises InvalidSettings, ArtifactError, RequestClassError.
    """
    if ":" not in settings.path or Path(settings.path).exists():
        return Service(settings=settings)
    found = imported(settings.path)
    if not isinstance(found, Service):
        raise InvalidSettings(
            f"Expected a tabserve.Service at {settings.path}, found {type(found).__name__}."
        )
    return found.with_settings(settings)


def _request_class(spec: str | None) -> type[BaseModel] | None:
    if spec is None:
        return None
    found = imported(spec)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise RequestClassError(f"Expected a pydantic class at {spec}, found {found!r}.")
    return found


def _log_refusal(error: Exception) -> None:
    logger.error("%s", refusal_sentence(error))
