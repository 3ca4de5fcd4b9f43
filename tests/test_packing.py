"""What packing writes, what it leaves alone, and what it refuses with a sentence."""

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import threadpoolctl
import xgboost
from sklearn.base import clone
from sklearn.cluster import DBSCAN
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

import tabserve
from tabserve import loading, packing, sources
from tabserve.artifact import Artifact
from tabserve.errors import NotReproduced, OperatorError, PackError, UntrustedModel
from tests.estimators import ColumnReader, NanClassifier, minus_batch_mean
from tests.functions import days_since, doubled

ROWS = pd.DataFrame(
    {
        "income": [10.5, 30.5, 50.5, 70.5] * 6,
        "age": [float(age) for age in range(20, 44)],
        "city": ["Ulm", "Kiel", "Bonn"] * 8,
    }
)
TARGET = ["No", "No", "Yes", "Yes"] * 6
NUMBERS = ROWS[["income", "age"]]
TREE = DecisionTreeClassifier(max_depth=2, random_state=0).fit(NUMBERS, TARGET)
BOOSTED = HistGradientBoostingClassifier(max_iter=2).fit(NUMBERS, TARGET)


def pack(model: Any, out: Path, data: Any = NUMBERS, **options: Any) -> Artifact:
    return Artifact(
        tabserve.pack(model, out, **({"name": "m", "version": "1", "data": data} | options))
    )


def golden(artifact: Artifact) -> pd.DataFrame:
    return pd.DataFrame(artifact.golden().rows)


def encoded(encoder: Any, *, rows: pd.DataFrame = ROWS) -> Any:
    columns = make_column_transformer((encoder, ["city"]), ("passthrough", ["age"]))
    return make_pipeline(columns, DecisionTreeClassifier()).fit(rows, TARGET)


# What stays as it was


def test_the_callers_model_and_thread_pools_are_as_before(tmp_path: Path) -> None:
    forest = RandomForestClassifier(3, n_jobs=2, random_state=0)
    model = make_pipeline(StandardScaler(), forest).fit(NUMBERS, TARGET)
    before, pools = joblib.hash(model), threadpoolctl.threadpool_info()
    pack(model, tmp_path)
    assert joblib.hash(model) == before
    assert forest.n_jobs == 2
    assert threadpoolctl.threadpool_info() == pools


def test_the_callers_model_is_as_before_where_packing_fails(tmp_path: Path) -> None:
    model = RandomForestClassifier(3, n_jobs=2).fit(NUMBERS, TARGET)
    with pytest.raises(PackError):
        pack(model, tmp_path, target=["No"])
    assert model.n_jobs == 2
    assert list(tmp_path.iterdir()) == []


# Golden rows


def test_golden_rows_hold_the_ends_the_missing_values_and_every_category(
    tmp_path: Path, pipeline: Pipeline, customers: pd.DataFrame
) -> None:
    rows = golden(pack(pipeline, tmp_path, customers, target="churn"))
    for name in ("tenure_months", "monthly_charges", "total_charges"):
        assert (rows[name].min(), rows[name].max()) == (
            customers[name].min(),
            customers[name].max(),
        )
    assert set(rows["contract_type"]) == set(customers["contract_type"])
    assert rows["total_charges"].isna().any()
    assert set(rows) == set(customers) - {"churn"}


def test_golden_outputs_are_what_the_model_says_of_these_rows_in_full(
    tmp_path: Path, pipeline: Pipeline, customers: pd.DataFrame
) -> None:
    artifact = pack(pipeline, tmp_path, customers, target="churn")
    complete = golden(artifact).dropna()
    expected = pipeline.predict_proba(complete)
    assert artifact.golden().outputs["proba"][complete.index].tolist() == expected.tolist()


def test_a_feature_that_may_be_null_and_never_is_has_a_golden_row_with_a_null(
    tmp_path: Path,
) -> None:
    model = make_pipeline(SimpleImputer(), DecisionTreeClassifier()).fit(NUMBERS, TARGET)
    artifact = pack(model, tmp_path)
    assert [feature.nullable for feature in artifact.manifest.signature.features] == [True, True]
    assert golden(artifact).isna().sum().to_dict() == {"income": 1, "age": 1}


def test_a_feature_is_not_nullable_where_the_model_fails_on_a_null(tmp_path: Path) -> None:
    both = make_column_transformer(
        (SimpleImputer(), ["income", "age"]), (PolynomialFeatures(), ["age"])
    )
    artifact = pack(make_pipeline(both, LogisticRegression()).fit(NUMBERS, TARGET), tmp_path)
    assert [feature.nullable for feature in artifact.manifest.signature.features] == [True, False]


