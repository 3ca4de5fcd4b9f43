"""The files in which the workers of one server count, read as one.

prometheus-client keeps those of each process for ever, since its totals must not shrink. Here what
a dead one has counted is added to one file, so that they are as many as there are workers, however
often these are replaced.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client import Metric, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from tabserve.mapped import reserve

# The name is prometheus-client's.
METRICS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LOCK = "lock"
# In the place of a process, those that are no more; no process has this number.
_PAST = "0"
# What the names of a process' files begin with, by the kinds of metrics there are.
_KINDS = ("counter", "histogram", "gauge_livesum", "gauge_livemax", "gauge_max")
# Of each, from its beginning: some 500 series.
_ROOM = 2**16


@contextmanager
def counted_in(folder: Path) -> Iterator[None]:
    """Metrics made meanwhile count in files of the folder, those made afterwards as those before.
    prometheus-client looks at the environment when it is imported, which may be long ago.
    """
    before = values.ValueClass, os.environ.get(METRICS_FOLDER_VARIABLE)
    os.environ[METRICS_FOLDER_VARIABLE] = str(folder)
    if not values.ValueClass._multiprocess:
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        values.ValueClass, variable = before
        del os.environ[METRICS_FOLDER_VARIABLE]
        if variable is not None:
            os.environ[METRICS_FOLDER_VARIABLE] = variable


class SharedMetrics(Collector):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._past: dict[Path, MmapedDict] = {}
        self._pid = os.getpid()  # of the process that folds
        self._has_room = 0  # which process

    def collect(self) -> Iterable[Metric]:
        """As prometheus-client's own collector, which fails on a file that another worker has made
        and not yet filled. Nothing where the folder is gone, so that no counter seems to have begun
        anew.
        """
        self._forget_gauges_of_the_dead()
        try:
            with self._locked(fcntl.LOCK_SH):
                files = [str(file) for file in self._folder.glob("*.db") if _is_filled(file)]
                families: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
                return families
        except FileNotFoundError:
            return []

    def fold(self, pid: int) -> None:
        """Add what a process that is dead has counted to what others had. To be called by one
        process only, which waits for nobody: where somebody reads, who may hang, it stays where it
        is and is counted there.
        """
        with suppress(BlockingIOError), self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
            with suppress(FileNotFoundError):
                mark_process_dead(pid, str(self._folder))  # type: ignore[no-untyped-call]
            for file in self._folder.glob(f"*_{pid}.db"):
                if _is_filled(file):
                    self._add(file, file.with_name(file.name.replace(f"_{pid}.db", f"_{_PAST}.db")))
                file.unlink(missing_ok=True)

    def make_room(self) -> None:
        """For what this process will count, before it does. Raises OSError."""
        if values.ValueClass._multiprocess and self._has_room != os.getpid():
            for kind in _KINDS:
                _reserve(f"{self._folder}/{kind}_{os.getpid()}.db")
            self._has_room = os.getpid()

    def keep(self, own: Iterable[MmapedDict]) -> None:
        """Write anew what was deleted of the files in which this process counts, and of those of
        the dead, where it folds; and see that each has room to grow. Raises OSError.
        """
        past = self._past.values() if self._pid == os.getpid() else ()
        for file in {*own, *past}:
            if not os.path.exists(file._fname):  # noqa: PTH110 - looked at every second
                _write_anew(file)
            if 2 * file._used > file._capacity:
                _reserve_more(file)

    def _add(self, file: Path, past: Path) -> None:
        is_maximum = file.name.startswith("gauge_max_")
        if past not in self._past:
            self._past[past] = _made(str(past))
        total = self._past[past]
        _reserve_more(total)
        values = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]
        for key, value, at, _ in values:
            before, _ = total.read_value(key)  # type: ignore[no-untyped-call]
            now = max(before, value) if is_maximum else before + value
            total.write_value(key, now, at)  # type: ignore[no-untyped-call]

    def _forget_gauges_of_the_dead(self) -> None:
        """A killed worker cannot take back what its gauges said."""
        for file in self._folder.glob("gauge_live*_*.db"):
            pid = file.stem.rpartition("_")[2]
            if not Path("/proc", pid).exists() and Path("/proc").exists():
                with suppress(FileNotFoundError):  # others do the same
                    mark_process_dead(int(pid), str(self._folder))  # type: ignore[no-untyped-call]

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Nobody reads while what was counted stands in two files; a killed process frees it."""
        with (self._folder / _LOCK).open("a") as file:
            fcntl.flock(file, how)
            yield


def _write_anew(file: MmapedDict) -> None:
    """With what it holds: a mapping outlives the file. What another thread counts meanwhile is
    there once it counts the same again.
    """
    made = _made(file._fname)
    for key, value, at in file.read_all_values():  # type: ignore[no-untyped-call]
        made.write_value(key, value, at)  # type: ignore[no-untyped-call]
    deleted = file._f
    vars(file).update(vars(made))
    deleted.close()


def _made(path: str) -> MmapedDict:
    _reserve(path)
    return MmapedDict(path)  # type: ignore[no-untyped-call]


def _reserve(path: str) -> None:
    with open(path, "ab") as file:  # noqa: PTH123 - prometheus-client's own names are text
        reserve(file.fileno(), _ROOM)


def _reserve_more(file: MmapedDict) -> None:
    """It becomes twice as large when it is full."""
    reserve(file._f.fileno(), 2 * file._capacity)


def _is_filled(file: Path) -> bool:
    """It may be gone meanwhile: that of a gauge of a worker that has ended."""
    with suppress(FileNotFoundError):
        return file.stat().st_size > 0
    return False
