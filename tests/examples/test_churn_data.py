"""Generated customers are like the real ones, and the real file is read as it is meant."""

from pathlib import Path

import pandas as pd
import pytest

from examples.churn import data

TELCO = Path(__file__).parents[2].parent / "shared/data/telco_churn.csv"

# Shares, means and churn rates of the real file. Seed 0 is at most 0.012, 1.2 % and 0.004 off.
SHARES = {
    "gender": {"Male": 0.505, "Female": 0.495},
    "SeniorCitizen": {0: 0.838, 1: 0.162},
    "Partner": {"No": 0.517, "Yes": 0.483},
    "Dependents": {"No": 0.700, "Yes": 0.300},
    "PhoneService": {"Yes": 0.903, "No": 0.097},
    "MultipleLines": {"No": 0.481, "Yes": 0.422, "No phone service": 0.097},
    "InternetService": {"Fiber optic": 0.440, "DSL": 0.344, "No": 0.217},
    "OnlineSecurity": {"No": 0.497, "Yes": 0.287, "No internet service": 0.217},
    "OnlineBackup": {"No": 0.438, "Yes": 0.345, "No internet service": 0.217},
    "DeviceProtection": {"No": 0.439, "Yes": 0.344, "No internet service": 0.217},
    "TechSupport": {"No": 0.493, "Yes": 0.290, "No internet service": 0.217},
    "StreamingTV": {"No": 0.399, "Yes": 0.384, "No internet service": 0.217},
    "StreamingMovies": {"No": 0.395, "Yes": 0.388, "No internet service": 0.217},
    "Contract": {"Month-to-month": 0.550, "Two year": 0.241, "One year": 0.209},
    "PaperlessBilling": {"Yes": 0.592, "No": 0.408},
    "PaymentMethod": {
        "Electronic check": 0.336,
        "Mailed check": 0.229,
        "Bank transfer (automatic)": 0.219,
        "Credit card (automatic)": 0.216,
    },
    "Churn": {"No": 0.735, "Yes": 0.265},
}
MEANS = {"tenure": 32.37, "MonthlyCharges": 64.76, "TotalCharges": 2283.30}
CHURN_RATES = {"Month-to-month": 0.427, "One year": 0.113, "Two year": 0.028}


@pytest.fixture(scope="module")
def customers() -> pd.DataFrame:
    return data.generate()


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    if not TELCO.exists():
        pytest.skip("the Telco file is not beside this checkout")
    return data.load(TELCO)


@pytest.fixture(params=["customers", "real"])
def either(request: pytest.FixtureRequest) -> pd.DataFrame:
    frame: pd.DataFrame = request.getfixturevalue(request.param)
    return frame


def churn_rates(frame: pd.DataFrame) -> dict[str, float]:
    rates = (frame["Churn"] == "Yes").groupby(frame["Contract"]).mean()
    return {str(contract): rate for contract, rate in rates.items()}


def test_the_same_seed_gives_the_same_customers() -> None:
    pd.testing.assert_frame_equal(data.generate(50, seed=3), data.generate(50, seed=3))


def test_another_seed_gives_other_customers() -> None:
    assert not data.generate(50, seed=3).equals(data.generate(50, seed=4))


def test_generated_customers_have_the_columns_and_dtypes_of_the_real_ones(
    customers: pd.DataFrame, real: pd.DataFrame
) -> None:
    assert customers.dtypes.to_dict() == real.dtypes.to_dict()
    assert list(customers.columns) == list(real.columns)


@pytest.mark.parametrize("column", SHARES)
def test_shares_of_categories_are_the_real_ones(either: pd.DataFrame, column: str) -> None:
    shares = either[column].value_counts(normalize=True).to_dict()

    assert shares == pytest.approx(SHARES[column], abs=0.02)


def test_means_are_the_real_ones(either: pd.DataFrame) -> None:
    assert either[list(MEANS)].mean().to_dict() == pytest.approx(MEANS, rel=0.05)


def test_churn_by_contract_is_the_real_one(either: pd.DataFrame) -> None:
    assert churn_rates(either) == pytest.approx(CHURN_RATES, abs=0.04)


def test_total_charges_are_about_tenure_times_monthly_charges(either: pd.DataFrame) -> None:
    charged = either[either["tenure"] > 0]
    expected = charged["tenure"] * charged["MonthlyCharges"]

    deviation = (charged["TotalCharges"] / expected - 1).abs()

    assert deviation.median() == pytest.approx(0.02, abs=0.004)
    assert (deviation > 0.5).mean() < 0.001


def test_total_charges_are_missing_exactly_where_tenure_is_0(either: pd.DataFrame) -> None:
    missing, new = either["TotalCharges"].isna(), either["tenure"] == 0

    assert new.sum() > 0
    pd.testing.assert_series_equal(missing, new, check_names=False)


def test_who_has_no_phone_or_internet_has_none_of_its_services(either: pd.DataFrame) -> None:
    services = list(SHARES)[list(SHARES).index("OnlineSecurity") : list(SHARES).index("Contract")]
    no_phone, no_internet = either["PhoneService"] == "No", either["InternetService"] == "No"

    assert ((either["MultipleLines"] == "No phone service") == no_phone).all()
    assert (either[services] == "No internet service").eq(no_internet, axis=0).all(axis=None)


def test_customer_ids_are_unique_and_look_like_the_real_ones(either: pd.DataFrame) -> None:
    assert either["customerID"].is_unique
    assert either["customerID"].str.fullmatch(r"\d{4}-[A-Z]{5}").all()


def test_a_blank_total_is_missing_and_not_0(tmp_path: Path) -> None:
    path = tmp_path / "telco.csv"
    path.write_text(
        "tenure,MonthlyCharges,TotalCharges,Contract,Churn\n"
        "0,20, ,Two year,No\n"
        "2,29.85,60.1,Month-to-month,Yes\n"
    )

    frame = data.load(path)

    assert frame["TotalCharges"].isna().tolist() == [True, False]
    assert frame["TotalCharges"].tolist()[1] == 60.1
    assert frame["MonthlyCharges"].tolist() == [20.0, 29.85]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "telco.csv"
    path.write_text("customerID,tenure,MonthlyCharges,Contract\n")

    with pytest.raises(ValueError) as caught:
        data.load(path)

    assert str(caught.value) == (
        "Expected the columns of the Telco churn file, and found no TotalCharges, Churn in "
        f"{path}. Give that file, with its header line."
    )


def test_features_have_the_names_of_the_api(customers: pd.DataFrame) -> None:
    features, target = data.features_and_target(customers)

    assert list(features) == ["tenure_months", "monthly_charges", "total_charges", "contract_type"]
    assert features["total_charges"].equals(customers["TotalCharges"])
    assert target.equals(customers["Churn"])


@pytest.mark.slow
def test_a_forest_finds_as_much_in_generated_customers_as_in_real_ones(
    customers: pd.DataFrame, real: pd.DataFrame
) -> None:
    # Measured: 0.818 and 0.823.
    assert roc_auc(customers) == pytest.approx(roc_auc(real), abs=0.04)


def roc_auc(frame: pd.DataFrame) -> float:
    """Of the example's own pipeline, cross-validated."""
    from sklearn.model_selection import cross_val_score

    from examples.churn.train import pipeline

    features, target = data.features_and_target(frame)
    return float(cross_val_score(pipeline(), features, target, cv=5, scoring="roc_auc").mean())
