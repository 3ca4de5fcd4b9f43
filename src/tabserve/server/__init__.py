"""`tabserve serve`: one process or many, asynchronous or under gunicorn."""

import gc
import logging
import math
import resource
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click
import orjson

from tabserve import heap, temporary
from tabserve.errors import InvalidSettings, OperatorError
from tabserve.redaction import RedactingFormatter
from tabserve.server.listening import Listener, bound
from tabserve.server.run_folder import RunFolder
from tabserve.server.starting import heeded, refuse, resolved, started
from tabserve.settings import Settings, is_loopback

if TYPE_CHECKING:
    from tabserve.service import Service


def serve(flags: Mapping[str, Any]) -> int:
    """Serve until a signal ends it; gives back the exit code.

    flags: settings that win over the environment and tabserve.toml.
    Raises InvalidSettings, ArtifactError, RequestClassError, MissingExtra before a port is bound,
    and after it what refuses the model.
    """
    gc.disable()  # see `freeze`
    settings = Settings.load(**flags)
    _configure_logging()
    _leave_no_core()
    heap.keep_one()
    for number in heeded():
        # Until whatever serves has its own.
        signal.signal(number, lambda *_: temporary.end(0))
    with _shared_folder(settings) as settings:
        service = resolved(settings)
        refuse_open_door(service.settings)
        _import_all(settings)
        listeners = [bound("main", settings.host, settings.port)]
        if settings.admin_port is not None:
            listeners.append(bound("admin", settings.admin_host, settings.admin_port))
        _announce(service, listeners)
        gc.freeze()  # what `freeze` then looks at is what loading the model leaves
        if settings.reload:
            from tabserve.server import reloading

            gc.enable()
            return reloading.serve(service, listeners, flags, serve_reloaded)
        return _serve(service, listeners)


def refuse_open_door(settings: Settings) -> None:
    hosts = [settings.host]
    if settings.admin_port is not None:
        hosts.append(settings.admin_host)
        if settings.framework == "flask":
            raise InvalidSettings(
                "The admin port is the asynchronous server's (--framework fastapi); versions are "
                "promoted without it too: tabserve promote NAME VERSION"
            )
    open_doors = [host for host in hosts if not is_loopback(host)]
    if open_doors and not (settings.keys or settings.insecure):
        raise InvalidSettings(
            f"{open_doors[0]} can be reached from other machines, and there are no keys: make one "
            "with tabserve keys add NAME --keys FILE and say --keys FILE, or say --insecure."
        )


def serve_reloaded(listeners: list[Listener]) -> None:
    """What a process that is begun anew does, with the settings in its environment."""
    _configure_logging()
    try:
        sys.exit(_serve(resolved(Settings.load()), listeners))
    except OperatorError as error:
        refuse(error, 2)


def _import_all(settings: Settings) -> None:
    """What may be missing, before a port is bound. Raises MissingExtra."""
    if settings.reload:
        from tabserve.server import reloading  # noqa: F401
    if settings.framework == "flask":
        from tabserve.server import gunicorn  # noqa: F401
    if settings.rate_limit_store is not None:
        from tabserve import redis_limits  # noqa: F401


def _serve(service: "Service", listeners: list[Listener]) -> int:
    settings = service.settings
    if settings.framework == "flask":
        from tabserve.server import gunicorn

        return gunicorn.serve(service, listeners, math.ceil(settings.deadline))
    if settings.workers > 1 or settings.supervise:
        from tabserve.server.supervisor import Supervisor

        return Supervisor(service, listeners).run()
    started(service, exit_code=2)  # in a thread, beside the imports that follow
    from tabserve.server.worker import Worker

    Worker(service, listeners).run()
    return 0


@contextmanager
def _shared_folder(settings: Settings) -> Iterator[Settings]:
    """The settings with a folder in which several workers count together."""
    if settings.workers == 1 and not settings.supervise and settings.run_dir is None:
        yield settings
        return
    given = settings.run_dir
    with temporary.folder() if given is None else nullcontext(given.absolute()) as folder:
        run_folder = RunFolder(folder)
        try:
            run_folder.begin()
        except OSError as error:
            raise InvalidSettings(
                f"Cannot use the run folder {given or folder}: {error.strerror}."
            ) from None
        from tabserve import shared_metrics

        with shared_metrics.counted_in(run_folder.metrics):
            yield settings.model_copy(update={"run_dir": folder})


def _configure_logging() -> None:
    """The server's own words on standard error; requests are in the log of `--log`."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("tabserve").setLevel(logging.INFO)


def _leave_no_core() -> None:
    """The memory of a process that crashes holds keys and rows: no file of it is to be left.

    One byte is too little for a file, and Linux takes it for a wish that no program is given the
    memory either, where core_pattern names one; a limit of 0 says nothing to it (fs/coredump.c).
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if most == 0 else 1, most))


def _announce(service: "Service", listeners: list[Listener]) -> None:
    """Where it listens, where the docs are, and a request to paste."""
    address = listeners[0].url
    lines = []
    for named in service.models.named.values():
        manifest = named.live.manifest
        name = click.style(f"{manifest.name} {manifest.version}", bold=True)
        lines.append(f"{name}  {manifest.model_type}")
    lines.append(f"  Address  {address}")
    lines += [
        f"  Docs     {listener.url}/docs"
        for listener in listeners
        if listener.name == service.settings.docs
    ]
    lines += [f"  {listener.name.capitalize():<8} {listener.url}" for listener in listeners[1:]]
    for line in [*lines, f"  Try      {curl(service, address)}"]:
        click.echo(line, err=True)


def curl(service: "Service", address: str) -> str:
    examples = service.model.decoder.examples()
    record = orjson.dumps(examples[0]).decode() if examples else "{}"
    name = service.model.manifest.name
    below = "" if service.models.default is not None else f"/models/{name}"
    parts = ["curl", "-s", f"{address}{below}/predict", "-H", "Content-Type: application/json"]
    words = " ".join(map(shlex.quote, [*parts, "-d", record]))
    if service.settings.keys:
        words += ' -H "X-API-Key: $KEY"'
    return words
