from fastapi.testclient import TestClient

from delivery_data import FEATURES, generate
from train import pipeline

RECORD = {"distance_km": 12.5, "parcels": 2, "weight_kg": 8.0, "vehicle": "bike"}


def test_a_shipment_gets_its_probability(client: TestClient) -> None:
    answer = client.post("/predict", json=RECORD | {"order_id": "A-1"})
    assert answer.status_code == 200
    assert 0 <= answer.json()["late_probability"] <= 1
    assert answer.json()["order_id"] == "A-1"


def test_a_weight_may_be_unknown(client: TestClient) -> None:
    assert client.post("/predict", json=RECORD | {"weight_kg": None}).status_code == 200


def test_parcels_too_heavy_for_the_vehicle_are_refused(client: TestClient) -> None:
    answer = client.post("/predict", json=RECORD | {"weight_kg": 21.0})
    assert answer.status_code == 422
    assert "weight_kg is more than 20" in answer.json()["detail"][0]["msg"]


def test_an_unknown_vehicle_is_refused(client: TestClient) -> None:
    answer = client.post("/predict", json=RECORD | {"vehicle": "boat"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "vehicle"]


def test_far_shipments_are_late_more_often() -> None:
    rows = generate()
    model = pipeline().fit(rows[FEATURES], rows["late"])
    near, far = rows[FEATURES].assign(distance_km=3.0), rows[FEATURES].assign(distance_km=40.0)
    assert (model.predict_proba(far) - model.predict_proba(near))[:, 1].mean() > 0.3
