"""The processes of `tabserve serve`: uvicorn or gunicorn, one worker or many."""

import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console

from tabserve.errors import InvalidSettings, MissingExtra
from tabserve.settings import METRICS_FOLDER_VARIABLE, Settings, is_loopback

if TYPE_CHECKING:
    from tabserve.service import Service

logger = logging.getLogger("tabserve")

# How a worker tells its supervisor that starting another one is of no use: both uvicorn and
# gunicorn stop the parent then.
_WORKER_REFUSED = 3

# Of one Flask worker: each holds a request while the model is busy, so this many can be joined.
_FLASK_THREADS = 32


def serve(settings: Settings, console: Console) -> int:
    """Serve until a signal ends it; gives back the exit code.

    Raises InvalidSettings, ArtifactError, RequestClassError, MissingExtra before a port is bound.
    """
    _configure_logging()
    with _shared_folder(settings) as settings:
        service = _resolved(settings)
        refuse_open_door(service.settings)
        serve_with: Callable[[Service, socket.socket], int]
        if settings.framework == "flask":
            serve_with = _gunicorn()
        elif settings.reload or settings.workers > 1:
            serve_with = _uvicorn_processes
        else:
            serve_with = _uvicorn_alone
        listening = _bound(settings)
        address = f"http://{_url_host(settings.host)}:{listening.getsockname()[1]}"
        _announce(service, address, console)
        return serve_with(service, listening)


def refuse_open_door(settings: Settings) -> None:
    if not (settings.keys or settings.insecure or is_loopback(settings.host)):
        raise InvalidSettings(
            f"{settings.host} can be reached from other machines, and there are no keys: make one "
            "with tabserve keys add NAME --keys FILE and say --keys FILE, or say --insecure."
        )


def worker_app() -> Any:
    """What each of uvicorn's processes calls: the app for the settings in its environment."""
    _configure_logging()
    service = _resolved(Settings.load())
    return _started(service, _WORKER_REFUSED).fastapi()


def _resolved(settings: Settings) -> "Service":
    # Not at the top: it imports the metrics, which must find their folder named.
    from tabserve.service import resolve

    return resolve(settings)


def _started(service: "Service", exit_code: int) -> "Service":
    """The service, loading; a model that is refused ends the process with that code."""
    began = time.monotonic()

    def refused(error: Exception) -> None:
        from tabserve.served import refusal_sentence

        print(f"Error: {refusal_sentence(error)}", file=sys.stderr, flush=True)
        # Nothing was answered yet but probes, and from this thread no other way ends all servers.
        os._exit(exit_code)

    def ready() -> None:
        manifest = service.model.manifest
        logger.info(
            "%s %s is ready after %.1f s (%s engine, %s golden rows reproduced)",
            manifest.name,
            manifest.version,
            time.monotonic() - began,
            manifest.engine,
            manifest.parity.n_rows,
        )

    service.on_refused = refused
    service.model.on_ready = ready
    service.start()
    return service


def _uvicorn_config(app: Any, service: "Service", **more: Any) -> Any:
    import uvicorn

    return uvicorn.Config(
        app,
        loop="uvloop",  # without it, several workers stall 44 ms a request (no TCP_NODELAY)
        http="httptools",
        access_log=False,  # TabServe logs each request itself
        log_config=None,
        server_header=False,
        **more,
    )


def _uvicorn_alone(service: "Service", listening: socket.socket) -> int:
    import uvicorn

    # uvicorn raises the signal that stopped it once more; with a handler of ours in place that
    # is no reason to die of it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    _started(service, exit_code=2)
    server = uvicorn.Server(_uvicorn_config(service.fastapi(), service))
    server.run(sockets=[listening])
    return 0 if server.started else 1


def _uvicorn_processes(service: "Service", listening: socket.socket) -> int:
    from uvicorn.supervisors import Multiprocess

    settings = service.settings
    os.environ.update(settings.environment())
    if settings.reload:
        return _uvicorn_reloading(service, listening)
    config = _uvicorn_config(
        "tabserve.server:worker_app", service, factory=True, workers=settings.workers
    )
    supervisor = Multiprocess(config, sockets=[listening])
    supervisor.run()
    refused = any(process.exitcode == _WORKER_REFUSED for process in supervisor.processes)
    return 2 if refused else 0


