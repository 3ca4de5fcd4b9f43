"""What every process that answers requests begins with: the service of its settings, loading."""

import fcntl
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from tabserve.artifact import Manifest
from tabserve.errors import ModelNotReady
from tabserve.settings import Settings

if TYPE_CHECKING:
    from tabserve.service import Service

logger = logging.getLogger("tabserve")

# How a worker tells its supervisor that starting another one is of no use; gunicorn's too.
REFUSED = 3

# A worker that replaces another may load for so long before it listens; gunicorn kills one that
# says nothing for 30 s.
LOADING_S = 15

# Files that a process has a place for from its beginning; each connection is one.
_FILES = 4096

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# In the shared folder once a worker was ready.
READY = "ready"


def resolved(settings: Settings) -> "Service":
    # Not at the top: it imports the metrics, which must find their folder named.
    from tabserve.service import resolve

    return resolve(settings)


def started(service: "Service", exit_code: int) -> "Service":
    """The service, loading; a model that is refused ends the process with that code."""
    threading.Thread(target=_make_places_for_files, daemon=True).start()
    began = time.monotonic()
    settings = service.settings
    one_is_ready = None if settings.run_dir is None else settings.run_dir / READY

    def ready(manifest: Manifest) -> None:
        logger.info(
            "%s %s is ready after %.1f s (%s engine, %s golden rows reproduced)",
            manifest.name,
            manifest.version,
            time.monotonic() - began,
            manifest.engine,
            manifest.parity.n_rows,
        )
        if not service.models.are_ready:
            return
        freeze()
        if one_is_ready is not None:
            one_is_ready.touch()

    service.on_refused = lambda error: refuse(error, exit_code)
    for named in service.models.named.values():
        named.live.on_ready = partial(ready, named.live.manifest)
    service.start()
    if settings.workers > 1 and one_is_ready is not None and one_is_ready.exists():
        # In the place of one that died, while the others answer.
        with suppress(ModelNotReady):
            service.wait(LOADING_S)
    return service


def heeded() -> list[signal.Signals]:
    """Those of STOPPING that stop this process: not SIGHUP where it is ignored, as by nohup."""
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOPPING if not (number == signal.SIGHUP and is_ignored)]


def tell_stopping(number: int) -> None:
    """number: of the signal."""
    name = signal.Signals(number).name
    logger.info("Stopping on %s; what has been asked is answered first", name)


def _make_places_for_files() -> None:
    """Linux makes more at the 256th, the 512th file and so on, and lets who opened it wait 15 ms,
    where there are threads: here nobody waits.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError):  # it has no standard input
        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, min(_FILES, most) - 1))


def freeze() -> None:
    """What lives as long as the server need not be looked at again by every full collection, which
    would keep requests waiting for tens of milliseconds, and write to pages that forks share. Until
    then nothing is collected: imports make thousands of objects that stay.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def refuse(error: Exception, exit_code: int) -> NoReturn:
    """End this process with a sentence.

    Nothing was answered yet but probes, and from the thread that loads a model no other way ends
    all servers.
    """
    from tabserve.served import refusal_sentence

    print(f"Error: {refusal_sentence(error)}", file=sys.stderr, flush=True)
    os._exit(exit_code)
