"""Batches over HTTP against the library in the process: `python -m benchmarks.batches`.

The churn example, 1,000 rows at once. The library takes a DataFrame that is there already, and
gives its probabilities; TabServe takes the bytes of a request and gives those of the answer, the
whole round trip. With the request class of the example, whose validator is Python, rows are read
one by one; without it the class is made from the signature. Median of the rounds' ratios.
"""

import argparse
import http.client
import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from benchmarks import churn, tables
from benchmarks.servers import CHURN_REQUEST, running, tabserve
from benchmarks.timing import call_s, in_turns, ratio
from examples.churn import data, train
from tabserve.auth import add_key

ROWS = 1000
_LIBRARY = "pipeline.predict_proba"
# Columns are for classes without validators of Python, which want records.
_BOUNDS = {"records": ("0.65", "0.45"), "columns": ("0.5", "0.38")}
_ROW_BY_ROW = "columns, request class"

Measures = dict[str, Callable[[], float]]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the Telco file; generated data without it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each single measurement")
    arguments = parser.parse_args(words)
    customers = data.load(arguments.data) if arguments.data else data.generate()
    features, target = data.features_and_target(customers)
    pipeline = train.pipeline().fit(features, target)
    rows = churn.rows(customers)[:ROWS]
    frame = pd.DataFrame(rows, columns=features.columns)
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        packed = train.train_and_pack(customers, Path(made), "1", "benchmark")
        measures: Measures = {
            _LIBRARY: lambda: call_s(pipeline.predict_proba, [frame], arguments.seconds)
        }
        key = add_key(Path(made) / "keys", "benchmark")
        log = ("--log", str(Path(made) / "log"), "--keys", str(Path(made) / "keys"))
        for what, options in {
            "": ("--log", "off"),
            ", keys and log": log,
            ", request class with a validator": (*CHURN_REQUEST, "--log", "off"),
            ", request class with a validator, keys and log": (*CHURN_REQUEST, *log),
        }.items():
            url = stack.enter_context(running(tabserve(str(packed), *options), "/ready"))
            for form, body in _bodies(rows).items():
                post = _Client(url, key)
                stack.callback(post.close)
                measures[f"{form}{what}"] = _measured(post, body, arguments.seconds)
        found = in_turns(measures, arguments.rounds)
    _show(found)


def _measured(post: "_Client", body: bytes, seconds: float) -> Callable[[], float]:
    return lambda: call_s(post, [body], seconds)


def _bodies(rows: list[dict[str, Any]]) -> dict[str, bytes]:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        "records": json.dumps(rows).encode(),
        "columns": json.dumps({"columns": columns}).encode(),
    }


class _Client:
    """One connection, one request after the other."""

    def __init__(self, url: str, key: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
        self._headers = {"Content-Type": "application/json", "X-API-Key": key}
        self.close = self._connection.close

    def __call__(self, body: bytes) -> None:
        self._connection.request("POST", "/predict/batch", body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content


def _show(found: dict[str, list[float]]) -> None:
    lines = []
    for name, times in found.items():
        form = "" if name.startswith(_ROW_BY_ROW) else name.partition(",")[0]
        bounds = _BOUNDS.get(form, ("", ""))
        told = "" if name == _LIBRARY else tables.figure(ratio(times, found[_LIBRARY]))
        lines.append([name, tables.figure(1000 * statistics.median(times)), told, *bounds])
    tables.show([f"{ROWS:,} rows", "ms", "of the library's", "at most", "aim"], lines)


if __name__ == "__main__":
    main()
