import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from tabserve.errors import InvalidSettings
from tabserve.limits import RateLimiter
from tabserve.metrics import Metrics
from tabserve.settings import Rate
from tabserve.shared_metrics import _KINDS, METRICS_FOLDER_VARIABLE, SharedMetrics, counted_in

PATIENCE_S = 60


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by name and labels, without the buckets and the times of making."""
    body, _ = metrics.exposition("")
    return {
        sample.name + ("" if not sample.labels else str(sample.labels)): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


def test_every_metric_is_told_with_its_value() -> None:
    metrics = Metrics()
    metrics.predictions.labels("churn", "1.2.3").inc(7)
    metrics.errors.labels("not_found").inc()
    metrics.latency.labels("/predict").observe(0.25)
    metrics.batch_rows.observe(7)
    metrics.queue_depth.set(3)
    metrics.in_flight.inc(2)
    metrics.log_dropped.inc(4)

    assert samples(metrics) == {
        "tabserve_predictions_total{'model': 'churn', 'version': '1.2.3'}": 7,
        "tabserve_errors_total{'code': 'not_found'}": 1,
        "tabserve_request_duration_seconds_count{'route': '/predict'}": 1,
        "tabserve_request_duration_seconds_sum{'route': '/predict'}": 0.25,
        "tabserve_batch_rows_count": 1,
        "tabserve_batch_rows_sum": 7,
        "tabserve_queue_depth": 3,
        "tabserve_in_flight": 2,
        "tabserve_log_lines_dropped_total": 4,
        "tabserve_rate_limit_store_away": 0,
    }


def test_the_summary_is_of_all_versions_all_codes_and_the_predictions_latency() -> None:
    metrics = Metrics()
    for version in ("1", "2"):
        metrics.predictions.labels("churn", version).inc(2)
    for code in ("not_found", "internal", "internal"):
        metrics.errors.labels(code).inc()
    for route, seconds in (("/predict", 0.1), ("/predict/batch", 0.3), ("/docs", 9.0)):
        metrics.latency.labels(route).observe(seconds)

    assert metrics.summary() == {
        "predictions_total": 4.0,
        "errors_total": 3.0,
        "latency_avg_ms": pytest.approx(200.0),
    }


def test_before_the_first_request_there_is_no_average() -> None:
    assert Metrics().summary() == {
        "predictions_total": 0.0,
        "errors_total": 0.0,
        "latency_avg_ms": None,
    }


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
)
def test_the_scraper_gets_the_format_that_it_asks_for(accept: str, content_type: str) -> None:
    body, told = Metrics().exposition(accept)

    assert told.split("; escaping")[0] == content_type
    assert body.endswith(b"# EOF\n") == ("openmetrics" in accept)


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.batch_rows.observe(1)

    assert samples(other)["tabserve_batch_rows_count"] == 0


_WORKER = """
import os, sys
from tabserve.metrics import Metrics
metrics = Metrics()
metrics.predictions.labels("churn", "1").inc(int(sys.argv[1]))
metrics.errors.labels("internal").inc()
metrics.latency.labels("/predict").observe(float(sys.argv[1]))
metrics.in_flight.inc()
metrics.queue_depth.set(int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""
_READER = """
import json
from tabserve.metrics import Metrics
metrics = Metrics()
print(json.dumps([metrics.summary(), metrics.exposition("")[0].decode()]))
"""


def _worker(folder: Path, n: int) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(n)],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def _read(folder: Path) -> tuple[dict[str, Any], str]:
    output = subprocess.check_output(
        [sys.executable, "-c", _READER],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        timeout=PATIENCE_S,
    )
    summary, text = json.loads(output)
    return summary, text


def test_any_worker_tells_the_sum_of_all_and_forgets_the_gauges_of_the_dead(tmp_path: Path) -> None:
    workers = [_worker(tmp_path, n) for n in (2, 3)]
    (tmp_path / "counter_1.db").touch()  # which another one is about to fill
    total = {"predictions_total": 5.0, "errors_total": 2.0, "latency_avg_ms": 2500.0}

    summary, text = _read(tmp_path)
    assert summary == total
    assert "tabserve_in_flight 2.0\n" in text
    assert "tabserve_queue_depth 5.0\n" in text

    workers[0].kill()
    workers[0].communicate(timeout=PATIENCE_S)
    summary, text = _read(tmp_path)
    assert summary == total
    assert "tabserve_in_flight 1.0\n" in text
    assert "tabserve_queue_depth 3.0\n" in text
    workers[1].communicate(timeout=PATIENCE_S)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedMetrics]:
    made = SharedMetrics(tmp_path)
    yield made
    for file in made._past.values():  # which the server keeps as long as it runs
        file.close()


