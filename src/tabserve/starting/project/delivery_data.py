"""Shipments to learn from: made up, so put your own data in their place."""

import numpy as np
import pandas as pd

from delivery_request import MOST_KG

FEATURES = ["distance_km", "parcels", "weight_kg", "vehicle"]
TARGET = "late"
VEHICLES = ("bike", "car", "van")


def generate(n_rows: int = 3000, seed: int = 0) -> pd.DataFrame:
    """The same arguments give the same shipments. Some have no weight, since nobody weighed."""
    random = np.random.default_rng(seed)
    vehicle = random.choice(VEHICLES, n_rows, p=[0.3, 0.4, 0.3])
    parcels = random.integers(1, 9, n_rows)
    most = pd.Series(vehicle).map(MOST_KG).to_numpy()
    weight = (random.uniform(0.05, 0.95, n_rows) * most * parcels).round(1)
    distance = random.gamma(2.0, 6.0, n_rows).round(1) + 0.1
    strain = 0.09 * distance + 0.01 * weight - np.where(vehicle == "bike", 0.8, 0.0) - 1.8
    late = random.random(n_rows) < 1 / (1 + np.exp(-strain))
    weight[random.random(n_rows) < 0.05] = np.nan
    return pd.DataFrame(
        {
            "distance_km": distance,
            "parcels": parcels,
            "weight_kg": weight,
            "vehicle": vehicle,
            "late": np.where(late, "yes", "no"),
        }
    )
