import errno
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import orjson
import pytest

from tabserve import logs
from tabserve.errors import InvalidSettings
from tabserve.lines import Lines
from tabserve.logs import LogLine, RequestLog

PATIENCE_S = 20


def read(path: Path) -> list[LogLine]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_each_line_is_json_and_close_writes_what_waits(path: Path) -> None:
    log = RequestLog(str(path))
    for i in range(1000):
        log.write(lambda i=i: [{"i": i}, {"j": i}])
    log.close()

    assert read(path) == [line for i in range(1000) for line in ({"i": i}, {"j": i})]


def test_lines_are_added_to_those_there_are(path: Path) -> None:
    for i in range(2):
        log = RequestLog(str(path))
        log.write(lambda i=i: [{"i": i}])
        log.close()

    assert read(path) == [{"i": 0}, {"i": 1}]


def test_hidden_fields_are_in_no_line_and_the_lines_own_stay(path: Path) -> None:
    log = RequestLog(str(path), hide=["age", "name", "path", "risk"])
    features = {"age": [3], "size": [4], "name": ["Ada"], "path": ["/home/ada"]}
    result = {"risk": [0.5], "band": ["Low"]}
    log.write(lambda: Lines({"path": "/predict"}, ["a"], features, result, None, {}))
    log.close()

    assert read(path) == [
        {
            "path": "/predict",
            "prediction_id": "a",
            "features": {"size": 4},
            "result": {"band": "Low"},
        }
    ]


def test_line_breaks_in_a_value_make_no_line(path: Path) -> None:
    log = RequestLog(str(path))
    value = 'a\n{"event":"forged"}\r\u2028\u0000"'
    log.write(lambda: [{"value": value, "features": {value: value}}])
    log.close()

    assert path.read_bytes().count(b"\n") == 1
    assert read(path) == [{"value": value, "features": {value: value}}]


def test_lines_are_made_in_another_thread(path: Path) -> None:
    log, makers = RequestLog(str(path)), []
    log.write(lambda: makers.append(threading.current_thread().name) or [])
    log.close()

    assert makers == ["tabserve-log"]


def unmakable() -> list[LogLine]:
    raise ValueError("the row")


def test_threads_that_write_at_once_wake_the_one_that_writes_down(path: Path) -> None:
    log, both = RequestLog(str(path)), threading.Barrier(2)

    class Meeting(deque[Any]):
        def append(self, item: Any) -> None:
            super().append(item)
            both.wait(PATIENCE_S)

    log._unmade = Meeting()
    made = [threading.Event() for _ in range(2)]
    for event in made:
        threading.Thread(target=log.write, args=(lambda event=event: event.set() or [],)).start()

    assert all(event.wait(PATIENCE_S) for event in made)
    log.close()


def test_lines_that_cannot_be_made_are_counted_and_the_log_goes_on(path: Path) -> None:
    lost: list[int] = []
    log = RequestLog(str(path), on_drop=lost.append)
    log.write(unmakable)
    log.write(lambda: [{"huge": 2**70}])
    log.write(lambda: [{"good": 1}])
    log.close()

    assert (read(path), lost) == ([{"good": 1}], [1, 1])


def test_a_full_disk_loses_lines_and_counts_each() -> None:
    lost: list[int] = []
    log = RequestLog("/dev/full", on_drop=lost.append)
    for i in range(100):
        log.write(lambda i=i: [{"i": i}, {"j": i}])
    log.close()

    assert sum(lost) == 200


def test_a_line_that_was_cut_short_takes_no_other_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, lost, told = 25, list[int](), threading.Event()
    log = RequestLog(str(path), on_drop=lambda n_lines: (lost.append(n_lines), told.set()))
    write = os.write

    def until_full(descriptor: int, content: bytes) -> int:
        nonlocal room
        if descriptor != log._descriptor:
            return write(descriptor, content)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        n_written = write(descriptor, content[:room])
        room -= n_written
        return n_written

    monkeypatch.setattr(os, "write", until_full)
    log.write(lambda: [{"i": i} for i in range(5)], 5)
    assert told.wait(PATIENCE_S)
    room = 100
    log.write(lambda: [{"i": 9}])
    log.close()

    assert path.read_bytes() == b'{"i":0}\n{"i":1}\n{"i":2}\n{\n{"i":9}\n'
    assert lost == [2]


