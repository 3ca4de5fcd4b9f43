"""Flask under gunicorn, one worker or many."""

import logging
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from tabserve.errors import MissingExtra, OperatorError
from tabserve.redaction import redacted_lines, redacted_text
from tabserve.server.listening import Listener
from tabserve.server.run_folder import RunFolder
from tabserve.server.starting import REFUSED, refuse, started

try:
    from gunicorn.app.base import BaseApplication
    from gunicorn.errors import HaltServer
except ImportError:
    raise MissingExtra("gunicorn", "flask") from None

if TYPE_CHECKING:
    from tabserve.service import Service

# Of one worker, beside those that may wait for the model: for probes and refusals.
_SPARE_THREADS = 32
_MOST_THREADS = 1024
# So often each worker looks whether the run folder was deleted.
_KEPT_S = 1.0


class _Application(BaseApplication):  # type: ignore[misc]
    def __init__(
        self, service: "Service", folder: RunFolder | None, options: dict[str, Any]
    ) -> None:
        self._service = service
        self._folder = folder
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        if self._folder is not None:
            _keep(self._service, self._folder)  # opens its files while they can be
            keeping = partial(_keep_always, self._service, self._folder)
            threading.Thread(target=keeping, name="tabserve-run-folder", daemon=True).start()
        try:
            return started(self._service, REFUSED).flask()
        except OperatorError as error:
            refuse(error, REFUSED)


def _keep_always(service: "Service", folder: RunFolder) -> None:
    while True:
        time.sleep(_KEPT_S)
        _keep(service, folder)


def _keep(service: "Service", folder: RunFolder | None) -> None:
    if folder is not None:
        with suppress(OSError):  # /metrics tells nothing meanwhile
            folder.keep()
            service.keep_run_folder()


class _Redaction(logging.Filter):
    """gunicorn repeats what it refuses, which may hold a key or a line break."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted_text(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            lines = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            record.exc_text = redacted_lines(lines)
        return True


def serve(service: "Service", listeners: list[Listener], grace_s: int) -> int:
    """Until a signal ends it."""
    settings = service.settings
    folder = None if settings.run_dir is None else RunFolder(settings.run_dir)
    service.share_counts()
    options = {
        "bind": [f"fd://{listener.socket.fileno()}" for listener in listeners],
        "workers": settings.workers,
        "worker_class": "gthread",
        # A thread holds its request while that waits, and is made when it is first needed.
        "threads": min(settings.max_queue + _SPARE_THREADS, _MOST_THREADS),
        "worker_connections": 2 * _MOST_THREADS,
        "limit_request_line": 8190,  # the most that it knows
        "limit_request_fields": settings.max_headers,
        "forwarder_headers": "",  # else a local client's SCRIPT_NAME header counts
        "loglevel": "warning",
        "graceful_timeout": grace_s,
        "worker_exit": lambda server, worker: service.close(),
        "pre_fork": lambda server, worker: _keep(service, folder),
        "child_exit": lambda server, worker: service.metrics.fold(worker.pid),
        "control_socket_disable": True,
    }
    logging.getLogger("gunicorn.error").addFilter(_Redaction())
    try:
        _Application(service, folder, options).run()
    except SystemExit as stop:
        return 2 if stop.code == REFUSED else int(stop.code or 0)
    except HaltServer:  # a second worker refused while gunicorn was stopping for the first
        return 2
    return 0