# What the manifest says


def test_metrics_name_their_data_set(tmp_path: Path) -> None:
    artifact = pack(
        TREE, tmp_path, target=TARGET, data_name="train", metrics={"holdout": {"roc_auc": 0.75}}
    )
    assert [metric.model_dump() for metric in artifact.manifest.metrics] == [
        {"name": "accuracy", "value": 1.0, "data": "train"},
        {"name": "roc_auc", "value": 1.0, "data": "train"},
        {"name": "brier_score", "value": 0.0, "data": "train"},
        {"name": "roc_auc", "value": 0.75, "data": "holdout"},
    ]


def test_metrics_that_are_not_defined_are_left_out(tmp_path: Path) -> None:
    only_no = NUMBERS[::4]
    artifact = pack(TREE, tmp_path, only_no, target=["No"] * len(only_no))
    assert [metric.name for metric in artifact.manifest.metrics] == ["accuracy"]
    line = LinearRegression().fit(NUMBERS, range(24))
    artifact = pack(line, tmp_path, NUMBERS[:1], target=[0.0], version="2")
    assert [metric.name for metric in artifact.manifest.metrics] == [
        "mean_absolute_error", "root_mean_squared_error",
    ]  # fmt: skip


def test_the_manifest_names_the_model_and_when_it_was_trained(tmp_path: Path) -> None:
    trained = datetime(2024, 1, 31, tzinfo=UTC)
    manifest = pack(make_pipeline(TREE), tmp_path, training_date=trained).manifest
    assert (manifest.model_type, manifest.training_date) == (
        "Pipeline(DecisionTreeClassifier)",
        trained,
    )


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "int8", "uint16", "Int64", "Float32", "int64", "object"]
)
def test_a_model_gets_the_dtype_that_it_was_trained_on(tmp_path: Path, dtype: str) -> None:
    rows = pd.DataFrame({"a": range(20), "b": range(20, 0, -1)}).astype(dtype) / (
        10 if "float" in dtype else 1
    )
    rows = rows.astype(dtype)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, TARGET[:20])
    artifact = pack(model, tmp_path, rows)
    assert {feature.dtype for feature in artifact.manifest.signature.features} == {dtype}
    assert loading.load(artifact).difference <= 1e-12


def test_native_categories_of_a_category_column_are_served(tmp_path: Path) -> None:
    rows = ROWS.assign(city=ROWS["city"].astype("category"), code=pd.Categorical([1, 2, 3] * 8))
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=3)
    artifact = pack(model.fit(rows, TARGET), tmp_path, rows)
    features = artifact.manifest.signature.features
    assert [feature.categories for feature in features[2:]] == [("Bonn", "Kiel", "Ulm"), (1, 2, 3)]
    assert loading.load(artifact).difference <= 1e-12


@pytest.mark.parametrize("name", ["m.txt", "m.ubj", "m.joblib"])
def test_a_csv_has_the_categories_that_a_booster_was_fitted_on(name: str, tmp_path: Path) -> None:
    rows = ROWS.assign(city=ROWS["city"].astype("category"), code=pd.Categorical([1, 2, 3] * 8))
    rows = rows[["city", "income", "code", "age"]]
    truth = [0, 0, 1, 1] * 6
    if name == "m.ubj":
        model: Any = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True)
        model.fit(rows, truth).save_model(tmp_path / name)
    else:
        model = lightgbm.LGBMClassifier(n_estimators=3, min_child_samples=2, verbose=-1)
        model.fit(rows, truth)
        if name == "m.txt":
            model.booster_.save_model(tmp_path / name)
        else:
            joblib.dump(model, tmp_path / name)
    path = tmp_path / "rows.csv"
    rows.to_csv(path, index=False)
    told: Any = {"target": None, "allow_pickle": True, "out": tmp_path, "name": "m"}
    folder = packing.pack_from_files(str(tmp_path / name), path, version="1", **told)

    signature = Artifact(folder).manifest.signature
    found = {feature.name: feature.categories for feature in signature.features}
    assert found == {
        "city": ("Bonn", "Kiel", "Ulm"), "income": None, "code": (1, 2, 3), "age": None,
    }  # fmt: skip
    golden_rows = Artifact(folder).golden()
    frame = pd.DataFrame(golden_rows.rows).astype({n: rows[n].dtype for n in rows})[[*rows]]
    expected = model.predict_proba(frame)
    assert np.abs(np.array(golden_rows.outputs["proba"]) - expected).max() <= 1e-12

    rows.assign(city=["Rome", "Kiel"] * 12).to_csv(path, index=False)
    with pytest.raises(PackError, match="has 'Rome' in city, which the model was not fitted on"):
        packing.pack_from_files(str(tmp_path / name), path, version="2", **told)


