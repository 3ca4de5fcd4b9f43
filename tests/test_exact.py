"""Each kind of scikit-learn model answers, packed and loaded, what the original answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.feature_selection import SelectFromModel, SelectKBest, f_classif
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    TweedieRegressor,
)
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier

import tabserve
from tabserve import loading, repository
from tabserve.parity import in_batches
from tabserve.signature import Signature
from tabserve.types import Columns

NUMBERS = ["age", "income", "score"]
N_FRESH = 200
N_ALONE = 100  # one call each, which is what the time goes to


def people(n_rows: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": random.integers(18, 90, n_rows),
            "income": random.lognormal(10, 1, n_rows),
            "score": random.normal(0, 1, n_rows),
            "debt": np.where(random.random(n_rows) < 0.2, np.nan, random.gamma(2, 100, n_rows)),
            "city": random.choice(["Bonn", "Kiel", "Ulm"], n_rows),
            "member": random.random(n_rows) < 0.5,
        }
    )


def targets(rows: pd.DataFrame) -> dict[str, Any]:
    value = rows["score"] + rows["age"] / 50 + (rows["city"] == "Ulm") - rows["debt"].fillna(9) / 99
    value = (10 * value - 10 * value.min() + 1).rename("value")
    two = pd.Series(np.where(value > value.median(), "Yes", "No"), name="two")
    three = pd.cut(value, 3, labels=False).rename("three")
    return {
        "two": two,
        "three": three,
        "value": value,
        "classes": pd.concat([two, three.astype(str)], axis=1),
        "values": pd.DataFrame({"value": value, "square": value**2}),
    }


TRAINING = people(300, seed=0)
TARGETS = targets(TRAINING)
FRESH = people(N_FRESH, seed=1)


def mixed(last: Any) -> Any:
    """The usual way: impute and scale numbers, encode text, and the rest as it is."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return make_pipeline(
        make_column_transformer(
            (numbers, [*NUMBERS, "debt"]), (OneHotEncoder(), ["city"]), remainder="passthrough"
        ),
        last,
    )


def categorical(last: Any) -> Any:
    """Native categories, from an encoder's codes."""
    encoder = make_column_transformer((OrdinalEncoder(), ["city"]), remainder="passthrough")
    return make_pipeline(encoder, last)


def scaled(*steps: Any) -> Any:
    return make_pipeline(StandardScaler(), *steps)


def numbers_only(*steps: Any) -> Any:
    return make_pipeline(make_column_transformer((steps[0], [*NUMBERS, "debt"])), *steps[1:])


