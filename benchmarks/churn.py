"""Rows of the churn example that its request class takes: a benchmark of refusals says nothing."""

import json
from typing import Any

from examples.churn import data
from examples.churn.request import ChurnRequest


def rows(customers: Any) -> list[dict[str, Any]]:
    features, _ = data.features_and_target(customers)
    found: list[dict[str, Any]] = json.loads(features.to_json(orient="records"))
    return [row for row in found if _adds_up(row)]


def _adds_up(row: dict[str, Any]) -> bool:
    try:
        ChurnRequest.model_validate(row)
    except ValueError:
        return False
    return True
