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

from benchmarks import wrk
from benchmarks.servers import CHURN_REQUEST, running, tabserve, uvicorn
from benchmarks.timing import in_turns, ratio
from examples.churn import data, train

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
        servers = _start(stack, Path(folder), frame, arguments.engine)
        rows = _rows(frame)
        print(f"| requests | {' | '.join(servers)} | TabServe / plain | TabServe / bare |")
        print("|---|" + "---:|" * (len(servers) + 2))
        script = wrk.script(Path(folder) / "predict.lua", rows)
        for connections in CONNECTIONS:
            _print_rates(
                f"/predict, {connections} connections, requests/s",
                servers,
                arguments.rounds,
                partial(_wrk_rate, connections, arguments.seconds, script),
            )
        batch = json.dumps(rows[:BATCH_ROWS]).encode()
        _print_rates(
            f"/predict/batch of {BATCH_ROWS}, rows/s",
            servers,
            arguments.rounds,
            partial(_batch_rate, batch, arguments.seconds),
        )


def _start(stack: ExitStack, folder: Path, frame: object, engine: str | None) -> Servers:
    artefact = train.train_and_pack(frame, folder / "models", "1.2.3", "benchmark", engine=engine)
    features, target = data.features_and_target(frame)
    model = train.pipeline().fit(features, target)
    joblib.dump(model, folder / "model.joblib")
    plain = uvicorn("benchmarks.plain_app:app")
    answer = '{"churn_probability":0.734,"risk_category":"High"}'
    return {
        "(a) plain FastAPI": stack.enter_context(
            running(plain, "/openapi.json", MODEL=str(folder / "model.joblib"))
        ),
        "(b) bare ASGI": stack.enter_context(
            running(uvicorn("benchmarks.bare_app:app"), "/", ANSWER=answer)
        ),
        "(c) TabServe": stack.enter_context(
            running(tabserve(str(artefact), *CHURN_REQUEST, "--log", str(folder / "log")), "/ready")
        ),
    }


def _rows(frame: object) -> list[dict[str, object]]:
    features, _ = data.features_and_target(frame)
    rows: list[dict[str, object]] = json.loads(features.to_json(orient="records"))
    return [row for row in rows if _adds_up(row)]


def _adds_up(row: dict[str, object]) -> bool:
    """Whether the request class would take it: a benchmark of refusals says nothing."""
    from examples.churn.request import ChurnRequest

    try:
        ChurnRequest.model_validate(row)
    except ValueError:
        return False
    return True


def _wrk_rate(connections: int, seconds: float, script: Path, url: str) -> float:
    return wrk.predict(url, script, connections, seconds).requests_per_s


def _batch_rate(body: bytes, seconds: float, url: str) -> float:
    """Rows a second, one batch after the other; at least one batch."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
    headers = {"Content-Type": "application/json"}
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


def _print_rates(
    title: str, servers: Servers, rounds: int, measure: Callable[[str], float]
) -> None:
    figures = in_turns({name: partial(measure, url) for name, url in servers.items()}, rounds)
    plain, bare, ours = figures.values()
    medians = " | ".join(f"{statistics.median(values):,.0f}" for values in figures.values())
    print(
        f"| {title} | {medians} | {ratio(ours, plain):.2f} | {ratio(ours, bare):.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