def test_what_dead_workers_have_counted_stays_and_their_files_do_not(
    shared: SharedMetrics, tmp_path: Path
) -> None:
    total = 0
    for n in (2, 3, 4):
        worker = _worker(tmp_path, n)
        worker.communicate(timeout=PATIENCE_S)
        shared.fold(worker.pid)
        total += n

        summary, text = _read(tmp_path)
        assert summary["predictions_total"] == total
        assert f'duration_seconds_sum{{route="/predict"}} {total}.0' in text
        assert "tabserve_in_flight 0.0" in text or "tabserve_in_flight" not in text
        for reader in {file.stem.rpartition("_")[2] for file in tmp_path.glob("*.db")} - {"0"}:
            shared.fold(int(reader))
        kinds = {file.stem.rpartition("_")[0] for file in tmp_path.glob("*.db")}
        assert len(list(tmp_path.glob("*.db"))) == len(kinds)
        assert all(file.stem.endswith("_0") for file in tmp_path.glob("*.db"))


def test_the_largest_value_of_dead_workers_stays_the_largest(
    shared: SharedMetrics, tmp_path: Path
) -> None:
    for pid, value in ((11, 3.0), (12, 7.0), (13, 5.0)):
        made = MmapedDict(str(tmp_path / f"gauge_max_{pid}.db"))
        made.write_value(json.dumps(["g", "g", {}, "help"]), value, 0.0)
        made.close()
        shared.fold(pid)

    (family,) = shared.collect()
    assert [sample.value for sample in family.samples] == [7.0]


def test_nobody_waits_for_one_who_reads_and_hangs(shared: SharedMetrics, tmp_path: Path) -> None:
    made = MmapedDict(str(tmp_path / "counter_11.db"))
    made.write_value(json.dumps(["c", "c", {}, "help"]), 2.0, 0.0)
    made.close()

    with shared._locked(fcntl.LOCK_SH):
        shared.fold(11)

    (family,) = shared.collect()
    assert [sample.value for sample in family.samples] == [2.0]
    shared.fold(11)
    assert not (tmp_path / "counter_11.db").exists()


def test_what_was_counted_outlives_the_files_that_somebody_deletes(
    shared: SharedMetrics, tmp_path: Path
) -> None:
    own = MmapedDict(str(tmp_path / "counter_11.db"))
    key = json.dumps(["c", "c", {}, "help"])
    own.write_value(key, 2.0, 0.0)
    (tmp_path / "counter_12.db").write_bytes((tmp_path / "counter_11.db").read_bytes())
    shared.fold(12)

    for file in tmp_path.iterdir():
        file.unlink()
    shared.keep([own])

    own.write_value(key, 3.0, 0.0)
    (family,) = shared.collect()
    assert [sample.value for sample in family.samples] == [5.0]
    own.close()


def _reserved(file: Path) -> int:
    """Bytes of it for which there is space on the disk."""
    return 512 * file.stat().st_blocks


def test_all_that_is_counted_has_its_space_before(shared: SharedMetrics, tmp_path: Path) -> None:
    """On a disk that is full by then it would end the process."""
    with counted_in(tmp_path):
        metrics = Metrics()
        metrics.rollout.largest_difference.labels("churn", "1", "2").set(1.0)
        metrics.keep()
    files = [*tmp_path.glob("*.db")]
    assert {file.stem.rpartition("_")[0] for file in files} == set(_KINDS)
    assert all(_reserved(file) >= file.stat().st_size > 0 for file in files)

    own = MmapedDict(str(files[0]))
    for i in range(500):  # to more than its half
        own.write_value(json.dumps(["c", f"c_{i}", {}, "help" * 20]), 1.0, 0.0)
    shared.keep([own])
    assert _reserved(files[0]) >= 2 * own._capacity
    own.close()


def test_a_disk_that_is_full_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    told = r"^Cannot count in .*: No space left on device\.$"
    with counted_in(tmp_path), pytest.raises(InvalidSettings, match=told):
        Metrics()
    with pytest.raises(InvalidSettings, match=told):
        RateLimiter(Rate(1, 1), tmp_path / "limits")


def test_nothing_is_told_where_the_folder_is_gone(tmp_path: Path) -> None:
    assert list(SharedMetrics(tmp_path / "gone").collect()) == []


def test_a_folder_that_is_gone_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after somebody has cleaned /tmp."""
    monkeypatch.setenv(METRICS_FOLDER_VARIABLE, str(tmp_path / "gone"))
    Metrics().fold(1)
    assert "What worker 1 has counted is lost: No such file" in caplog.text


def test_metrics_count_in_a_folders_files_while_that_is_said_and_not_afterwards(
    tmp_path: Path,
) -> None:
    """As where `serve --workers 2` is refused in a process that goes on."""
    with counted_in(tmp_path):
        Metrics().errors.labels("internal").inc()
    written = {file.name for file in tmp_path.glob("*.db")}
    metrics = Metrics()
    metrics.rollout.largest_difference.labels("churn", "1", "2").set(1.0)

    assert f"counter_{os.getpid()}.db" in written
    assert {file.name for file in tmp_path.glob("*.db")} == written
    assert METRICS_FOLDER_VARIABLE not in os.environ
