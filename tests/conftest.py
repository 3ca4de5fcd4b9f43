"""Models, artefacts and data that several tests share. No port, no internet."""

import gc
import logging
import os
import random
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

import tabserve
from tabserve.server.starting import STOPPING

# Of tests that begin with onnxruntime; tabserve says it itself.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# The real data, where this checkout has it beside it.
TELCO = Path(__file__).parents[2] / "shared" / "data" / "telco_churn.csv"

RECORD = {
    "tenure_months": 12,
    "monthly_charges": 65.5,
    "total_charges": 786.0,
    "contract_type": "Month-to-month",
}
NUMBERS = ["tenure_months", "monthly_charges", "total_charges"]
CHURN_OUTPUT = tabserve.Output(
    name="churn_probability",
    positive="Yes",
    round=3,
    bands=tabserve.Bands.parse("risk_category: Low < 0.3 <= Medium < 0.7 <= High"),
)


# Tests run side by side, a process for each CPU: more threads only wait for one another, and
# OpenMP's wait is busy. The processes that tests start decide for themselves.
threadpool_limits(1)

# A busy machine is no fault of what is tested.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("tests")

# pytest-xdist's processes ignore Ctrl-C, and what they start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What is random by default is the same for each test, alone and in any order."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def restored_process() -> Iterator[None]:
    """For `serve` in this process, which it takes for one that ends with it."""
    logger = logging.getLogger("tabserve")
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    limits, level = resource.getrlimit(resource.RLIMIT_CORE), logger.level
    yield
    gc.enable()
    logger.setLevel(level)
    resource.setrlimit(resource.RLIMIT_CORE, limits)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def customers() -> pd.DataFrame:
    """300 customers with the columns of RECORD, some without total_charges, and `churn`."""
    random = np.random.default_rng(0)
    tenure = random.integers(0, 73, 300)
    monthly = random.uniform(18, 119, 300).round(2)
    total = np.where(tenure == 0, np.nan, (tenure * monthly * random.normal(1, 0.03, 300)).round(2))
    contract = random.choice(["Month-to-month", "One year", "Two year"], 300, p=[0.55, 0.21, 0.24])
    leaves = (contract == "Month-to-month") & (random.random(300) < 0.45)
    return pd.DataFrame(
        {
            "tenure_months": tenure,
            "monthly_charges": monthly,
            "total_charges": total,
            "contract_type": contract,
            "churn": np.where(leaves, "Yes", "No"),
        }
    )


@pytest.fixture(scope="session")
def pipeline(customers: pd.DataFrame) -> Pipeline:
    """The churn pipeline with a small forest, fitted on a DataFrame."""
    preprocessing = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), NUMBERS),
        (OneHotEncoder(), ["contract_type"]),
    )
    forest = RandomForestClassifier(n_estimators=10, min_samples_leaf=5, random_state=0)
    return make_pipeline(preprocessing, forest).fit(
        customers.drop(columns="churn"), customers["churn"]
    )


@pytest.fixture(scope="session")
def repository(
    tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline, customers: pd.DataFrame
) -> Path:
    """A repository with churn 1.2.3 in it. Tests must not change it; copy it first."""
    out = tmp_path_factory.mktemp("models")
    tabserve.pack(
        pipeline,
        out,
        name="churn",
        version="1.2.3",
        data=customers,
        target="churn",
        output=CHURN_OUTPUT,
    )
    return out


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with line 1.0.0, which answers x, and 2.0.0, which answers 2 x. Tests must not
    change it; copy it first.
    """
    out, rows = tmp_path_factory.mktemp("lines"), pd.DataFrame({"x": np.arange(8.0)})
    for factor in (1, 2):
        model = DecisionTreeRegressor(random_state=0).fit(rows, factor * rows["x"])
        tabserve.pack(model, out, name="line", version=f"{factor}.0.0", data=rows)
    return out
