"""What workers of a large forest share: `python -m benchmarks.workers` (Linux).

Four workers and their supervisor serve a forest whose trees take some 200 MiB, by scikit-learn
itself and lowered to a graph. Memory is read after each worker has answered: PSS counts what
processes share in equal parts, so that it adds up; RSS in each of them.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

import tabserve
from benchmarks import servers
from benchmarks.footprint import Server, processes
from benchmarks.memory import Memory
from benchmarks.tables import figure, show
from tabserve import repository

FEATURES = 8
# Each is proven alone, by each worker.
SAMPLE = 20
# Of scikit-learn's tree: a node takes 64 bytes, and its two shares of classes 16.
_NODE_BYTES = 80
# How packing is told to keep to each: it takes a graph by itself.
_PACKED: dict[str, Any] = {"native": "native", "onnx": None}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=62_000, help="of the training data")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--engines", nargs="+", choices=list(_PACKED), default=list(_PACKED))
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args(words)
    forest, sample = _forest(arguments.rows, arguments.trees)
    nodes = sum(tree.tree_.node_count for tree in forest.estimators_)
    lines = []
    with tempfile.TemporaryDirectory() as made:
        for engine in arguments.engines:
            folder = tabserve.pack(
                forest, Path(made), name="forest", version=engine, data=sample,
                target="y", engine=_PACKED[engine],
            )  # fmt: skip
            for workers in (1, arguments.workers):
                lines.append(_line(folder, workers, Path(made) / "log"))
                print(*lines[-1], sep="; ", file=sys.stderr, flush=True)
    print(f"{nodes:,} nodes, {figure(nodes * _NODE_BYTES / 2**20)} MiB in scikit-learn's trees\n")
    show(["engine", "workers", "each, RSS, MiB", "each, PSS", "all with supervisor, PSS"], lines)


def _forest(n_rows: int, trees: int) -> tuple[Any, Any]:
    """Of labels that hardly follow the features, so that each tree is grown to its end."""
    random = np.random.default_rng(0)
    names = [f"x{i}" for i in range(FEATURES)]
    rows = pd.DataFrame(random.normal(size=(n_rows, FEATURES)), columns=names)
    labels = (rows["x0"] + random.normal(0, 4, n_rows) > 0).astype(int)
    forest = RandomForestClassifier(trees, random_state=0, n_jobs=-1).fit(rows, labels)
    return forest, rows.assign(y=labels).iloc[:SAMPLE]


def _line(folder: Path, workers: int, log: Path) -> list[str]:
    artifact = repository.find(folder)
    body = json.dumps(artifact.golden().rows[0]).encode()
    command = partial(_command, str(folder))
    server = Server(Path(sys.executable), {}, body, log, command)
    own, *children = processes(server, workers)
    serving = children or [own]
    return [
        artifact.manifest.engine,
        str(workers),
        _each(serving, "rss"),
        _each(serving, "pss"),
        figure(own.pss + sum(child.pss for child in children)),
    ]


def _command(path: str, workers: int) -> list[str]:
    return servers.tabserve(path, "--workers", str(workers), "--log", "off")


def _each(serving: list[Memory], kind: str) -> str:
    return ", ".join(figure(getattr(one, kind)) for one in serving)


if __name__ == "__main__":
    main()
