"""Offline scoring against the fitted pipeline over pandas chunks: `python -m benchmarks.score`.

Both read the same Parquet file and write their answers, in processes of their own, one after the
other; the file is written in chunks too, so that no step holds all rows.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import pyarrow as pa
import pyarrow.parquet as pq

import tabserve
from benchmarks import tables
from benchmarks.memory import memory, tree
from examples.churn import data, train

# Rows to a row group, and of which there are different ones: making them takes longer than scoring.
_GENERATED_ROWS = 250_000
_DIFFERENT_GROUPS = 4
_LOOK_EVERY_S = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--pandas-chunk", type=int, default=100_000, help="rows")
    parser.add_argument("--processes", type=int, help="of tabserve score")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    names = "in.parquet", "model", "expected.parquet", "out.parquet"
    source, model, expected, out = (folder / name for name in names)
    generate(source, arguments.rows)
    features, target = data.features_and_target(data.generate())
    fitted = train.pipeline().fit(features, target)
    joblib.dump(fitted, model)
    tabserve.pack(
        fitted,
        folder / "models",
        name="churn",
        version="1.0.0",
        data=features,
        target=target,
        output={"name": "churn_probability", "positive": "Yes"},
    )

    pandas = [sys.executable, "-m", "benchmarks.score_pandas", str(model), str(source)]
    pandas += [str(expected), str(arguments.pandas_chunk)]
    score = [sys.executable, "-m", "tabserve", "score", str(folder / "models"), str(source)]
    score += [str(out)]
    if arguments.processes:
        score += ["--processes", str(arguments.processes)]
    found = {name: run(command) for name, command in {"tabserve": score, "pandas": pandas}.items()}

    answers, wanted = (
        pq.read_table(path)["churn_probability"].to_numpy() for path in (out, expected)
    )
    equal = int((answers == wanted).sum())
    rates = {name: arguments.rows / seconds for name, (seconds, _, _) in found.items()}
    labels = {"pandas": "pipeline.predict_proba, pandas chunks", "tabserve": "tabserve score"}
    tables.show(
        [f"{arguments.rows:,} rows", "s", "rows/s", "times", "CPU, s", "peak memory, MiB"],
        [
            [
                labels[name],
                tables.figure(seconds),
                tables.figure(rates[name]),
                tables.figure(rates[name] / rates["pandas"]),
                tables.figure(cpu_s),
                tables.figure(peak_mib),
            ]
            for name, (seconds, cpu_s, peak_mib) in found.items()
        ],
    )
    print(f"Equal to the last bit: {equal:,} of {arguments.rows:,} probabilities.")


def generate(path: Path, n_rows: int) -> None:
    different: list[pa.Table] = []
    writer = None
    for group, start in enumerate(range(0, n_rows, _GENERATED_ROWS)):
        if group < _DIFFERENT_GROUPS:
            features, _ = data.features_and_target(data.generate(_GENERATED_ROWS, group + 1))
            different.append(pa.Table.from_pandas(features, preserve_index=False))
        table = different[group % _DIFFERENT_GROUPS]
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table.slice(0, n_rows - start))
    assert writer is not None
    writer.close()


def run(command: list[str]) -> tuple[float, float, float]:
    """Seconds, those of the processors, and the most memory that all of its processes held at once,
    in MiB of PSS: what they share counts once.
    """
    began, used = time.perf_counter(), _cpu_s()
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(memory(each).pss for each in tree(process.pid)))
        time.sleep(_LOOK_EVERY_S)
    seconds = time.perf_counter() - began
    assert process.returncode == 0
    print(f"{command[2]}: {seconds:.1f} s", flush=True)
    return seconds, _cpu_s() - used, peak


def _cpu_s() -> float:
    """Of all processes that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