# name: (the model, its target, its exactness class, whether it takes only NUMBERS)
ZOO: dict[str, tuple[Callable[[], Any], str, str, bool]] = {
    "tree": (lambda: DecisionTreeClassifier(max_depth=4), "three", "bits", True),
    "forest": (lambda: mixed(RandomForestClassifier(5, n_jobs=2)), "two", "bits", False),
    "extra trees": (lambda: ExtraTreesRegressor(5), "value", "bits", True),
    "bagging": (lambda: BaggingRegressor(n_estimators=5), "value", "bits", True),
    "gradient boosting": (
        lambda: GradientBoostingClassifier(n_estimators=5), "three", "close", True
    ),
    "gradient boosting, huber": (
        lambda: GradientBoostingRegressor(loss="huber", n_estimators=5), "value", "bits", True
    ),
    "hist boosting, missing values and categories": (
        lambda: categorical(
            HistGradientBoostingClassifier(max_iter=5, categorical_features=[0])
        ), "three", "close", False,
    ),
    "hist boosting, squared error": (
        lambda: HistGradientBoostingRegressor(max_iter=5), "value", "bits", True
    ),
    "hist boosting, poisson": (
        lambda: HistGradientBoostingRegressor(max_iter=5, loss="poisson"), "value", "close", True
    ),
    "ada boost": (lambda: AdaBoostClassifier(n_estimators=3), "two", "close", True),
    "logistic": (lambda: mixed(LogisticRegression()), "two", "close", False),
    "linear, three classes": (lambda: scaled(LogisticRegression()), "three", "close", True),
    "least squares": (lambda: scaled(LinearRegression()), "value", "close", True),
    "lasso": (lambda: scaled(Lasso()), "value", "close", True),
    "poisson": (lambda: scaled(PoissonRegressor()), "value", "close", True),
    "tweedie": (lambda: scaled(TweedieRegressor(power=1.5)), "value", "close", True),
    "ridge classifier": (lambda: scaled(RidgeClassifier()), "three", "close", True),
    "sgd": (lambda: scaled(SGDClassifier(loss="modified_huber")), "three", "close", True),
    "svc": (lambda: scaled(SVC()), "three", "close", True),
    "svr": (lambda: scaled(SVR()), "value", "close", True),
    "linear svc": (lambda: scaled(LinearSVC()), "two", "close", True),
    "naive bayes": (lambda: GaussianNB(), "three", "close", True),
    "discriminant": (lambda: LinearDiscriminantAnalysis(), "three", "close", True),
    "neighbours": (
        lambda: scaled(KNeighborsClassifier(weights="distance")), "three", "close", True
    ),
    "neighbours, ball tree": (
        lambda: scaled(KNeighborsRegressor(algorithm="ball_tree", metric="chebyshev")),
        "value", "close", True,
    ),
    "perceptron": (
        lambda: scaled(MLPClassifier((4,), solver="lbfgs", max_iter=500, tol=1e-2)),
        "three", "close", True,
    ),
    "calibrated": (
        lambda: CalibratedClassifierCV(DecisionTreeClassifier(max_depth=3), cv=2),
        "two", "close", True,
    ),
    "calibrated, isotonic": (
        lambda: CalibratedClassifierCV(GaussianNB(), cv=2, method="isotonic"),
        "three", "close", True,
    ),
    "voting": (
        lambda: VotingClassifier(
            [("bayes", GaussianNB()), ("tree", DecisionTreeClassifier(max_depth=3))],
            voting="soft", weights=[0.1, 0.7],
        ), "two", "close", True,
    ),
    "stacking": (
        lambda: StackingRegressor(
            [("ridge", Ridge()), ("tree", ExtraTreesRegressor(3))], cv=2
        ), "value", "close", True,
    ),
    "several classifiers": (
        lambda: MultiOutputClassifier(DecisionTreeClassifier(max_depth=3)),
        "classes", "bits", True,
    ),
    "several regressors": (
        lambda: scaled(MultiOutputRegressor(GradientBoostingRegressor(n_estimators=3))),
        "values", "bits", True,
    ),
    "several values of a forest": (lambda: RandomForestRegressor(3), "values", "bits", True),
    "several values of a line": (lambda: scaled(LinearRegression()), "values", "close", True),
    "chain": (lambda: RegressorChain(Ridge()), "values", "close", True),
    "grid search": (
        lambda: GridSearchCV(
            scaled(LogisticRegression()), {"logisticregression__C": [0.1, 1]},
            cv=2, scoring="roc_auc",
        ), "two", "close", True,
    ),
    "tuned threshold": (
        lambda: TunedThresholdClassifierCV(scaled(LogisticRegression()), cv=2),
        "two", "close", True,
    ),
    "transformed target": (
        lambda: TransformedTargetRegressor(
            scaled(Ridge()), func=np.log, inverse_func=np.exp
        ), "value", "close", True,
    ),
    "target encoder": (
        lambda: make_pipeline(
            make_column_transformer(
                (TargetEncoder(), ["city"]), (SimpleImputer(add_indicator=True), ["debt", "age"])
            ),
            DecisionTreeClassifier(max_depth=4),
        ), "two", "bits", False,
    ),
    "discretizer": (
        lambda: scaled(
            KBinsDiscretizer(quantile_method="averaged_inverted_cdf"), LogisticRegression()
        ), "two", "close", True,
    ),
    "polynomial": (lambda: scaled(PolynomialFeatures(), Ridge()), "value", "close", True),
    "spline": (
        lambda: numbers_only(KNNImputer(), SplineTransformer(), Ridge()), "value", "close", False
    ),
    "power and quantiles": (
        lambda: make_pipeline(
            make_union(PowerTransformer(), QuantileTransformer(n_quantiles=50)), Ridge()
        ), "value", "close", True,
    ),
    "principal components": (
        lambda: scaled(PCA(2), LogisticRegression()), "three", "close", True
    ),
    "selected": (
        lambda: scaled(SelectKBest(f_classif, k=2), DecisionTreeClassifier(max_depth=3)),
        "two", "bits", True,
    ),
    "selected by a model": (
        lambda: scaled(SelectFromModel(DecisionTreeClassifier()), LogisticRegression()),
        "two", "close", True,
    ),
    "kernel approximation": (
        lambda: scaled(Nystroem(n_components=8), LogisticRegression()), "two", "close", True
    ),
    "columns by dtype": (
        lambda: make_pipeline(
            make_column_transformer(
                (FunctionTransformer(np.log1p), make_column_selector("income")),
                (OneHotEncoder(), make_column_selector(dtype_exclude="number")),
            ),
            Ridge(),
        ), "value", "close", False,
    ),
}  # fmt: skip


