"""`--reload`: a process that imports the user's code anew whenever that or the artefact changes."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabserve.artifact import MANIFEST
from tabserve.errors import MissingExtra
from tabserve.server.listening import Listener
from tabserve.server.starting import heeded
from tabserve.settings import variable

try:
    import watchfiles
except ImportError:
    raise MissingExtra("watchfiles", "reload") from None

if TYPE_CHECKING:
    from tabserve.service import Service

logger = logging.getLogger("tabserve")


def serve(
    service: "Service",
    listeners: list[Listener],
    flags: Mapping[str, Any],
    target: Callable[[list[Listener]], None],
) -> int:
    """Until a signal ends it. target: what each process does, with the settings in its environment.

    flags: of the command.
    """
    # Only these: what the file and the code say may be changed as well.
    os.environ.update({variable(name): str(value) for name, value in flags.items()})
    stopped = threading.Event()
    for number in heeded():
        signal.signal(number, lambda *_: stopped.set())
    usual = watchfiles.DefaultFilter()  # no .venv, __pycache__ and the like
    process = _begun(target, listeners)
    for changes in watchfiles.watch(
        *_watched(service),
        watch_filter=lambda change, path: usual(change, path) and _matters(path),
        stop_event=stopped,
    ):
        logger.info("%s changed, starting anew", ", ".join(sorted(path for _, path in changes)))
        _end(process)
        process = _begun(target, listeners)
    _end(process)
    return 0


def _begun(target: Callable[[list[Listener]], None], listeners: list[Listener]) -> SpawnProcess:
    """Another process that serves on the same sockets."""
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=target, args=(listeners,))
    process.start()
    return process


def _end(process: SpawnProcess) -> None:
    process.terminate()
    process.join()


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
