"""Where the workers of one server count together, and note what others begin with."""

import fcntl
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from tabserve.server.starting import READY
from tabserve.settings import PROVEN

logger = logging.getLogger("tabserve")


class RunFolder:
    """It may be deleted under a running server, as what is old in /tmp is. systemd-tmpfiles passes
    by a folder that is locked; what others delete is made again by `keep`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics"
        self._ready = path / READY
        self._has_been_ready = False
        self._descriptor: int | None = None

    def begin(self) -> None:
        """Without what the last run left. Raises OSError."""
        for last in (self.metrics, self.path / PROVEN):
            shutil.rmtree(last, ignore_errors=True)
        self.metrics.mkdir(parents=True)
        self._ready.unlink(missing_ok=True)
        self._lock()

    def keep(self) -> None:
        """To be called again and again. Raises OSError where it cannot be made again."""
        if not self.metrics.is_dir():
            self._make_again()
            logger.warning("The run folder %s was deleted, and is made again", self.path)
        if self.has_been_ready and not self._ready.exists():
            self._ready.touch()

    @property
    def has_been_ready(self) -> bool:
        """Whether a worker was; it is not forgotten where its note is deleted."""
        self._has_been_ready = self._has_been_ready or self._ready.exists()
        return self._has_been_ready

    def _make_again(self) -> None:
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700, parents=True)
        if self.path.lstat().st_uid not in (os.geteuid(), 0):  # others may write to /tmp too
            raise PermissionError(f"{self.path} is somebody else's")
        self.metrics.mkdir(exist_ok=True)
        self._lock()

    def _lock(self) -> None:
        """Until the last process ends that has the descriptor."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