@pytest.mark.parametrize("name", ["m.txt", "booster.joblib"])
def test_text_that_looks_like_numbers_is_a_category_of_a_booster(name: str, tmp_path: Path) -> None:
    codes = pd.Categorical(["01", "NA", "10"] * 8)
    rows = NUMBERS.assign(code=codes)
    model = lightgbm.LGBMRegressor(n_estimators=3, min_child_samples=2, verbose=-1)
    booster = model.fit(rows, codes.codes).booster_
    write = joblib.dump if name == "booster.joblib" else lightgbm.Booster.save_model
    write(booster, tmp_path / name)
    rows.to_csv(tmp_path / "rows.csv", index=False)

    folder = packing.pack_from_files(
        str(tmp_path / name), tmp_path / "rows.csv", target=None, allow_pickle=True, out=tmp_path,
        name="m", version="1",
    )  # fmt: skip

    code = Artifact(folder).manifest.signature.features[-1]
    assert (code.type, code.categories, code.nullable) == ("string", ("01", "10", "NA"), False)


def test_dates_and_classes_that_a_csv_cannot_show_are_asked_for(tmp_path: Path) -> None:
    rows = ROWS.assign(since=pd.Timestamp("2024-01-01"), churn=TARGET)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    joblib.dump(make_pipeline(FunctionTransformer(days_since), LinearRegression()).fit(
        rows[["since"]], rows["age"]), tmp_path / "dates.joblib")  # fmt: skip
    lightgbm.LGBMClassifier(n_estimators=1, verbose=-1).fit(
        NUMBERS, [0, 0, 1, 1] * 6
    ).booster_.save_model(tmp_path / "m.txt")
    for name, target, sentence in [
        (
            "dates.joblib",
            None,
            "given since as text: where that is a date, declare it one by --sig",
        ),
        (
            "m.txt",
            "churn",
            r"The classes of the model are 0, 1: .* a booster with tabserve pack --classes",
        ),
    ]:
        with pytest.raises(PackError, match=sentence):
            packing.pack_from_files(
                str(tmp_path / name), tmp_path / "rows.csv", target=target, allow_pickle=True,
                out=tmp_path, name="m", version="1",
            )  # fmt: skip


def test_an_estimator_without_records_of_its_input_gets_the_frame(tmp_path: Path) -> None:
    model = ColumnReader().fit(NUMBERS, TARGET)
    rows = NUMBERS * 1000
    artifact = pack(model, tmp_path, rows, format="joblib")
    assert artifact.manifest.signature.layout == "frame"
    assert loading.load(artifact, allow_pickle=True).difference == 0.0


def test_an_array_of_text_and_numbers_is_taken_by_position(tmp_path: Path) -> None:
    rows = ROWS.to_numpy(dtype=object)
    columns = make_column_transformer((OneHotEncoder(), [2]), remainder="passthrough")
    model = make_pipeline(columns, DecisionTreeClassifier()).fit(rows, TARGET)
    manifest = pack(model, tmp_path, rows).manifest
    assert [(feature.name, feature.type) for feature in manifest.signature.features] == [
        ("x0", "number"), ("x1", "number"), ("x2", "string"),
    ]  # fmt: skip


# Versions and names


def test_a_version_that_exists_is_refused_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    pack(TREE, tmp_path)
    with pytest.raises(PackError, match="exists already; choose another version"):
        pack(TREE, tmp_path)
    assert pack(TREE, tmp_path, replace=True).folder == tmp_path / "m" / "1"


@pytest.mark.parametrize("bad", ["../x", "a/b", "", ".hidden", "a\0b"])
@pytest.mark.parametrize("part", ["name", "version"])
def test_a_name_or_version_that_is_no_safe_file_name_is_refused(
    tmp_path: Path, bad: str, part: str
) -> None:
    with pytest.raises(PackError, match="cannot be used"):
        pack(TREE, tmp_path / "models", **{part: bad})
    assert list(tmp_path.iterdir()) == []


