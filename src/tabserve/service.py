"""A served model as the user holds it: path and settings in, web apps out."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tabserve.admission import Admission
from tabserve.artifact import Artifact
from tabserve.auth import Keys
from tabserve.changes import Changes
from tabserve.cors import Cors
from tabserve.errors import InvalidSettings
from tabserve.hosts import LOCAL_NAMES, Hosts
from tabserve.http import Dispatcher
from tabserve.importing import imported, request_classes
from tabserve.limits import Limiter, RateLimiter
from tabserve.logs import RequestLog
from tabserve.metrics import Metrics
from tabserve.models import Models
from tabserve.receiving import Bounds
from tabserve.served import ServedModel, refusal_sentence
from tabserve.settings import PROCESS_SETTINGS, Rate, Settings, is_loopback
from tabserve.site import Site

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask

logger = logging.getLogger("tabserve")


class Service:
    """The models of a folder, served.

    path: a version's folder, a name's folder or a repository; settings.path where left out.
    request: the user's own pydantic class, which declares each feature and may declare more; of
    several models that of the default one, or a class for each by name.
    settings: flags, TABSERVE_* and tabserve.toml where left out.

    Nothing is loaded before the first request or `start()`, and no thread or file is made before
    either, so that a service may be made ahead of a fork. It pickles as what it was made of.
    Raises ArtifactError, RequestClassError, InvalidSettings.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        request: type[BaseModel] | Mapping[str, type[BaseModel]] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings.load()
        self.path = Path(path or self.settings.path)
        self._request_class = request or request_classes(self.settings.request)
        self.is_held = False
        self._lock = threading.Lock()
        self._dispatcher: Dispatcher | None = None
        self._admin_dispatcher: Dispatcher | None = None
        self._log: RequestLog | None = None
        self._limiters: dict[str, RateLimiter] = {}
        self._close_limiter: Callable[[], None] = lambda: None
        self.on_refused: Callable[[Exception], None] = _log_refusal
        self.metrics = Metrics()
        self.models = Models(
            self.path,
            self._made,
            default=self.settings.default_model,
            run_dir=self.settings.run_dir,
            on_refused=lambda error: self.on_refused(error),
        )
        self.models.on_change = self._publish
        self.changes = Changes(
            self.models,
            allow_breaking=self.settings.allow_breaking,
            watch=not self.settings.reload,
            metrics=self.metrics.rollout,
        )
        self._site = Site(self.models, self.changes, self.metrics, self.settings)
        self._keys = Keys(self.settings.keys) if self.settings.keys else None
        self._refuse_unknown_names()
        self._refuse_unknown_fields(self.settings.hide)

    @property
    def model(self) -> ServedModel:
        """The live model, of several the default one or the first."""
        return self.models.first.live

    def with_settings(self, settings: Settings) -> "Service":
        """The same service, where `settings` was told something else by flag, variable or file."""
        told = settings.model_fields_set | PROCESS_SETTINGS
        merged = self.settings.model_copy(update={name: getattr(settings, name) for name in told})
        return Service(self.path, request=self._request_class, settings=merged)

    def preload(self) -> None:
        """Load what processes that are forked from this one may share, without a thread.

        Raises what refuses a model.
        """
        self.share_counts()
        self.models.preload()

    def share_counts(self) -> None:
        """Open the files in which processes that are forked from this one count together, so that
        they do whatever becomes of the files' names.
        """
        settings = self.settings
        if settings.rate_limit is not None and settings.rate_limit_store is None:
            self._limiter_of(settings.rate_limit, "limits")
        self._key_tries()

    def keep_run_folder(self) -> None:
        """Write anew what was deleted there of what this process has written. Raises OSError."""
        self.metrics.keep()
        self.models.keep_notes()

    def catch_up(self) -> None:
        """In a process that was forked later: serve what is live now."""
        self.models.catch_up()

    def hold(self) -> None:
        """Answer as one that is loading, and load nothing: another process does that."""
        self.is_held = True

    def drain(self, why: str) -> None:
        """Say at /ready that nothing more should be sent here, and answer whatever is."""
        self._site.why_draining = why
        self._publish()

    def start(self) -> None:
        """Begin to load the live models in a thread; returns at once."""
        self.dispatcher()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until each live model is ready. Raises what refused one, or ModelNotReady."""
        self.start()
        self.models.wait(timeout_s)

    def close(self) -> None:
        """Finish what is queued and write the log to its end; the next request starts it anew.

        A model that takes longer than the deadline, by when nobody waits for it, is left behind.
        """
        with self._lock:
            if self._dispatcher is not None:
                self.changes.close(self.settings.deadline)
                self.metrics.settle()
                self._close_limiter()
            if self._log is not None:
                self._log.close()
            self._dispatcher = self._admin_dispatcher = self._log = None

    def fastapi(self) -> "FastAPI":
        """An ordinary FastAPI app, to be extended, mounted or served."""
        from tabserve.web import fastapi

        app = fastapi.app(self.dispatcher, self.close, *self._site.title)
        self._site.extensions.append(lambda: fastapi.own_operations(app))
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
                    if not self.is_held:
                        self.changes.start()
        return self._dispatcher

    def admin_dispatcher(self) -> Dispatcher:
        """What answers on the admin port."""
        self.dispatcher()
        with self._lock:
            if self._admin_dispatcher is None:
                assert self._log is not None
                self._admin_dispatcher = Dispatcher(
                    self._site.admin(),
                    self._admission(self._admin_hosts(), refuses_pages=True),
                    metrics=self.metrics,
                    log=self._log,
                    deadline_s=self.settings.deadline,
                )
        return self._admin_dispatcher

    def _wired(self) -> Dispatcher:
        settings = self.settings
        self._log = RequestLog(settings.log, settings.hide, self.metrics.log_dropped.inc)
        return Dispatcher(
            self._site.main(),
            self._admission(Hosts(settings.allowed_hosts), self._limiter()),
            metrics=self.metrics,
            log=self._log,
            cors=Cors(settings.cors_origins) if settings.cors_origins else None,
            deadline_s=settings.deadline,
        )

    def _admin_hosts(self) -> Hosts:
        """Where all on this machine are let in, not by whatever name a web page has point to it."""
        settings = self.settings
        if self._keys is None and is_loopback(settings.admin_host):
            return Hosts(settings.allowed_hosts or (*LOCAL_NAMES, settings.admin_host))
        return Hosts(settings.allowed_hosts)

    def _admission(
        self, hosts: Hosts, limiter: Limiter | None = None, *, refuses_pages: bool = False
    ) -> Admission:
        return Admission(
            keys=self._keys,
            key_tries=self._key_tries(),
            limiter=limiter,
            counts_rows=self.settings.rate_limit_counts == "rows",
            hosts=hosts,
            refuses_pages=refuses_pages,
            bounds=self._bounds(),
        )

    def _bounds(self) -> Bounds:
        settings = self.settings
        return Bounds(
            max_body=settings.max_body,
            max_bodies=max(settings.max_bodies, settings.max_body),
            max_ratio=settings.max_ratio,
            max_target=settings.max_target,
            max_headers=settings.max_headers,
            max_header_bytes=settings.max_header_bytes,
            receive_timeout_s=settings.receive_timeout,
            idle_timeout_s=settings.idle_timeout,
        )

    def _limiter(self) -> Limiter | None:
        settings = self.settings
        if settings.rate_limit is None:
            return None
        if settings.rate_limit_store is not None:
            from tabserve.redis_limits import RedisLimiter

            limiter = RedisLimiter(
                Rate.parse(settings.rate_limit),
                settings.rate_limit_store,
                is_open=settings.rate_limit_fallback == "open",
                on_away=self.metrics.limit_store_away.set,
            )
            self._close_limiter = limiter.close
            return limiter
        return self._limiter_of(settings.rate_limit, "limits")

    def _key_tries(self) -> RateLimiter | None:
        rate = self.settings.key_tries
        is_counted = self._keys is not None and rate != "off"
        return self._limiter_of(rate, "key_tries") if is_counted else None

    def _limiter_of(self, rate: str, name: str) -> RateLimiter:
        """name: of the file in which the workers count together."""
        if name not in self._limiters:
            run_dir = self.settings.run_dir
            path = None if run_dir is None else run_dir / name
            self._limiters[name] = RateLimiter(Rate.parse(rate), path)
        return self._limiters[name]

    def _made(self, artifact: Artifact, name: str) -> ServedModel:
        """A model, not yet loaded."""
        settings = self.settings
        return ServedModel(
            artifact,
            self.metrics,
            request_class=self._request_class_of(name),
            allow_pickle=settings.allow_pickle,
            allow_code=settings.allow_code,
            workers=settings.workers,
            max_queue=settings.max_queue,
            max_queue_rows=settings.max_queue_rows,
            max_wait_s=settings.max_wait,
            max_rows=settings.max_rows,
            max_depth=settings.max_depth,
            stuck_after_s=settings.deadline,
        )

    def _request_class_of(self, name: str) -> type[BaseModel] | None:
        given = self._request_class
        if given is None or isinstance(given, Mapping):
            return (given or {}).get(name)
        is_meant = self.settings.default_model in (None, name)
        return given if is_meant else None

    def _publish(self) -> None:
        """Serve what the models are now."""
        dispatcher = self._dispatcher
        if dispatcher is not None:
            dispatcher.serve(self._site.main())
        admin_dispatcher = self._admin_dispatcher
        if admin_dispatcher is not None:
            admin_dispatcher.serve(self._site.admin())

    def _refuse_unknown_names(self) -> None:
        """With a misspelt one a model would be served without its class."""
        given = self._request_class
        unknown = given.keys() - self.models.named if isinstance(given, Mapping) else set()
        if unknown:
            raise InvalidSettings(
                f"A request class is given for {', '.join(sorted(unknown))}, and the models here "
                f"are {', '.join(self.models.named)}."
            )

    def _refuse_unknown_fields(self, hide: Iterable[str]) -> None:
        """A misspelt name would leave in the log what was to be hidden."""
        logged: set[str] = set()
        for named in self.models.named.values():
            logged |= named.live.logged_fields
        unknown = sorted(set(hide) - logged)
        if unknown:
            raise InvalidSettings(
                f"Expected in the setting hide the names of fields that are logged "
                f"({', '.join(sorted(logged))}), got {', '.join(unknown)}."
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


def _log_refusal(error: Exception) -> None:
    logger.error("%s", refusal_sentence(error))
