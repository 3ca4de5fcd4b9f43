"""The processes of `tabserve serve`: uvicorn or gunicorn, one worker or many."""

import gc
import logging
import math
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import orjson
from rich.console import Console

from tabserve.artifact import MANIFEST
from tabserve.errors import InvalidSettings, MissingExtra, ModelNotReady, OperatorError
from tabserve.settings import METRICS_FOLDER_VARIABLE, Settings, is_loopback, variable

if TYPE_CHECKING:
    from tabserve.service import Service

logger = logging.getLogger("tabserve")

# How a worker tells its supervisor that starting another one is of no use: both uvicorn and
# gunicorn stop the parent then.
_WORKER_REFUSED = 3

# Of uvicorn's workers, one that says nothing for so long is killed. Its own 5 s can pass while an
# ML library is imported on a busy machine; and a worker that dies is noticed as late as this.
_HANGING_S = 10

# A worker that replaces another may load for so long before it listens; gunicorn kills one that
# says nothing for 30 s.
_LOADING_S = 15

# In the shared folder once a worker was ready.
_READY = "ready"

_STOPPING = (signal.SIGINT, signal.SIGTERM)

_Serve = Callable[["Service", socket.socket], int]

# Of one Flask worker, beside those that may wait for the model: for probes and refusals.
_SPARE_THREADS = 32
_MOST_THREADS = 1024


def serve(flags: Mapping[str, Any], console: Console) -> int:
    """Serve until a signal ends it; gives back the exit code.

    flags: settings that win over the environment and tabserve.toml.
    Raises InvalidSettings, ArtifactError, RequestClassError, MissingExtra before a port is bound.
    """
    settings = Settings.load(**flags)
    _configure_logging()
    for number in _STOPPING:
        # Until uvicorn or gunicorn has its own: what was made is removed, however early it ends.
        signal.signal(number, lambda *_: sys.exit(0))
    with _shared_folder(settings) as settings:
        service = _resolved(settings)
        refuse_open_door(service.settings)
        serve_with = _reloading(flags) if settings.reload else _framework(settings)
        listening = _bound(settings)
        address = f"http://{_url_host(settings.host)}:{listening.getsockname()[1]}"
        _announce(service, address, console)
        return serve_with(service, listening)


def _framework(settings: Settings) -> _Serve:
    if settings.framework == "flask":
        return _gunicorn()
    return _uvicorn_processes if settings.workers > 1 else _uvicorn_alone


def refuse_open_door(settings: Settings) -> None:
    if not (settings.keys or settings.insecure or is_loopback(settings.host)):
        raise InvalidSettings(
            f"{settings.host} can be reached from other machines, and there are no keys: make one "
            "with tabserve keys add NAME --keys FILE and say --keys FILE, or say --insecure."
        )


def worker_app() -> Any:
    """What each of uvicorn's processes calls: the app for the settings in its environment."""
    _configure_logging()
    try:
        return _started(_resolved(Settings.load()), _WORKER_REFUSED).fastapi()
    except OperatorError as error:
        _refuse(error, _WORKER_REFUSED)


def _resolved(settings: Settings) -> "Service":
    # Not at the top: it imports the metrics, which must find their folder named.
    from tabserve.service import resolve

    return resolve(settings)


def _started(service: "Service", exit_code: int) -> "Service":
    """The service, loading; a model that is refused ends the process with that code."""
    began = time.monotonic()
    run_dir = service.settings.run_dir
    one_is_ready = None if run_dir is None else run_dir / _READY

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
        # What lives as long as the server need not be looked at again by every full collection,
        # which would keep requests waiting for tens of milliseconds.
        gc.collect()
        gc.freeze()
        if one_is_ready is not None:
            one_is_ready.touch()

    service.on_refused = lambda error: _refuse(error, exit_code)
    service.model.on_ready = ready
    service.start()
    if one_is_ready is not None and one_is_ready.exists():
        # In the place of one that died, while the others answer.
        with suppress(ModelNotReady):
            service.wait(_LOADING_S)
    return service


def _refuse(error: Exception, exit_code: int) -> NoReturn:
    """End this process with a sentence.

    Nothing was answered yet but probes, and from the thread that loads a model no other way ends
    all servers.
    """
    from tabserve.served import refusal_sentence

    print(f"Error: {refusal_sentence(error)}", file=sys.stderr, flush=True)
    os._exit(exit_code)


def _uvicorn_config(app: Any, settings: Settings, **more: Any) -> Any:
    import uvicorn

    from tabserve.connection import Connections

    return uvicorn.Config(
        app,
        loop="uvloop",  # without it, several workers stall 44 ms a request (no TCP_NODELAY)
        http=Connections(),  # type: ignore[arg-type] # whatever can be called
        access_log=False,  # TabServe logs each request itself
        log_config=None,
        server_header=False,
        proxy_headers=False,  # else a local client chooses the address that its limit counts for
        timeout_graceful_shutdown=_grace_s(settings),
        **more,
    )


def _grace_s(settings: Settings) -> int:
    """For requests that are being answered when the server is told to stop."""
    return math.ceil(settings.deadline)


def _uvicorn_alone(service: "Service", listening: socket.socket) -> int:
    import uvicorn

    server = uvicorn.Server(_uvicorn_config(service.fastapi(), service.settings))
    for number in _STOPPING:
        # For a signal while the model begins to load; and uvicorn, once it has stopped, raises
        # the signal again.
        signal.signal(number, server.handle_exit)
    _started(service, exit_code=2)
    server.run(sockets=[listening])
    return 0 if server.started else 1


