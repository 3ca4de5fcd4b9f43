"""What packed models refer to; it must be importable where one is served."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline


def minus_batch_mean(values: Any) -> Any:
    """The answer for a row depends on the rows beside it."""
    return values - values.mean(axis=0)


class NanClassifier(ClassifierMixin, BaseEstimator):
    """Its probabilities are no numbers."""

    def fit(self, rows: Any, target: Any) -> Self:
        self.classes_ = np.unique(target)
        self.n_features_in_ = rows.shape[1]
        return self

    def predict(self, rows: Any) -> Any:
        return np.repeat(self.classes_[:1], len(rows))

    def predict_proba(self, rows: Any) -> Any:
        return np.full((len(rows), len(self.classes_)), np.nan)


class ColumnReader(ClassifierMixin, BaseEstimator):
    """Reads a column by its name, and keeps none of scikit-learn's records of its input."""

    def fit(self, rows: Any, target: Any) -> Self:
        self.classes_ = np.unique(target)
        return self

    def predict(self, rows: Any) -> Any:
        return np.where(rows["income"] > 20_000, self.classes_[1], self.classes_[0])


class ThresholdPipeline(Pipeline):
    """A pipeline with an idea of its own of what a label is."""

    def predict(self, rows: Any, **parameters: Any) -> Any:
        return self.classes_[(self.predict_proba(rows)[:, 1] >= 0.3).astype(int)]
