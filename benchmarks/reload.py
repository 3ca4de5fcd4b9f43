"""What versions and their change cost: `python -m benchmarks.reload`.

The churn example is switched to and fro while connections ask: latencies while a version is being
loaded beside those of the second before, and what 50 reloads leave in memory. Then what a shadow of
it costs (needs wrk; Debian: apt-get install wrk), and 50 small models in one process.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeRegressor

import tabserve
from benchmarks import servers, swaps, wrk
from benchmarks.memory import memory
from benchmarks.tables import figure, show
from benchmarks.timing import in_turns, ratio
from examples.churn import data, train
from tabserve import releases, repository
from tabserve.artifact import MANIFEST, SEAL, seal

CONNECTIONS = 16
_QUIET_S = 1.2  # before each load
_PATIENCE_S = 120.0

Lines = list[list[str]]  # what, measured, aim


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=20, help="under load")
    parser.add_argument("--reloads", type=int, default=50, help="whose memory is looked at")
    parser.add_argument("--models", type=int, default=50, help="in one process")
    parser.add_argument("--rounds", type=int, default=5, help="with a shadow and without")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        train.train_and_pack(data.generate(), folder / "models", "1.0.0", "generated")
        name = folder / "models" / "churn"
        another(name / "1.0.0", "2.0.0")
        releases.make_live(name, "1.0.0")
        row = repository.find(name).golden().rows[0]
        lines = _switches(folder, row, arguments.loads, arguments.reloads)
        if wrk.is_installed() and arguments.rounds:
            lines += _shadow(folder, row, arguments.rounds, arguments.seconds)
        lines += _many(folder, arguments.models)
    show(["versions", "measured", "aim"], lines)


class Server:
    """`tabserve serve` of a folder, in one process. pid, url, admin: once it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path.parent / "stderr"

    @contextmanager
    def running(self, *flags: str) -> Iterator["Server"]:
        port, admin = servers.free_port(), servers.free_port()
        words = servers.tabserve(str(self.path), "--admin-port", str(admin), "--log", "off", *flags)
        self.url, self.admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"
        began = time.perf_counter()
        with (
            self.log.open("wb") as log,
            servers.started(words, port, stderr=log) as process,
        ):
            self.pid = process.pid
            _until(self.is_ready)
            self.ready_s = time.perf_counter() - began
            yield self

    def is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/ready", timeout=5).close()
        except OSError:
            return False
        return True

    def do(self, action: str, method: str = "POST", **body: str) -> None:
        request = urllib.request.Request(
            f"{self.admin}/models/churn/{action}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        urllib.request.urlopen(request, timeout=_PATIENCE_S).close()


def _switches(folder: Path, row: dict[str, object], loads: int, reloads: int) -> Lines:
    body = json.dumps(row).encode()
    with Server(folder / "models").running() as server:
        with swaps.Clients(f"{server.url}/predict", body, CONNECTIONS) as clients:
            for i in range(loads):
                time.sleep(_QUIET_S)
                server.do("promote", version=f"{2 - i % 2}.0.0")
        found = swaps.loads(server.log)
        resident = []
        for i in range(reloads):
            server.do("promote", version=f"{2 - i % 2}.0.0")
            resident.append(memory(server.pid).rss)
    before, during = swaps.medians_ms(clients.samples, found)
    failed = sum(status != 200 for _, _, status in clients.samples)
    return [
        ["median latency before, ms", figure(statistics.median(before)), ""],
        ["while a version is loaded, ms", figure(statistics.median(during)), ""],
        ["  ratio", figure(ratio(during, before)), "1.5"],
        [f"requests that failed of {len(clients.samples):,}", str(failed), "0"],
        ["memory after the first reload, MiB", figure(resident[0]), ""],
        [f"  after {reloads}, more by MiB", figure(resident[-1] - resident[0]), "20"],
    ]


def _shadow(folder: Path, row: dict[str, object], rounds: int, seconds: float) -> Lines:
    script = wrk.script(folder / "predict.lua", [row])
    with Server(folder / "models").running() as server:

        def per_s(prepare: Callable[[], None]) -> float:
            prepare()
            return wrk.predict(server.url, script, CONNECTIONS, seconds).requests_per_s

        releases.make_live(folder / "models" / "churn", "1.0.0")
        server.do("reload")
        begin = partial(server.do, "rollout", shadow="2.0.0")

        def end() -> None:
            server.do("rollout", "DELETE")

        begin()
        rates = in_turns({"alone": partial(per_s, end), "shadow": partial(per_s, begin)}, rounds)
    return [
        ["requests/s without a shadow", figure(statistics.median(rates["alone"])), ""],
        ["requests/s with a shadow", figure(statistics.median(rates["shadow"])), ""],
        ["  ratio", figure(ratio(rates["shadow"], rates["alone"])), "0.8"],
    ]


def _many(folder: Path, n_models: int) -> Lines:
    rows = pd.DataFrame({"x": np.arange(8.0)})
    model = DecisionTreeRegressor(random_state=0).fit(rows, rows["x"])
    first = tabserve.pack(model, folder / "many", name="m0", version="1.0.0", data=rows)
    for i in range(1, n_models):
        another(first, "1.0.0", name=f"m{i}")
    with Server(folder / "many").running() as server:
        return [
            [f"start to ready of {n_models} small models, s", figure(server.ready_s), "5"],
            ["  memory, RSS, MiB", figure(memory(server.pid).rss), "300"],
        ]


def another(source: Path, version: str, name: str | None = None) -> None:
    """The same model as another version, or under another name."""
    manifest = json.loads((source / MANIFEST).read_bytes())
    manifest |= {"version": version, "name": name or manifest["name"]}
    made = source.parents[1] / manifest["name"] / version
    shutil.copytree(source, made)
    content = json.dumps(manifest).encode()
    (made / MANIFEST).write_bytes(content)
    (made / SEAL).write_bytes(seal(content))


def _until(happened: Callable[[], bool]) -> None:
    ends = time.monotonic() + _PATIENCE_S
    while not happened():
        if time.monotonic() > ends:
            raise SystemExit("The server does not answer.")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