def _uvicorn_processes(service: "Service", listening: socket.socket) -> int:
    from uvicorn.supervisors import Multiprocess

    os.environ.update(service.settings.environment())
    config = _uvicorn_config(
        "tabserve.server:worker_app",
        service.settings,
        factory=True,
        workers=service.settings.workers,
        timeout_worker_healthcheck=_HANGING_S,
    )
    supervisor = Multiprocess(config, sockets=[listening])
    supervisor.run()
    refused = any(process.exitcode == _WORKER_REFUSED for process in supervisor.processes)
    return 2 if refused else 0


def _reloading(flags: Mapping[str, Any]) -> _Serve:
    try:
        import watchfiles
    except ImportError:
        raise MissingExtra("watchfiles", "reload") from None

    def serve_with(service: "Service", listening: socket.socket) -> int:
        # Only these: what the file and the code say may be changed as well.
        os.environ.update({variable(name): str(value) for name, value in flags.items()})
        stopped = threading.Event()
        for number in _STOPPING:
            signal.signal(number, lambda *_: stopped.set())
        usual = watchfiles.DefaultFilter()  # no .venv, __pycache__ and the like
        process = _begun(listening)
        for changes in watchfiles.watch(
            *_watched(service),
            watch_filter=lambda change, path: usual(change, path) and _matters(path),
            stop_event=stopped,
        ):
            logger.info("%s changed, starting anew", ", ".join(sorted(path for _, path in changes)))
            _end(process)
            process = _begun(listening)
        _end(process)
        return 0

    return serve_with


def _begun(listening: socket.socket) -> SpawnProcess:
    """A process that imports the user's code anew, and serves on the same socket."""
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=serve_reloaded, args=(listening,))
    process.start()
    return process


def _end(process: SpawnProcess) -> None:
    process.terminate()
    process.join()


def serve_reloaded(listening: socket.socket) -> None:
    """What the process that is begun anew does, with the settings in its environment."""
    _configure_logging()
    try:
        settings = Settings.load()
        sys.exit(_framework(settings)(_resolved(settings), listening))
    except OperatorError as error:
        _refuse(error, 2)


def _watched(service: "Service") -> set[Path]:
    """The user's code, by the working directory, and the artefact.

    A version that is replaced is another folder of the same name, so its parent is watched.
    """
    path = service.path.resolve()
    return {Path.cwd(), path.parent if (path / MANIFEST).exists() else path}


def _matters(path: str) -> bool:
    """Whether a path is of code, of settings, or of a version whose packing is complete."""
    if "/.packing-" in path:
        return False
    return path.endswith((".py", ".toml", MANIFEST)) or Path(path, MANIFEST).exists()


def _gunicorn() -> _Serve:
    try:
        from gunicorn.app.base import BaseApplication
        from gunicorn.errors import HaltServer
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
            try:
                return _started(self._service, _WORKER_REFUSED).flask()
            except OperatorError as error:
                _refuse(error, _WORKER_REFUSED)

    def serve_with(service: "Service", listening: socket.socket) -> int:
        settings = service.settings
        options = {
            "bind": f"fd://{listening.fileno()}",
            "workers": settings.workers,
            "worker_class": "gthread",
            # A thread holds its request while that waits, and is made when it is first needed.
            "threads": min(settings.max_queue + _SPARE_THREADS, _MOST_THREADS),
            "worker_connections": 2 * _MOST_THREADS,
            "limit_request_line": 8190,
            "forwarder_headers": "",  # else a local client's SCRIPT_NAME header counts
            "loglevel": "warning",
            "graceful_timeout": _grace_s(settings),
            "worker_exit": lambda server, worker: service.close(),
            "control_socket_disable": True,
        }
        try:
            Application(service, options).run()
        except SystemExit as stop:
            return 2 if stop.code == _WORKER_REFUSED else int(stop.code or 0)
        except HaltServer:  # a second worker refused while gunicorn was stopping for the first
            return 2
        return 0

    return serve_with


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(2048)
    except (OSError, OverflowError) as error:
        listening.close()
        raise InvalidSettings(
            f"Cannot listen on {settings.host}:{settings.port}: {error}. Choose another --port."
        ) from None
    listening.set_inheritable(True)
    return listening


@contextmanager
def _shared_folder(settings: Settings) -> Iterator[Settings]:
    """The settings with a folder in which several workers count together."""
    if settings.workers == 1 and settings.run_dir is None:
        yield settings
        return
    made, maker = settings.run_dir is None, os.getpid()
    folder = Path(tempfile.mkdtemp(prefix="tabserve-")) if made else settings.run_dir
    assert folder is not None
    metrics = folder / "metrics"
    try:
        shutil.rmtree(metrics, ignore_errors=True)  # of the last run
        metrics.mkdir(parents=True)
        (folder / _READY).unlink(missing_ok=True)
    except OSError as error:
        raise InvalidSettings(f"Cannot use the run folder {folder}: {error.strerror}.") from None
    os.environ[METRICS_FOLDER_VARIABLE] = str(metrics)
    try:
        yield settings.model_copy(update={"run_dir": folder})
    finally:
        del os.environ[METRICS_FOLDER_VARIABLE]
        if made and os.getpid() == maker:  # a worker that gunicorn forked comes by here too
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
