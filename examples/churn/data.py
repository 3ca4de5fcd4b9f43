"""Telco customers: the real file read, or customers like them generated.

The file is "Telco Customer Churn", which IBM published as sample data: 7,043 customers, 21 columns.
All shares and coefficients below were measured on it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]

# The file's names of what the model sees, and the model's.
FEATURES = {
    "tenure": "tenure_months",
    "MonthlyCharges": "monthly_charges",
    "TotalCharges": "total_charges",
    "Contract": "contract_type",
}
TARGET = "Churn"

CONTRACTS = ("Month-to-month", "One year", "Two year")
INTERNET = ("DSL", "Fiber optic", "No")
PAYMENTS = (
    "Electronic check",
    "Mailed check",
    "Bank transfer (automatic)",
    "Credit card (automatic)",
)

# One line per span of tenure: its last month, its customers, and their shares of CONTRACTS.
_TENURE_SPANS = np.array(
    [
        (0, 11, 0.000, 0.091, 0.909),
        (1, 613, 0.985, 0.011, 0.004),
        (3, 438, 0.961, 0.030, 0.009),
        (6, 419, 0.926, 0.043, 0.031),
        (12, 705, 0.824, 0.121, 0.055),
        (24, 1024, 0.720, 0.192, 0.088),
        (36, 832, 0.584, 0.300, 0.116),
        (48, 762, 0.415, 0.352, 0.233),
        (60, 832, 0.281, 0.386, 0.333),
        (66, 463, 0.158, 0.343, 0.499),
        (70, 412, 0.068, 0.265, 0.667),
        (71, 170, 0.029, 0.165, 0.806),
        (72, 362, 0.006, 0.047, 0.947),
    ]
)

# Shares of INTERNET by contract, then by tenure up to 12, up to 48 and above 48 months.
_INTERNET_SHARES = np.array(
    [
        [(0.35, 0.46, 0.19), (0.29, 0.62, 0.09), (0.22, 0.78, 0.00)],
        [(0.34, 0.06, 0.60), (0.45, 0.25, 0.30), (0.33, 0.56, 0.11)],
        [(0.25, 0.00, 0.75), (0.29, 0.11, 0.60), (0.40, 0.31, 0.29)],
    ]
)

# By internet service, in the order of INTERNET.
_PHONE = np.array([0.718, 1.0, 1.0])
_SENIOR = np.array([0.107, 0.268, 0.034])
_PAPERLESS = np.array([0.549, 0.774, 0.292])
_PAYMENT_SHARES = np.array(
    [
        (0.268, 0.253, 0.234, 0.245),
        (0.515, 0.083, 0.209, 0.193),
        (0.080, 0.486, 0.217, 0.217),
    ]
)

# Add-ons of an internet service: US dollars a month, then the log-odds of having it: constant,
# fiber, per year of tenure, one-year contract, two-year contract.
_ADD_ONS = {
    "OnlineSecurity": (5, -1.24, -0.94, 0.28, 0.62, 1.13),
    "OnlineBackup": (5, -1.49, -0.04, 0.43, 0.14, 0.22),
    "DeviceProtection": (5, -1.57, 0.21, 0.29, 0.69, 1.25),
    "TechSupport": (5, -1.20, -0.78, 0.16, 0.96, 1.99),
    "StreamingTV": (10, -1.47, 0.94, 0.23, 0.51, 0.89),
    "StreamingMovies": (10, -1.45, 0.89, 0.24, 0.51, 0.88),
}

# US dollars a month; a least-squares fit of the file gives these to within 0.1.
_PRICES = {"DSL": 25, "Fiber optic": 50, "No": 0, "phone": 20, "second line": 5}


def load(path: Path) -> pd.DataFrame:
    """The customers of the Telco file, its columns as they are; blank numbers become NaN.

    Raises ValueError where a column that the model needs is missing, or a charge is no number.
    """
    # A blank is a single space in the file, so without skipinitialspace the column would be text.
    charges = {"MonthlyCharges": float, "TotalCharges": float}
    frame = pd.read_csv(path, dtype=charges, skipinitialspace=True)
    missing = [name for name in (*FEATURES, TARGET) if name not in frame.columns]
    if missing:
        raise ValueError(
            f"Expected the columns of the Telco churn file, and found no {', '.join(missing)} in "
            f"{path}. Give that file, with its header line."
        )
    return frame


def features_and_target(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """The four features under the model's names, and whether the customer left: "Yes" or "No"."""
    return frame[list(FEATURES)].rename(columns=FEATURES), frame[TARGET]


def generate(n_rows: int = 7043, seed: int = 0) -> pd.DataFrame:
    """Customers like those of the Telco file: its columns, dtypes and categories, about its shares.

    The same arguments give the same customers. TotalCharges is NaN exactly where tenure is 0.
    """
    random = np.random.default_rng(seed)
    tenure, contract = _tenures_and_contracts(random, n_rows)
    internet = _internet(random, tenure, contract)
    services = _services(random, tenure, contract, internet)
    partner = _happens(random, _sigmoid(-1.16 + 0.40 * tenure / 12))
    monthly = _monthly_charges(random, services)
    customers = {
        "customerID": _customer_ids(random, n_rows),
        "gender": np.where(_happens(random, np.full(n_rows, 0.505)), "Male", "Female"),
        "SeniorCitizen": _happens(random, _SENIOR[internet]).astype(np.int64),
        "Partner": _yes_no(partner),
        "Dependents": _yes_no(_happens(random, np.where(partner, 0.514, 0.099))),
        "tenure": tenure,
        **services,
        "Contract": np.array(CONTRACTS)[contract],
        "PaperlessBilling": _yes_no(_happens(random, _PAPERLESS[internet])),
        "PaymentMethod": np.array(PAYMENTS)[_choices(random, _PAYMENT_SHARES[internet])],
        "MonthlyCharges": monthly,
        "TotalCharges": _total_charges(random, tenure, monthly),
    }
    customers[TARGET] = _yes_no(_happens(random, _churn_probability(customers)))
    return pd.DataFrame(customers)