# Refusals


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (DecisionTreeClassifier(), {}, "DecisionTreeClassifier is not fitted"),
        (make_pipeline(StandardScaler(), LogisticRegression()), {}, "is not fitted"),
        (DBSCAN().fit(NUMBERS), {}, "Expected a classifier, a regressor"),
        (DecisionTreeClassifier, {}, "Expected a scikit-learn estimator"),
        (lambda rows: rows, {}, "which a server cannot import"),
        (object(), {}, "Expected a fitted scikit-learn estimator, or a function"),
        (TREE, {"target": "churn"}, "no column 'churn' to be the target"),
        (TREE, {"target": ["No"]}, "cannot be measured on the target"),
        (TREE, {"target": range(24)}, "cannot be measured on the target"),
        (TREE, {"metrics": {"holdout": {"roc_auc": np.nan}}}, "each number finite"),
        (TREE, {"metrics": {"roc_auc": 0.5}}, "each number finite"),
        (TREE, {"output": {"name": "p", "positive": "Maybe"}}, "one of .'No', 'Yes'., got 'Maybe'"),
        (TREE, {"output": {"name": "p", "bands": "risk"}}, "expected bands like"),
        (TREE, {"output": {"name": ""}}, "cannot be declared so"),
        (TREE, {"data": NUMBERS[:0]}, "no rows"),
        (BOOSTED, {"data": NUMBERS.replace(10.5, np.inf)}, "the API would refuse, in income"),
        (NanClassifier().fit(NUMBERS, TARGET), {"format": "joblib"}, "is not a finite number"),
        (ColumnReader().fit(NUMBERS, TARGET), {"data": NUMBERS.to_numpy()}, "its own sample data"),
        (ClassifierChain(LogisticRegression()).fit(NUMBERS, np.eye(24)[:, :2]), {},
         "fit a MultiOutputClassifier"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_a_sentence(
    tmp_path: Path, model: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PackError, match=message) as caught:
        pack(model, tmp_path, **options)
    assert "\n" not in str(caught.value).strip()
    assert list(tmp_path.iterdir()) == []


def test_a_sample_with_a_category_that_the_model_does_not_know_says_what_to_do(
    tmp_path: Path,
) -> None:
    model = encoded(OneHotEncoder(handle_unknown="ignore"))
    rows = ROWS.replace("Ulm", "Rome")
    with pytest.raises(PackError, match=r"would refuse, in city: .* say with --unknown"):
        pack(model, tmp_path, rows)
    artifact = pack(model, tmp_path, rows, unknown={"city": "allow"})
    assert "Rome" in set(golden(artifact)["city"])


def test_a_policy_that_the_model_cannot_keep_is_refused(tmp_path: Path) -> None:
    strict = encoded(OneHotEncoder())
    with pytest.raises(PackError, match="were to be allowed, but the model fails"):
        pack(strict, tmp_path, ROWS, unknown={"city": "allow"})
    with pytest.raises(PackError, match="the model takes none there"):
        pack(strict, tmp_path, ROWS, unknown={"city": "missing"})


def test_a_policy_may_be_for_categories_that_are_declared(tmp_path: Path) -> None:
    ages = NUMBERS["age"].unique().tolist()
    declared = {"features": {"age": {"categories": ages}}}
    model = clone(TREE).fit(NUMBERS, TARGET)

    packed = pack(model, tmp_path, unknown={"age": "warn"}, signature=declared)

    age = packed.manifest.signature.features[1]
    assert (age.categories, age.unknown) == (tuple(ages), "warn")
    with pytest.raises(PackError, match="age has no categories that could be unknown"):
        pack(model, tmp_path, unknown={"age": "warn"})


def test_golden_rows_of_a_wide_model_lie_all_over_the_sample(tmp_path: Path) -> None:
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 2000))).rename(columns=str)
    model = DecisionTreeClassifier(max_depth=1).fit(rows, rows["0"] > 0)
    found = golden(pack(model, tmp_path, rows))["0"]
    assert found[0] == rows["0"].iloc[0]
    assert rows["0"].iloc[-1] in set(found)
    assert len(found) == 50


