"""TabServe against the plain FastAPI app and a bare ASGI app: `python -m benchmarks.http`.

Needs wrk (Debian: apt-get install wrk). Prints a Markdown table: the median of several rounds, in
which the servers take turns, so that a machine that slows down slows all of them.
"""

import argparse
import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import joblib

from benchmarks import churn, tables, wrk
from benchmarks.servers import CHURN_REQUEST, running, tabserve, uvicorn
from benchmarks.timing import in_turns, ratio
from examples.churn import data, train
from tabserve.auth import add_key

CONNECTIONS = (1, 16, 64)
BATCH_ROWS = 1000

Servers = dict[str, str]  # name -> address


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the Telco file; generated data without it")
    parser.add_argument(
        "--engine", choices=["native"], help="of TabServe; the fastest that is equal without it"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each single measurement")
    arguments = parser.parse_args()
    if not wrk.is_installed():
        raise SystemExit("wrk is not installed: apt-get install wrk")
    frame = data.load(arguments.data) if arguments.data else data.generate()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        key = add_key(Path(folder) / "keys", "benchmark")
        servers = _start(stack, Path(folder), frame, arguments.engine)
        rows = churn.rows(frame)
        print(f"| requests | {' | '.join(servers)} | (c) / (a) | (c) / (b) | (d) / (b) |")
        print("|---|" + "---:|" * (len(servers) + 3))
        script = wrk.script(Path(folder) / "predict.lua", rows, key)
        _print_figures(
            "/predict, 1 connection, median, ms",
            servers,
            arguments.rounds,
            partial(_wrk_median_ms, arguments.seconds, script),
        )
        for connections in CONNECTIONS:
            _print_figures(
                f"/predict, {connections} connection{'s' * (connections > 1)}, requests/s",
                servers,
                arguments.rounds,
                partial(_wrk_rate, connections, arguments.seconds, script),
            )
        batch = json.dumps(rows[:BATCH_ROWS]).encode()
        _print_figures(
            f"/predict/batch of {BATCH_ROWS}, rows/s",
            servers,
            arguments.rounds,
            partial(_batch_rate, batch, key, arguments.seconds),
        )


def _start(stack: ExitStack, folder: Path, frame: object, engine: str | None) -> Servers:
    artefact = train.train_and_pack(frame, folder / "models", "1.2.3", "benchmark", engine=engine)
    features, target = data.features_and_target(frame)
    model = train.pipeline().fit(features, target)
    joblib.dump(model, folder / "model.joblib")
    plain = uvicorn("benchmarks.plain_app:app")
    served, keys = [str(artefact), *CHURN_REQUEST], ["--keys", str(folder / "keys")]
    answer = '{"churn_probability":0.734,"risk_category":"High"}'
    return {
        "(a) plain FastAPI": stack.enter_context(
            running(plain, "/openapi.json", MODEL=str(folder / "model.joblib"))
        ),
        "(b) bare ASGI": stack.enter_context(
            running(uvicorn("benchmarks.bare_app:app"), "/", ANSWER=answer)
        ),
        "(c) TabServe": stack.enter_context(
            running(tabserve(*served, "--log", str(folder / "log"), *keys), "/ready")
        ),
        "(d) without keys and log": stack.enter_context(
            running(tabserve(*served, "--log", "off"), "/ready")
        ),
    }


def _wrk_rate(connections: int, seconds: float, script: Path, url: str) -> float:
    return wrk.predict(url, script, connections, seconds).requests_per_s


def _wrk_median_ms(seconds: float, script: Path, url: str) -> float:
    return wrk.predict(url, script, 1, seconds).median_ms


def _batch_rate(body: bytes, key: str, seconds: float, url: str) -> float:
    """Rows a second, one batch after the other; at least one batch."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    n_batches, began = 0, time.perf_counter()
    while not n_batches or time.perf_counter() - began < seconds:
        connection.request("POST", "/predict/batch", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        n_batches += 1
    elapsed = time.perf_counter() - began
    connection.close()
    return n_batches * BATCH_ROWS / elapsed


def _print_figures(
    title: str, servers: Servers, rounds: int, measure: Callable[[str], float]
) -> None:
    figures = in_turns({name: partial(measure, url) for name, url in servers.items()}, rounds)
    plain, bare, ours, quiet = figures.values()
    medians = [tables.figure(statistics.median(values)) for values in figures.values()]
    ratios = [ratio(ours, plain), ratio(ours, bare), ratio(quiet, bare)]
    print(f"| {title} | {' | '.join([*medians, *map(tables.figure, ratios)])} |", flush=True)


if __name__ == "__main__":
    main()
