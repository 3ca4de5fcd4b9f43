"""What one row and 1,000 rows of a forest cost with more trees, features and rows:
`python -m benchmarks.cost --plot cost.svg`.

From 100 trees of 20 numbers one of the three is changed at a time. The engine takes Python values
as a request holds them, the library a DataFrame that is there already; both have one thread. The
graphs are not proven first: for 1,000 trees that takes minutes, and the time is the same.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier

from benchmarks.tables import figure, show
from benchmarks.timing import call_s, in_turns, ratio
from tabserve.engines.onnx import OnnxEngine
from tabserve.inference import signature_of
from tabserve.lower import lower
from tabserve.output import Output, Renderer
from tabserve.targets import targets_of

TREES = (10, 30, 100, 300, 1000)
FEATURES = (4, 20, 100, 500)
ROWS = (1, 10, 100, 1000, 10_000)
USUAL_TREES, USUAL_FEATURES = 100, 20
FITTED_ON = 5000


@dataclass(frozen=True)
class Cost:
    """Milliseconds of a call, of so many rows."""

    axis: str  # what is changed: "trees", "features" or "rows"
    at: int
    n_rows: int
    library_ms: float
    ours_ms: float
    times_as_fast: float


@dataclass(frozen=True)
class Forest:
    model: Any
    engine: OnnxEngine
    frame: pd.DataFrame  # of the rows that it answers


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, nargs="+", default=TREES)
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each single measurement")
    parser.add_argument("--plot", type=Path, help="draw it too, as .svg or .png")
    arguments = parser.parse_args(words)
    measure = partial(_cost, rounds=arguments.rounds, seconds=arguments.seconds)
    costs = []
    for n_trees in arguments.trees:
        grown = _forest(n_trees, USUAL_FEATURES)
        costs += [measure(grown, n_rows, "trees", n_trees) for n_rows in (1, 1000)]
    for n_features in arguments.features:
        wide = _forest(USUAL_TREES, n_features)
        costs += [measure(wide, n_rows, "features", n_features) for n_rows in (1, 1000)]
    usual = _forest(USUAL_TREES, USUAL_FEATURES)
    costs += [measure(usual, n_rows, "rows", n_rows) for n_rows in arguments.rows]
    _show(costs)
    if arguments.plot is not None:
        draw(costs, arguments.plot)


def _forest(n_trees: int, n_features: int) -> Forest:
    numbers, target = make_classification(
        FITTED_ON + max(ROWS), n_features, n_informative=min(n_features, 10), n_redundant=0,
        n_clusters_per_class=1, flip_y=0.1, random_state=0,
    )  # fmt: skip
    frame = pd.DataFrame(numbers, columns=[f"x{i}" for i in range(n_features)])
    model = RandomForestClassifier(n_trees, min_samples_leaf=5, random_state=0)
    model.fit(frame[:FITTED_ON], target[:FITTED_ON])
    return Forest(model, _engine(model, frame), frame[FITTED_ON:])


def _engine(model: Any, frame: pd.DataFrame) -> OnnxEngine:
    signature = signature_of(model, frame, "frame", {}, "refuse")
    targets = targets_of(model, frame.iloc[:1], None)
    parts = Renderer(targets, Output(name="probability", positive=1)).parts
    lowered = lower(model, signature, parts)
    return OnnxEngine(lowered.graph, lowered.refused, lowered.plan, signature, targets, parts)


def _cost(forest: Forest, n_rows: int, axis: str, at: int, *, rounds: int, seconds: float) -> Cost:
    starts = range(0, max(ROWS) - n_rows + 1, max(n_rows, max(ROWS) // 200))
    frames = [forest.frame.iloc[start : start + n_rows] for start in starts]
    values = [{str(name): frame[name].tolist() for name in frame} for frame in frames]
    ways: dict[str, Callable[[], float]] = {
        "library": partial(call_s, forest.model.predict_proba, frames, seconds),
        "ours": partial(call_s, forest.engine.predict, values, seconds),
    }
    found = in_turns(ways, rounds)
    library_ms, ours_ms = (1000 * statistics.median(times) for times in found.values())
    return Cost(axis, at, n_rows, library_ms, ours_ms, ratio(found["library"], found["ours"]))


def _show(costs: Sequence[Cost]) -> None:
    show(
        ["changed", "rows of a call", "library, ms", "TabServe, ms", "times as fast"],
        [
            [
                f"{cost.axis}: {cost.at:,}", f"{cost.n_rows:,}", figure(cost.library_ms),
                figure(cost.ours_ms), figure(cost.times_as_fast),
            ]
            for cost in costs
        ],
    )  # fmt: skip


def draw(costs: Sequence[Cost], path: Path) -> None:
    """Three plots side by side, both axes logarithmic: a cost in proportion has slope 1."""
    from matplotlib.figure import Figure  # needs the extra `bench`

    drawing = Figure(figsize=(12, 4), layout="constrained")
    for axes, axis in zip(drawing.subplots(1, 3), ("trees", "features", "rows"), strict=True):
        for label, line in _lines([cost for cost in costs if cost.axis == axis]).items():
            style = "--" if label.endswith("1 row") else "-"
            colour = "#2f6fb2" if label.startswith("TabServe") else "#d1762b"
            axes.loglog(*zip(*line, strict=True), style, marker="o", color=colour, label=label)
        sizes = sorted({cost.at for cost in costs if cost.axis == axis})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(axis)
        axes.set_ylabel("ms of a call")
        axes.grid(color="#e4e4e4")
        axes.legend(frameon=False)
    drawing.savefig(path)


def _lines(costs: Sequence[Cost]) -> dict[str, list[tuple[int, float]]]:
    """By label, the points of each line."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for cost in costs:
        rows = "" if cost.axis == "rows" else ", 1 row" if cost.n_rows == 1 else ", 1,000 rows"
        lines.setdefault(f"TabServe{rows}", []).append((cost.at, cost.ours_ms))
        lines.setdefault(f"library{rows}", []).append((cost.at, cost.library_ms))
    return lines


if __name__ == "__main__":
    main()
