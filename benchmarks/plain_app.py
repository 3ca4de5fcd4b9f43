"""(a) The plain way: what a data scientist writes by hand for the same model."""

import os
from typing import Any

import joblib
import pandas as pd
from fastapi import FastAPI

from examples.churn.request import ChurnRequest

app = FastAPI()
model = joblib.load(os.environ["MODEL"])


def answer(record: ChurnRequest) -> dict[str, Any]:
    row = record.model_dump(exclude={"customer_id"})
    probability = float(model.predict_proba(pd.DataFrame([row]))[0, 1])
    band = "Low" if probability < 0.3 else "Medium" if probability < 0.7 else "High"
    return {"churn_probability": round(probability, 3), "risk_category": band}


@app.post("/predict")
async def predict(record: ChurnRequest) -> dict[str, Any]:
    return answer(record)


@app.post("/predict/batch")
async def predict_batch(records: list[ChurnRequest]) -> dict[str, Any]:
    predictions = [answer(record) for record in records]
    return {"predictions": predictions, "count": len(predictions)}
