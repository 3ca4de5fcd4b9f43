"""Train the churn model and pack it: `python -m examples.churn.train --data FILE`."""

import argparse
from pathlib import Path
from typing import Any

from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import tabserve
from examples.churn import data

NUMBERS = ["tenure_months", "monthly_charges", "total_charges"]


def pipeline(seed: int = 0) -> Pipeline:
    """Pre-processing and forest in one: what is packed is all that the notebook did."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    preprocessing = make_column_transformer(
        (numbers, NUMBERS), (OneHotEncoder(), ["contract_type"])
    )
    forest = RandomForestClassifier(n_estimators=100, min_samples_leaf=5, random_state=seed)
    return make_pipeline(preprocessing, forest)


def train_and_pack(frame: Any, out: Path, version: str, data_name: str, **options: Any) -> Path:
    """Fit on 80 % of the customers, measure on the rest, pack; gives back the artefact's folder.

    options: further ones of tabserve.pack.
    """
    features, target = data.features_and_target(frame)
    train_x, test_x, train_y, test_y = train_test_split(
        features, target, test_size=0.2, random_state=0, stratify=target
    )
    model = pipeline().fit(train_x, train_y)
    roc_auc = roc_auc_score(test_y == "Yes", model.predict_proba(test_x)[:, 1])
    return tabserve.pack(
        model,
        out,
        name="churn",
        version=version,
        data=train_x,
        target=train_y,
        data_name=f"{data_name}, {len(train_x)} training rows",
        metrics={f"{data_name}, {len(test_x)} held-out rows": {"roc_auc": roc_auc}},
        output=tabserve.Output(
            name="churn_probability",
            positive="Yes",
            round=3,
            bands=tabserve.Bands.parse("risk_category: Low < 0.3 <= Medium < 0.7 <= High"),
        ),
        replace=True,
        **options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the Telco file; generated data without it")
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder of the models")
    parser.add_argument("--version", default="1.2.3", help="version of the packed model")
    arguments = parser.parse_args()
    if arguments.data is None:
        frame, data_name = data.generate(), "generated data"
    else:
        frame, data_name = data.load(arguments.data), arguments.data.name
    folder = train_and_pack(frame, arguments.out, arguments.version, data_name)
    print(f"Packed {folder}")


if __name__ == "__main__":
    main()
