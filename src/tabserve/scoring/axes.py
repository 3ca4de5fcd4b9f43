"""One feature of a forest, cut where its decisions change."""

import numpy as np

from tabserve.scoring.forest import EQ, Forest
from tabserve.types import Array

# Equal steps from the first edge to the last: for most values few edges are left to compare with.
_STEPS = 2**16
# Where so many edges lie in one step, a search is as quick.
_MOST_IN_A_STEP = 8


class Axis:
    """One feature's intervals, (edges[i-1], edges[i]], and one more for a missing value, `missing`,
    and the spans that they are gathered into.
    """

    def __init__(self, forest: Forest, feature: int) -> None:
        of_feature = forest.feature == feature
        splits = forest.threshold[of_feature]
        equal = forest.threshold[of_feature & (forest.mode == EQ)]
        # An interval of its own for what a node asks to be equal to.
        self.edges = np.unique(np.concatenate([splits, np.nextafter(equal, -np.inf)]))
        self.missing = len(self.edges) + 1
        self.weight = len(splits)
        self.n_spans = 1
        self._measure_steps()

    def divide(self, has_missing: bool) -> None:
        """Into spans of about as many intervals each, and that of the missing value, if there is to
        be one.
        """
        n = self.missing
        self.has_missing = has_missing
        self.starts = np.unique(np.linspace(0, n, self.n_spans + 1).astype(int)[:-1])
        if has_missing:
            self.starts = np.append(self.starts, n)
        self.span_of = np.searchsorted(self.starts, np.arange(n + 1), side="right") - 1
        self.start_of = self.starts[self.span_of]

    def bounds(self, span: int) -> tuple[int, int]:
        """Its first interval and the one after its last."""
        ends = np.append(self.starts[1:], self.missing + self.has_missing)
        return int(self.starts[span]), int(ends[span])

    def intervals(self, values: Array) -> Array:
        """values: float64, no infinity. int32."""
        missing = np.isnan(values)
        if missing.any():
            values = np.where(missing, self.edges[0], values)
        found = self._searched(values)
        found[missing] = self.missing
        return found

    def _measure_steps(self) -> None:
        with np.errstate(all="ignore"):  # of one edge, or of edges that are too far apart
            self._scale = _STEPS / (self.edges[-1] - self.edges[0])
        self._rounds = 0
        if not 0 < self._scale < np.inf:
            return
        steps = self._steps(self.edges)
        most = int(np.bincount(steps).max())
        if most <= _MOST_IN_A_STEP:
            self._rounds = most
            self._first_of_step = np.searchsorted(steps, np.arange(_STEPS + 1)).astype(np.int32)
            self._ended = np.append(self.edges, np.inf)

    def _steps(self, values: Array) -> Array:
        """Never less for a greater value, however the products are rounded."""
        with np.errstate(over="ignore"):
            steps = (values - self.edges[0]) * self._scale
        whole: Array = np.clip(steps, 0, _STEPS, out=steps).astype(np.int32)
        return whole

    def _searched(self, values: Array) -> Array:
        if not self._rounds:
            return np.searchsorted(self.edges, values).astype(np.int32)
        found: Array = self._first_of_step.take(self._steps(values))
        for _ in range(self._rounds):
            found += self._ended.take(found) < values
        return found
