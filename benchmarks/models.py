"""Models of the Telco customers against their own libraries: `python -m benchmarks.models`.

In the process, the library's `predict_proba` takes a DataFrame that is there already, and the
engine what a decoded request holds: a list of Python values for each feature. Both have one thread
and give the probability of one class. Every call has another row. Over HTTP, which needs wrk
(Debian: apt-get install wrk), each request has another row, and the bare ASGI app answers a
constant.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

import tabserve
from benchmarks import telco, wrk
from benchmarks.servers import running, uvicorn
from benchmarks.servers import tabserve as serve
from benchmarks.tables import figure, show
from benchmarks.telco import Fitted
from benchmarks.timing import call_s, in_turns, ratio
from examples.churn import data
from tabserve import loading, repository
from tabserve.cpus import usable_cpus

BATCH_ROWS = 1000
SINGLE_ROWS = 200
# For the churn example: how many times as fast at least, and what is wished for.
FLOORS = {1: (300, 600), BATCH_ROWS: (1.8, 3)}
ANSWER = '{"churn_probability":0.734}'

Row = dict[str, Any]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the Telco file; generated data without it")
    parser.add_argument("--models", nargs="+", choices=telco.MODELS, default=list(telco.MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each single measurement")
    parser.add_argument(
        "--http", action=argparse.BooleanOptionalAction, default=wrk.is_installed(),
        help="measure over HTTP too; without wrk it is left out",
    )  # fmt: skip
    arguments = parser.parse_args(words)
    customers = data.load(arguments.data) if arguments.data else data.generate()
    in_process, over_http = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            fitted = telco.MODELS[name](customers)
            artefact = _packed(fitted, Path(folder))
            in_process.append([name, *_in_process(fitted, artefact, arguments)])
            if arguments.http:
                over_http.append([name, *_over_http(fitted, artefact, arguments)])
    show(["in the process", "engine", "class", *_columns(1, "µs"), *_columns(BATCH_ROWS, "ms")],
         in_process)  # fmt: skip
    for n_rows, (floor, aim) in FLOORS.items():
        rows = "1 row" if n_rows == 1 else f"{n_rows} rows"
        print(f"{telco.EXAMPLE}, {rows}: at least {floor} times as fast, aim {aim}.")
    print()
    if over_http:
        show(["/predict", "p50, ms", "bare, ms", "TabServe / bare",
              "16 connections, requests/s", "bare, requests/s", "TabServe / bare"],
             over_http)  # fmt: skip


def _columns(n_rows: int, unit: str) -> list[str]:
    rows = "1 row" if n_rows == 1 else f"{n_rows} rows"
    return [f"{rows}, library, {unit}", f"TabServe, {unit}", "times as fast"]


def _packed(fitted: Fitted, folder: Path) -> Path:
    return tabserve.pack(
        fitted.model,
        folder,
        name="benchmark",
        version="1",
        data=fitted.features,
        target=fitted.target,
        output=tabserve.Output(name="churn_probability", positive=fitted.positive),
        replace=True,
    )


def _in_process(fitted: Fitted, artefact: Path, arguments: argparse.Namespace) -> list[str]:
    loaded = loading.load(repository.find(artefact), workers=usable_cpus())
    cells = [loaded.manifest.engine, loaded.manifest.parity.exactness]
    for n_rows, unit in ((1, 1e6), (BATCH_ROWS, 1e3)):
        frames = _frames(fitted.features, n_rows)
        ways: dict[str, Callable[[], float]] = {
            "library": partial(call_s, fitted.model.predict_proba, frames, arguments.seconds),
            "ours": partial(
                call_s, loaded.engine.predict, list(map(_values, frames)), arguments.seconds
            ),
        }
        with threadpool_limits(1):  # OpenMP's threads wait for each other on busy cores
            found = in_turns(ways, arguments.rounds)
        medians = [figure(unit * statistics.median(times)) for times in found.values()]
        cells += [*medians, figure(ratio(found["library"], found["ours"]))]
    return cells


def _frames(features: pd.DataFrame, n_rows: int) -> list[pd.DataFrame]:
    starts = range(0, min(SINGLE_ROWS * n_rows, len(features) - n_rows + 1), n_rows)
    return [features.iloc[start : start + n_rows] for start in starts]


def _values(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """As a request is decoded."""
    rows = _rows(frame)
    return {name: [row[name] for row in rows] for name in frame}


def _rows(frame: pd.DataFrame) -> list[Row]:
    rows: list[Row] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


def _over_http(fitted: Fitted, artefact: Path, arguments: argparse.Namespace) -> list[str]:
    folder = artefact.parent
    script = wrk.script(folder / "predict.lua", _rows(fitted.features.iloc[:SINGLE_ROWS]))
    ours = serve(str(artefact), "--log", str(folder / "log"))
    bare = uvicorn("benchmarks.bare_app:app")
    with running(ours, "/ready") as our_url, running(bare, "/", ANSWER=ANSWER) as bare_url:
        measures = {
            (name, connections): partial(wrk.predict, url, script, connections, arguments.seconds)
            for connections in (1, 16)
            for name, url in (("ours", our_url), ("bare", bare_url))
        }
        found = in_turns(measures, arguments.rounds)
    median_ms = {name: [a.median_ms for a in found[name, 1]] for name in ("ours", "bare")}
    rates = {name: [a.requests_per_s for a in found[name, 16]] for name in ("ours", "bare")}
    return [
        figure(value)
        for both in (median_ms, rates)
        for value in (*map(statistics.median, both.values()), ratio(both["ours"], both["bare"]))
    ]


if __name__ == "__main__":
    main()
