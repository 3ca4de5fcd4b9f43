"""What grows under half an hour of mixed traffic and reloads: `python -m benchmarks.soak`.

The churn example, under `tabserve serve` with keys, limits, metrics and a log, is asked by clients
that send right and wrong requests in turn, on new connections again and again, while one version
takes the place of the other. Memory (Linux) is what all its processes hold together.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import orjson
from rich.console import Console
from rich.progress import Progress

from benchmarks.memory import memory, tree
from benchmarks.reload import Server, another
from benchmarks.tables import figure, show
from examples.churn import data, train
from tabserve import repository
from tabserve.auth import add_key

_PATIENCE_S = 60.0
# Each asks one request after the other.
_CLIENTS = 4
_PAUSE_S = 0.002  # between two requests of a client: this is no load test


class Sample(NamedTuple):
    """Of all processes of the server together."""

    at_s: float
    held_mib: float
    files: int
    threads: int


@dataclass
class Report:
    """answers: how often each kind of request was answered with each status."""

    samples: list[Sample] = field(default_factory=list)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    reloads: int = 0

    @property
    def halves(self) -> tuple[list[Sample], list[Sample]]:
        middle = len(self.samples) // 2
        return self.samples[:middle], self.samples[middle:]

    @property
    def growth_mib_per_minute(self) -> float:
        """In the second half: the slope of the line through it."""
        _, second = self.halves
        minutes = [sample.at_s / 60 for sample in second]
        return float(np.polyfit(minutes, [sample.held_mib for sample in second], 1)[0])


def median(name: str, samples: list[Sample]) -> float:
    """Of one of the figures."""
    return statistics.median(getattr(sample, name) for sample in samples)


class Kind(NamedTuple):
    """A request, and the status that it must be answered with."""

    method: str
    path: str
    body: bytes
    status: int
    with_key: bool = True


def kinds(rows: list[dict[str, Any]]) -> dict[str, Kind]:
    record, several = orjson.dumps(rows[0]), orjson.dumps(rows[:50])
    columns = orjson.dumps({"columns": {name: [row[name] for row in rows] for name in rows[0]}})
    wrong = orjson.dumps(rows[0] | {next(iter(rows[0])): "no number"})
    return {
        "a record": Kind("POST", "/predict", record, 200),
        "records": Kind("POST", "/predict/batch", several, 200),
        "columns": Kind("POST", "/predict/batch", columns, 200),
        "a wrong record": Kind("POST", "/predict", wrong, 422),
        "no JSON": Kind("POST", "/predict", b'{"a":', 422),
        "too large a body": Kind("POST", "/predict", b" " * (4 * 2**20 + 1), 413),
        "without a key": Kind("POST", "/predict", record, 401, with_key=False),
        "an unknown path": Kind("GET", "/nowhere", b"", 404),
        "a wrong method": Kind("DELETE", "/predict", b"", 405),
        "metrics": Kind("GET", "/metrics", b"", 200),
        "metadata": Kind("GET", "/metadata", b"", 200),
        "the page": Kind("GET", "/docs", b"", 200),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as shown:
        task = shown.add_task("Soaking", total=seconds)
        report = soak(
            Path(folder),
            seconds,
            arguments.workers,
            on_sample=lambda sample: shown.update(task, completed=sample.at_s),
        )
    first, second = report.halves
    lines = [
        [f"requests, of {len(report.answers)} kinds", f"{report.answers.total():,}", ""],
        ["reloads", f"{report.reloads:,}", ""],
        ["memory in the middle, MiB", figure(second[0].held_mib), ""],
        ["memory at the end, MiB", figure(second[-1].held_mib), ""],
        ["growth in the second half, MiB a minute", f"{report.growth_mib_per_minute:.3f}", "1"],
    ]
    for name in ("files", "threads"):
        usual = [figure(median(name, half)) for half in (first, second)]
        lines.append([f"{name} in each half, median", ", ".join(usual), "equal"])
    show(["soak", "measured", "at most"], lines)


def soak(
    folder: Path,
    seconds: float,
    workers: int,
    *,
    reload_every_s: float = 5.0,
    sample_every_s: float = 0.5,
    on_sample: Callable[[Sample], None] = lambda sample: None,
) -> Report:
    """Raises AssertionError with the kind of request whose answer is not as it must be."""
    train.train_and_pack(data.generate(1000), folder / "models", "1.0.0", "generated")
    name = folder / "models" / "churn"
    another(name / "1.0.0", "2.0.0")
    asked = kinds(repository.find(name).golden().rows)
    key = add_key(folder / "keys", "soak", "admin")
    report = Report()
    flags = ["--workers", str(workers), "--supervise", "--keys", str(folder / "keys")]
    flags += ["--log", str(folder / "log"), "--rate-limit", "100000000/minute"]
    with (
        Server(folder / "models").running(*flags) as server,
        ThreadPoolExecutor(_CLIENTS + 1) as pool,
    ):
        done = threading.Event()
        clients = [pool.submit(_ask, server.url, key, asked, i, done) for i in range(_CLIENTS)]
        operator = pool.submit(_reload, server.admin, key, reload_every_s, done)
        try:
            began = time.monotonic()
            while (now := time.monotonic() - began) < seconds:
                sample = _sample(server.pid, now)
                report.samples.append(sample)
                on_sample(sample)
                if any(future.done() for future in (*clients, operator)):
                    break  # one of them failed
                done.wait(sample_every_s)
        finally:
            done.set()
        for client in clients:
            report.answers += client.result(_PATIENCE_S)
        report.reloads = operator.result(_PATIENCE_S)
    return report


def _ask(
    url: str, key: str, asked: dict[str, Kind], place: int, done: threading.Event
) -> Counter[tuple[str, int]]:
    """Each kind in turn until it is done; clients begin at different ones."""
    answers: Counter[tuple[str, int]] = Counter()
    turns = itertools.islice(itertools.cycle(asked.items()), 3 * place, None)
    headers = {"Content-Type": "application/json"}
    while not done.is_set():
        # A new connection for each round of kinds.
        with httpx.Client(base_url=url, trust_env=False, timeout=_PATIENCE_S) as client:
            for name, kind in itertools.islice(turns, len(asked)):
                own = {"X-API-Key": key} if kind.with_key else {}
                answer = client.request(
                    kind.method, kind.path, content=kind.body, headers=headers | own
                )
                assert answer.status_code == kind.status, (name, answer.status_code, answer.text)
                answers[name, answer.status_code] += 1
                done.wait(_PAUSE_S)
    return answers


def _reload(admin: str, key: str, every_s: float, done: threading.Event) -> int:
    n_reloads = 0
    with httpx.Client(base_url=admin, trust_env=False, timeout=_PATIENCE_S) as client:
        while not done.wait(every_s):
            answer = client.post(
                "/models/churn/promote",
                json={"version": f"{2 - n_reloads % 2}.0.0"},
                headers={"X-API-Key": key},
            )
            answer.raise_for_status()
            n_reloads += 1
    return n_reloads


def _sample(pid: int, at_s: float) -> Sample:
    held, files, threads = 0.0, 0, 0
    for each in tree(pid):
        held += memory(each).held
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            files += len(os.listdir(f"/proc/{each}/fd"))  # noqa: PTH208 - of as many it needs no Paths
            threads += len(os.listdir(f"/proc/{each}/task"))  # noqa: PTH208
    return Sample(at_s, held, files, threads)


if __name__ == "__main__":
    main()