def _tenures_and_contracts(random: np.random.Generator, n_rows: int) -> tuple[Array, Array]:
    """Months and positions in CONTRACTS, (n_rows,) each."""
    last_months, counts = _TENURE_SPANS[:, 0].astype(np.int64), _TENURE_SPANS[:, 1]
    first_months = np.concatenate([[0], last_months[:-1] + 1])
    span = random.choice(len(counts), size=n_rows, p=counts / counts.sum())
    tenure = random.integers(first_months[span], last_months[span], endpoint=True)
    return tenure, _choices(random, _TENURE_SPANS[span, 2:])


def _internet(random: np.random.Generator, tenure: Array, contract: Array) -> Array:
    """Positions in INTERNET, (n_rows,)."""
    return _choices(random, _INTERNET_SHARES[contract, np.digitize(tenure, [13, 49])])


def _services(
    random: np.random.Generator, tenure: Array, contract: Array, internet: Array
) -> dict[str, Array]:
    """The columns from PhoneService to StreamingMovies, in the file's order."""
    years, fiber, none = tenure / 12, internet == 1, internet == 2
    phone = _happens(random, _PHONE[internet])
    lines = _happens(random, _sigmoid(-1.65 + 1.11 * fiber - 0.85 * none + 0.42 * years))
    services = {
        "PhoneService": _yes_no(phone),
        "MultipleLines": np.where(phone, _yes_no(lines), "No phone service"),
        "InternetService": np.array(INTERNET)[internet],
    }
    for name, (_, constant, of_fiber, a_year, one_year, two_year) in _ADD_ONS.items():
        score = constant + of_fiber * fiber + a_year * years
        score += one_year * (contract == 1) + two_year * (contract == 2)
        has_it = _yes_no(_happens(random, _sigmoid(score)))
        services[name] = np.where(none, "No internet service", has_it)
    return services


def _monthly_charges(random: np.random.Generator, services: dict[str, Array]) -> Array:
    """US dollars: the price list, and a deviation that grows with the price as in the file."""
    price = np.select(
        [services["InternetService"] == name for name in INTERNET],
        [float(_PRICES[name]) for name in INTERNET],
    )
    price += _PRICES["phone"] * (services["PhoneService"] == "Yes")
    price += _PRICES["second line"] * (services["MultipleLines"] == "Yes")
    for name, (dollars, *_) in _ADD_ONS.items():
        price += dollars * (services[name] == "Yes")
    charges = price + 0.12 * np.sqrt(price) * random.standard_normal(len(price))
    # All the file's charges are multiples of 5 cents in this range.
    monthly: Array = (np.clip(charges, 18.25, 118.75) * 20).round() / 20
    return monthly


def _total_charges(random: np.random.Generator, tenure: Array, monthly: Array) -> Array:
    """US dollars so far. The price changed over the months, so it is not quite tenure * monthly.

    The relative deviation in the file has a median of 2 % and falls with the root of the months;
    a t distribution has its tails: 2 of 7,032 deviate by more than 50 %.
    """
    months = np.maximum(tenure, 1)
    deviation = np.where(tenure > 1, 0.155 * random.standard_t(5, len(tenure)), 0.0)
    # Two months can hardly cost less than half a month.
    total = months * monthly * np.maximum(1 + deviation / np.sqrt(months), 0.25)
    return np.where(tenure == 0, np.nan, (total * 20).round() / 20)


def _churn_probability(customers: dict[str, Array]) -> Array:
    """A logistic regression of the file; the constant is set so that 26.5 % leave."""
    score = -0.21 - 0.66 * np.log1p(customers["tenure"]) + 0.014 * customers["MonthlyCharges"]
    for name, value, log_odds in (
        ("Contract", "One year", -0.69),
        ("Contract", "Two year", -1.63),
        ("InternetService", "Fiber optic", 0.48),
        ("InternetService", "No", -0.76),
        ("PaymentMethod", "Electronic check", 0.38),
        ("PaperlessBilling", "Yes", 0.39),
        ("SeniorCitizen", 1, 0.29),
        ("OnlineSecurity", "Yes", -0.44),
        ("TechSupport", "Yes", -0.35),
    ):
        score += log_odds * (customers[name] == value)
    return _sigmoid(score)


def _customer_ids(random: np.random.Generator, n_rows: int) -> Array:
    """Unique, four digits and five letters: 7590-VHVEG."""
    numbers = random.choice(10**4 * 26**5, size=n_rows, replace=False)
    digits, word = np.divmod(numbers, 26**5)
    letters = (word[:, None] // 26 ** np.arange(5) % 26 + ord("A")).astype(np.uint8)
    return np.array(
        [
            f"{digit:04d}-{row.tobytes().decode()}"
            for digit, row in zip(digits, letters, strict=True)
        ]
    )


def _choices(random: np.random.Generator, shares: Array) -> Array:
    """One position per row, (n_rows,), from shares (n_rows, n_choices) that add up to about 1."""
    edges = shares.cumsum(axis=1)
    position: Array = (random.random((len(shares), 1)) * edges[:, -1:] >= edges).sum(axis=1)
    return position


def _happens(random: np.random.Generator, probability: Array) -> Array:
    return random.random(len(probability)) < probability


def _yes_no(happens: Array) -> Array:
    return np.where(happens, "Yes", "No")


def _sigmoid(score: Array) -> Array:
    probability: Array = 1 / (1 + np.exp(-score))
    return probability