@pytest.mark.parametrize("numbers", [[1, 2, 5], [1.5, 2.0, -3.0], [True] * 3], ids=repr)
def test_so_is_one_for_categories_that_are_numbers(tmp_path: Path, numbers: list[Any]) -> None:
    rows = ROWS.assign(city=numbers * 8)
    with pytest.raises(PackError, match="were to be allowed, but the model fails"):
        pack(encoded(OneHotEncoder(), rows=rows), tmp_path, rows, unknown={"city": "allow"})
    model = encoded(OneHotEncoder(handle_unknown="ignore"), rows=rows)
    artifact = pack(model, tmp_path, rows, unknown={"city": "allow"})
    assert artifact.manifest.engine == "onnx"


# Formats and trust


def test_a_type_that_skops_must_not_load_is_named_and_joblib_is_the_way_out(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(minus_batch_mean), clone(TREE)).fit(NUMBERS, TARGET)
    with pytest.raises(
        UntrustedModel, match=r"tests\.estimators\.minus_batch_mean.*--format joblib"
    ):
        pack(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    artifact = pack(model, tmp_path, format="joblib")
    with pytest.raises(UntrustedModel, match="--allow-pickle"):
        loading.load(artifact)
    loading.load(artifact, allow_pickle=True)


def test_a_model_whose_answers_depend_on_the_batch_is_never_joined(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(minus_batch_mean), LogisticRegression())
    artifact = pack(model.fit(NUMBERS, TARGET), tmp_path, format="joblib")
    assert artifact.manifest.parity.joinable is False
    assert artifact.manifest.parity.max_difference > 0.01


def test_a_model_that_answers_the_same_in_any_batch_may_be_joined(tmp_path: Path) -> None:
    parity = pack(TREE, tmp_path).manifest.parity
    assert (parity.joinable, parity.exactness, parity.max_difference) == (True, "bits", 0.0)
    assert parity.batch_sizes == [1, 7, 64]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
@pytest.mark.parametrize("suffix", ["joblib", "pkl", "skops"])
def test_a_model_file_is_packed_and_a_pickle_only_when_allowed(tmp_path: Path, suffix: str) -> None:
    path, sample = tmp_path / f"model.{suffix}", tmp_path / "rows.csv"
    path.write_bytes((skops.io if suffix == "skops" else pickle).dumps(TREE))
    NUMBERS.assign(churn=TARGET).to_csv(sample, index=False)
    options: dict[str, Any] = {
        "target": "churn",
        "out": tmp_path / "out",
        "name": "m",
        "version": "1",
    }
    if suffix != "skops":
        with pytest.raises(UntrustedModel, match="--allow-pickle"):
            packing.pack_from_files(str(path), sample, allow_pickle=False, **options)
    folder = packing.pack_from_files(str(path), sample, allow_pickle=suffix != "skops", **options)
    manifest = loading.load(Artifact(folder)).manifest
    assert manifest.metrics[0].data == "rows.csv"
    assert manifest.training_date == datetime.fromtimestamp(path.stat().st_mtime, UTC)


@pytest.mark.parametrize(
    ("spec", "content", "message"),
    [
        ("model.joblib", b"garbage", "it is no pickle"),
        ("model.pkl", b"cno_such_module\nX\n.", "refers to X of the module no_such_module"),
        ("absent.joblib", None, "Cannot read the model"),
        ("model.h5", b"", "Expected a model as FILE.skops"),
        ("model.onnx", b"", "is no ONNX file"),
        ("model.onnx", b"\x80\x04N.", "is no ONNX file"),
        ("model.json", b"{L\0", "not what its name says. Expected a model of XGBoost in JSON"),
        ("model.ubj", b'{"learner":{}}', "Expected a model of XGBoost in UBJSON"),
        ("model.json", b'{"a":1}', "cannot be read"),
        ("model.txt", b"age,income\n", "Expected a model of LightGBM"),
        ("model.cbm", b"tree\n", "Expected a model of CatBoost"),
        ("model.skops", b"\x80\x04N.", "no skops file"),
        ("no_such_module:model", None, "Cannot import no_such_module:model"),
        ("tests.estimators:absent", None, "Cannot import tests.estimators:absent"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused_with_a_sentence(
    tmp_path: Path, spec: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / spec
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OperatorError, match=message):
        sources.load_model(spec if ":" in spec else str(path), allow_pickle=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flavors: {python_function: {loader_module: m}}", "is code and no file of a model"),
        ("flavors: {xgboost: {data: ../m.ubj}}", "names the file '../m.ubj', which is not there"),
        ("flavors: {onnx: {}}", "does not say which file"),
        ("[", "does not say what flavors there are"),
        (None, "Expected a folder of MLflow's with MLmodel"),
    ],
)
def test_a_folder_of_mlflows_that_cannot_be_read_is_refused_with_a_sentence(
    tmp_path: Path, text: str | None, message: str
) -> None:
    (tmp_path / "m.ubj").write_bytes(b"{L")
    (tmp_path / "mlflow").mkdir()
    if text is not None:
        (tmp_path / "mlflow" / "MLmodel").write_text(text)
    with pytest.raises(PackError, match=message):
        sources.load_model(str(tmp_path / "mlflow"), allow_pickle=True)


def test_categories_and_labels_are_read_from_a_csv_file_as_they_stand_there(tmp_path: Path) -> None:
    heating = ["None", "Gas", "01", "NA"] * 10
    rows = pd.DataFrame({"heating": heating, "rooms": [1.0, None, 3.0, 4.0] * 10})
    labels = ["01" if value == "None" else "1" for value in heating]
    encode = make_column_transformer((OneHotEncoder(), ["heating"]), remainder=SimpleImputer())
    model = make_pipeline(encode, DecisionTreeClassifier(random_state=0)).fit(rows, labels)
    path, sample = tmp_path / "model.skops", tmp_path / "rows.csv"
    path.write_bytes(skops.io.dumps(model))
    rows.assign(label=labels).to_csv(sample, index=False)

    folder = packing.pack_from_files(
        str(path), sample, target="label", out=tmp_path, name="m", version="1", allow_pickle=False
    )

    manifest = Artifact(folder).manifest
    features = {feature.name: feature for feature in manifest.signature.features}
    assert manifest.metrics[0].value == 1.0
    assert not features["heating"].nullable
    assert features["rooms"].nullable
    proven = {row["heating"] for row in Artifact(folder).golden().rows}
    assert proven == {"None", "Gas", "01", "NA"}


def test_a_sample_that_is_no_csv_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("rows.csv", "absent.csv"):
        with pytest.raises(PackError, match="Cannot read the sample data"):
            sources.read_sample(tmp_path / name, {})


def test_a_sample_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(",age,age,,age.1\n1,2,3,4,5\n")
    with pytest.raises(PackError, match="several columns named age"):
        sources.read_sample(tmp_path / "rows.csv", {})


# Flags


def test_flags_declare_an_output_and_policies() -> None:
    declared = sources.declared_output("p", "Yes", 3, "risk: Low < 0.5 <= High")
    assert declared == tabserve.Output(
        name="p", positive="Yes", round=3, bands=tabserve.Bands.parse("risk: Low < 0.5 <= High")
    )
    assert sources.declared_output(None, None, None, None) is None
    assert sources.policies(["a=b=allow", "c=missing"]) == {"a=b": "allow", "c": "missing"}
    with pytest.raises(PackError, match="say --output-name too"):
        sources.declared_output(None, "Yes", None, None)
    with pytest.raises(PackError, match="got 'city=forbid'"):
        sources.policies(["city=forbid"])


def test_a_random_answer_is_not_packed(tmp_path: Path) -> None:
    from sklearn.dummy import DummyClassifier

    model = DummyClassifier(strategy="uniform").fit(NUMBERS, TARGET)
    with pytest.raises(NotReproduced, match="does not give its golden outputs") as caught:
        pack(model, tmp_path)
    assert str(caught.value).endswith(
        "(class bits). It is the same model where it is packed: its answers change from call to "
        "call, or depend on what its file or a request does not hold, as the sample's index."
    )


def test_the_artefact_is_plain_json_and_a_model_file(tmp_path: Path) -> None:
    artifact = pack(clone(TREE).fit(NUMBERS, TARGET), tmp_path)
    manifest = json.loads((artifact.folder / "manifest.json").read_text())
    lines = (artifact.folder / "golden.jsonl").read_text().splitlines()
    assert manifest["parity"]["n_rows"] == len(lines) == len(NUMBERS)
    assert json.loads(lines[0])["row"] == {"income": 10.5, "age": 20.0}


@pytest.mark.parametrize(
    ("model", "classes", "message"),
    [
        (TREE, ["No", "Yes"], "DecisionTreeClassifier says itself"),
        (doubled, ["No", "Yes"], "this model says itself"),
        (lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(NUMBERS, TARGET), ["No"],
         "has 2 classes, so as many different names are needed"),
    ],
)  # fmt: skip
def test_names_of_classes_that_cannot_be_are_refused(
    model: Any, classes: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PackError, match=message):
        pack(model, tmp_path, classes=classes)
