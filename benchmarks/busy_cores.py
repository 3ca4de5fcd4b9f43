"""One row of HistGradientBoosting on busy cores: `python -m benchmarks.busy_cores`.

OpenMP's threads wait for each other at a barrier, and on busy cores for whichever has none. Prints
the time of one row, quiet and busy, as scikit-learn has it by itself and through the engine.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

import tabserve
from tabserve import loading, repository
from tabserve.parity import columns_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=40, help="single rows of each measurement")
    arguments = parser.parse_args()
    ways = _ways()
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for state, n_busy in (("quiet", 0), ("busy", multiprocessing.cpu_count())):
            with _Busy(n_busy):
                for way, predict in ways.items():
                    # Those of OpenMP alone may take seconds each when the cores are busy.
                    n_rows = 3 if way == "scikit-learn" and n_busy else arguments.rows
                    times.setdefault((way, state), []).append(_seconds(predict, n_rows))
    print("| one row | quiet, ms | busy, ms | busy / quiet |")
    print("|---|---:|---:|---:|")
    for way in ways:
        quiet, busy = (statistics.median(times[way, state]) for state in ("quiet", "busy"))
        ratio = statistics.median(
            b / q for b, q in zip(times[way, "busy"], times[way, "quiet"], strict=True)
        )
        print(f"| {way} | {1000 * quiet:.2f} | {1000 * busy:.2f} | {ratio:.2f} |")


def _ways() -> dict[str, Callable[[], Any]]:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(7000, 8)), columns=[f"x{i}" for i in range(8)])
    target = (frame.sum(axis=1) + random.normal(size=7000)) > 0
    model = HistGradientBoostingClassifier(max_iter=200, random_state=0).fit(frame, target)
    with tempfile.TemporaryDirectory() as folder:
        packed = tabserve.pack(model, folder, name="m", version="1", data=frame, engine="native")
        loaded = loading.load(repository.find(packed))
    row = frame.iloc[:1]
    columns = columns_of(loaded.manifest.signature, row.to_dict("records"))
    return {
        "scikit-learn": lambda: model.predict_proba(row),
        "TabServe's native engine": lambda: loaded.engine.predict(columns),
    }


def _seconds(predict: Callable[[], Any], n_rows: int) -> float:
    predict()
    samples = []
    for _ in range(n_rows):
        began = time.perf_counter()
        predict()
        samples.append(time.perf_counter() - began)
    return statistics.median(samples)


class _Busy:
    """So many processes that do nothing but compute."""

    def __init__(self, n_processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes = [context.Process(target=_spin, daemon=True) for _ in range(n_processes)]

    def __enter__(self) -> None:
        for process in self._processes:
            process.start()
        time.sleep(1.0 if self._processes else 0.0)  # until they have started to compute

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
