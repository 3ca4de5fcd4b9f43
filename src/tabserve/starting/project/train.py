"""Train the model and pack it: `python train.py`."""

import argparse
from pathlib import Path

from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

import tabserve
from delivery_data import FEATURES, TARGET, generate

NUMBERS = ["distance_km", "parcels", "weight_kg"]


def pipeline() -> Pipeline:
    """Pre-processing and model in one, so that both are served."""
    preprocessing = make_column_transformer(
        (SimpleImputer(strategy="median"), NUMBERS), (OneHotEncoder(), ["vehicle"])
    )
    return make_pipeline(preprocessing, RandomForestClassifier(min_samples_leaf=5, random_state=0))


def train(out: Path = Path("models"), version: str = "0.1.0", n_rows: int = 3000) -> Path:
    """Gives back the folder of the packed model."""
    rows = generate(n_rows)
    train_x, test_x, train_y, test_y = train_test_split(
        rows[FEATURES], rows[TARGET], test_size=0.2, random_state=0, stratify=rows[TARGET]
    )
    model = pipeline().fit(train_x, train_y)
    roc_auc = roc_auc_score(test_y == "yes", model.predict_proba(test_x)[:, 1])
    return tabserve.pack(
        model,
        out,
        name="delivery",
        version=version,
        data=train_x,
        target=train_y,
        data_name=f"{len(train_x)} training rows",
        metrics={f"{len(test_x)} held-out rows": {"roc_auc": float(roc_auc)}},
        output={
            "name": "late_probability",
            "positive": "yes",
            "round": 3,
            "bands": "risk: Low < 0.3 <= Medium < 0.7 <= High",
        },
        replace=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default="0.1.0", help="version of the packed model")
    print(f"Packed {train(version=parser.parse_args().version)}")