def _uvicorn_reloading(service: "Service", listening: socket.socket) -> int:
    import uvicorn

    try:
        from uvicorn.supervisors.watchfilesreload import WatchFilesReload
    except ImportError:
        raise MissingExtra("watchfiles", "reload") from None
    config = _uvicorn_config(
        "tabserve.server:worker_app",
        service,
        factory=True,
        reload=True,
        reload_dirs=[str(folder) for folder in _watched(service)],
        reload_includes=["*.py", "*.json", "*.toml"],
    )
    WatchFilesReload(config, target=uvicorn.Server(config).run, sockets=[listening]).run()
    return 0


def _watched(service: "Service") -> list[Path]:
    """The user's code, by the working directory, and the artefact."""
    return [Path.cwd(), service.path]


def _gunicorn() -> Callable[["Service", socket.socket], int]:
    try:
        from gunicorn.app.base import BaseApplication
    except ImportError:
        raise MissingExtra("gunicorn", "flask") from None

    class Application(BaseApplication):  # type: ignore[misc]
        def __init__(self, service: "Service", options: dict[str, Any]) -> None:
            self._service = service
            self._options = options
            super().__init__()

        def load_config(self) -> None:
            for name, value in self._options.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return _started(self._service, _WORKER_REFUSED).flask()

    def serve_with(service: "Service", listening: socket.socket) -> int:
        settings = service.settings
        options = {
            "bind": f"fd://{listening.fileno()}",
            "workers": settings.workers,
            "worker_class": "gthread",
            "threads": _FLASK_THREADS,
            "loglevel": "warning",
            "reload": settings.reload,
            "reload_extra_files": [str(path) for path in service.path.rglob("manifest.json")],
            "worker_exit": lambda server, worker: service.close(),
            "control_socket_disable": True,
        }
        try:
            Application(service, options).run()
        except SystemExit as stop:
            return 2 if stop.code == _WORKER_REFUSED else int(stop.code or 0)
        return 0

    return serve_with


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        raise InvalidSettings(
            f"Cannot listen on {settings.host}:{settings.port}: {error}. Choose another --port."
        ) from None
    listening.listen(2048)
    listening.set_inheritable(True)
    return listening


@contextmanager
def _shared_folder(settings: Settings) -> Iterator[Settings]:
    """The settings with a folder in which several workers count together."""
    if settings.workers == 1:
        yield settings
        return
    made = settings.run_dir is None
    folder = Path(tempfile.mkdtemp(prefix="tabserve-")) if made else settings.run_dir
    assert folder is not None
    metrics = folder / "metrics"
    metrics.mkdir(parents=True, exist_ok=True)
    os.environ[METRICS_FOLDER_VARIABLE] = str(metrics)
    try:
        yield settings.model_copy(update={"run_dir": folder})
    finally:
        if made:
            shutil.rmtree(folder, ignore_errors=True)


def _configure_logging() -> None:
    """The server's own words on standard error; requests are in the log of `--log`."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logger.setLevel(logging.INFO)


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _announce(service: "Service", address: str, console: Console) -> None:
    """Where it listens, where the docs are, and a request to paste."""
    manifest = service.model.manifest
    console.print(f"[bold]{manifest.name} {manifest.version}[/bold]  {manifest.model_type}")
    console.print(f"  Address  {address}")
    console.print(f"  Docs     {address}/docs")
    console.print("  Try      ", end="")
    # Not wrapped and not marked up: it is to be pasted.
    console.print(curl(service, address), soft_wrap=True, markup=False, highlight=False)


def curl(service: "Service", address: str) -> str:
    examples = service.model.decoder.examples()
    record = orjson.dumps(examples[0]).decode() if examples else "{}"
    parts = ["curl", "-s", f"{address}/predict", "-H", "Content-Type: application/json"]
    words = " ".join(map(shlex.quote, [*parts, "-d", record]))
    if service.settings.keys:
        words += ' -H "X-API-Key: $KEY"'
    return words
