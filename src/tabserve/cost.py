"""What a call of the model takes, learnt from its calls: a part for each, and one for each row."""

from math import inf

# Of what is known, how much a call leaves: the last 10 or so count.
_KEPT = 0.9
# A call that took far longer than was expected says more of the machine than of the model.
_MOST_GROWTH = 3.0
_LEAST_S = 0.001
# Of the squared mean number of rows, their variance: with less, calls were too much alike to tell
# what more rows cost.
_TELLING = 0.02
# Joining more rows in one call gains nothing any more once a call's own part is a tenth of theirs.
# What a batch costs beside the call, some 50 µs, is nothing either beside this.
_WORTH = 10.0
_WORTH_S = 0.005
# To be tried without knowing what it costs.
_TRIED_S = 0.05


class Cost:
    """The line through seconds over rows, by least squares.

    Nothing is known before the first call. Until calls differ, each row is taken to cost what one
    has cost: better to expect too much, and to learn by doubling, than to join a thousand rows that
    take seconds.
    """

    def __init__(self) -> None:
        self._weight = self._n = self._s = self._nn = self._ns = 0.0
        self._tried = 1.0
        # Read by other threads, so each is replaced at once.
        self._line = (0.0, 0.0)
        self.most_rows = 1.0

    def learn(self, n_rows: int, seconds: float) -> None:
        if self._weight:
            seconds = min(seconds, _MOST_GROWTH * self.of(n_rows) + _LEAST_S)
        self._weight = _KEPT * self._weight + 1.0
        self._n = _KEPT * self._n + n_rows
        self._s = _KEPT * self._s + seconds
        self._nn = _KEPT * self._nn + n_rows * n_rows
        self._ns = _KEPT * self._ns + n_rows * seconds
        self._tried = max(n_rows, _KEPT * self._tried)
        rows, mean_s = self._n / self._weight, self._s / self._weight
        variance = self._nn / self._weight - rows * rows
        careful = max(2.0 * self._tried, _TRIED_S * rows / max(mean_s, 1e-9))
        if variance < _TELLING * rows * rows:
            self._line, self.most_rows = (0.0, mean_s / rows), careful
            return
        slope = (self._ns / self._weight - rows * mean_s) / variance
        slope = min(max(0.0, slope), mean_s / rows)
        call = mean_s - slope * rows
        worth = max(_WORTH * call, _WORTH_S) / slope if slope else inf
        self._line, self.most_rows = (call, slope), max(1.0, min(careful, worth))

    def of(self, n_rows: float, n_calls: float = 1.0) -> float:
        """Seconds that so many rows will take in so many calls; 0 where nothing is known."""
        call, row = self._line
        return n_calls * call + n_rows * row