def test_nor_does_one_that_another_process_could_not_write_to_its_end(path: Path) -> None:
    path.write_bytes(b'{"i":')
    log = RequestLog(str(path))
    log._has_failed = True  # on a disk that was full for all
    log.write(lambda: [{"i": 9}])
    log.write(lambda: [{"i": 10}])
    log.close()

    assert path.read_bytes() == b'{"i":\n{"i":9}\n{"i":10}\n'


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_a_file_that_is_taken_away_is_begun_anew(
    path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    log = RequestLog(path.name)
    monkeypatch.chdir("/")  # as the code of a model may
    if how == "moved":
        path.rename(path.with_suffix(".1"))
    else:
        path.unlink()
    log.write(lambda: [{"i": 1}])
    log.close()

    assert read(path) == [{"i": 1}]


def test_a_log_whose_folder_is_gone_goes_on(path: Path) -> None:
    lost: list[int] = []
    path.parent.joinpath("logs").mkdir()
    log = RequestLog(str(path.parent / "logs" / "log"), on_drop=lost.append)
    path.parent.joinpath("logs").rename(path.parent / "moved")
    log.write(lambda: [{"i": 1}])
    log.close()

    assert (read(path.parent / "moved" / "log"), lost) == ([{"i": 1}], [])


def test_a_pipe_that_nobody_reads_any_more_loses_lines_and_counts_them(path: Path) -> None:
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    lost: list[int] = []
    log = RequestLog(str(path), on_drop=lost.append)
    os.close(reader)
    log.write(lambda: [{"i": 1}])
    log.close()

    assert lost == [1]


class Slow:
    """Makes one line, once it may."""

    def __init__(self) -> None:
        self.busy, self.free = threading.Event(), threading.Event()

    def __call__(self) -> list[LogLine]:
        self.busy.set()
        assert self.free.wait(PATIENCE_S)
        return [{"i": 0}]


def test_past_its_bound_the_queue_drops_and_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING", 3)  # one is being made
    lost: list[int] = []
    log, slow = RequestLog(str(path), on_drop=lost.append), Slow()

    log.write(slow)
    assert slow.busy.wait(PATIENCE_S)
    for i in range(1, 4):
        log.write(lambda i=i: [{"i": i}])
    log.write(lambda: [{"i": 4}] * 10, 10)  # those of a batch count each
    slow.free.set()
    log.close()

    assert (read(path), lost) == ([{"i": 0}, {"i": 1}, {"i": 2}], [1, 10])


def test_the_bodies_of_requests_that_wait_have_a_bound_together(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES_WAITING", 100)
    lost: list[int] = []
    log, slow = RequestLog(str(path), on_drop=lost.append), Slow()

    log.write(slow, n_bytes=1000)  # one is taken however large it is
    assert slow.busy.wait(PATIENCE_S)
    log.write(lambda: [{"i": 1}], n_bytes=1)
    log.write(lambda: [{"i": 1}] * 2, 2, n_bytes=1)
    slow.free.set()
    log.close()

    assert (read(path), lost) == ([{"i": 0}], [1, 2])


def test_what_is_written_waits_no_longer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES_WAITING", 100)
    lost: list[int] = []
    log = RequestLog(str(path), on_drop=lost.append)
    ends = time.monotonic() + PATIENCE_S
    for i in range(3):
        log.write(lambda i=i: [{"i": i}], n_bytes=100)
        while log._n_bytes_waiting:
            assert time.monotonic() < ends
            time.sleep(0.001)
    log.close()
    assert (read(path), lost) == ([{"i": 0}, {"i": 1}, {"i": 2}], [])


def test_a_log_whose_reader_has_stopped_keeps_nobody_from_leaving(path: Path) -> None:
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = RequestLog(str(path))
    log.write(lambda: [{"i": "x" * 2**20}])
    log.close(timeout_s=0.01)

    os.close(reader)  # ends the writer, which nobody waits for


def test_several_writers_on_one_file_never_mix_their_lines(path: Path) -> None:
    several = [RequestLog(str(path)) for _ in range(4)]
    for i in range(200):
        for n, log in enumerate(several):
            log.write(lambda n=n, i=i: [{"n": n, "i": i, "text": "x" * 50 * (i % 7)}])
    for log in several:
        log.close()

    lines = read(path)
    told = [[line["i"] for line in lines if line["n"] == n] for n in range(4)]
    assert told == [list(range(200))] * 4


def test_a_line_longer_than_a_pipe_takes_is_whole(path: Path) -> None:
    log = RequestLog(str(path))
    log.write(lambda: [{"text": "x" * 100_000}, {"i": 1}])
    log.close()

    assert read(path) == [{"text": "x" * 100_000}, {"i": 1}]


def test_standard_output_is_the_default(capfd: Any) -> None:
    log = RequestLog()
    log.write(lambda: [{"i": 1}])
    log.close()

    assert capfd.readouterr().out == '{"i":1}\n'
    os.fstat(1)  # was left open


def test_off_makes_no_line_and_no_thread() -> None:
    before = set(threading.enumerate())
    log = RequestLog("off")
    log.write(unmakable)

    assert set(threading.enumerate()) - before == set()
    log.close()


def test_after_close_nothing_is_written_and_nothing_fails(path: Path) -> None:
    log = RequestLog(str(path))
    log.close()
    log.write(lambda: [{"i": 1}])
    log.close()

    assert read(path) == []


def test_a_log_that_cannot_be_opened_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidSettings, match=r"Cannot write the log .*: No such file or directory"
    ):
        RequestLog(str(tmp_path / "nowhere" / "log"))