def of_the_original(model: Any, rows: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    """What the notebook says, by the parts of an engine's outputs."""
    predicted = np.asarray(model.predict(rows)).reshape(len(rows), -1)
    part = "label" if hasattr(model, "classes_") else "value"
    found = {f"{name}.{part}".lstrip("."): predicted[:, i] for i, name in enumerate(names)}
    if hasattr(model, "predict_proba"):
        probas = model.predict_proba(rows)
        probas = probas if isinstance(probas, list) else [probas]
        found |= {f"{name}.proba".lstrip("."): probas[i] for i, name in enumerate(names)}
    return found


# Those that are served by a graph of their own; all others by scikit-learn itself.
LOWERED = {
    "tree", "forest", "extra trees", "gradient boosting", "gradient boosting, huber",
    "hist boosting, squared error", "hist boosting, poisson", "logistic", "linear, three classes",
    "least squares", "lasso", "ridge classifier", "linear svc", "several values of a forest",
    "several values of a line", "grid search", "bagging", "ada boost", "poisson", "tweedie", "sgd",
    "hist boosting, missing values and categories", "naive bayes", "discriminant", "perceptron",
    "calibrated", "calibrated, isotonic", "voting", "stacking", "several classifiers",
    "several regressors", "chain", "tuned threshold", "transformed target", "target encoder",
    "discretizer", "polynomial", "power and quantiles", "principal components", "selected",
    "selected by a model", "columns by dtype",
}  # fmt: skip


@pytest.mark.parametrize("kind", ZOO)
def test_a_packed_model_answers_as_the_original_does_alone_and_in_batches(
    kind: str, tmp_path: Path
) -> None:
    make, target, exactness, only_numbers = ZOO[kind]
    training, fresh = (rows[NUMBERS] if only_numbers else rows for rows in (TRAINING, FRESH))
    model = make().fit(training, TARGETS[target])
    folder = tabserve.pack(
        model, tmp_path, name="zoo", version="1", data=training[:12], target=TARGETS[target][:12]
    )
    loaded = loading.load(repository.find(folder))
    assert loaded.manifest.engine == ("onnx" if kind in LOWERED else "native")
    columns = as_columns(loaded.manifest.signature, fresh)
    expected = of_the_original(model, fresh, [target.name for target in loaded.manifest.targets])
    assert loaded.manifest.parity.exactness == exactness
    for size, n_rows in [(1, N_ALONE), (7, N_FRESH), (64, N_FRESH), (N_FRESH, N_FRESH)]:
        given = {name: column[:n_rows] for name, column in columns.items()}
        outputs = in_batches(loaded.engine, given, size)
        assert outputs.keys() == expected.keys()
        for part, values in outputs.items():
            assert_exact(part, values, expected[part][:n_rows], exactness)


@pytest.mark.parametrize("engine", ["onnx", "native"])
@pytest.mark.parametrize("model", [
    scaled(KMeans(3, n_init=1)), MiniBatchKMeans(2, n_init=1),
    mixed(IsolationForest(n_estimators=9)),
    IsolationForest(n_estimators=9, contamination=0.1),
], ids=repr)  # fmt: skip
def test_groups_are_answered_as_the_original_finds_them(
    model: Any, engine: str, tmp_path: Path
) -> None:
    takes_all = "columntransformer" in getattr(model, "named_steps", ())
    training, fresh = (rows if takes_all else rows[NUMBERS] for rows in (TRAINING, FRESH))
    only = "native" if engine == "native" else None
    model.fit(training)
    folder = tabserve.pack(model, tmp_path, name="groups", version="1", data=training, engine=only)
    loaded = loading.load(repository.find(folder))
    assert loaded.manifest.engine == engine
    expected = model.predict(fresh).tolist()
    columns = as_columns(loaded.manifest.signature, fresh)
    for size in (1, 7, 64, N_FRESH):
        assert in_batches(loaded.engine, columns, size)["label"].tolist() == expected


def as_columns(signature: Signature, rows: pd.DataFrame) -> Columns:
    return signature.columns({
        name: rows[name].astype(object).where(rows[name].notna(), None).tolist()
        for name in [feature.name for feature in signature.features]
    })  # fmt: skip


def assert_exact(part: str, found: Any, expected: Any, exactness: str) -> None:
    """Equal; for `close` within 1e-12 of the scale, since BLAS, exp and pow give other last digits
    with the number of rows."""
    if part.endswith("label") or exactness == "bits":
        assert found.tolist() == expected.tolist()
    else:
        scale = 1 if part.endswith("proba") else np.abs(expected).max()
        assert np.abs(found - expected).max() <= 1e-12 * scale
