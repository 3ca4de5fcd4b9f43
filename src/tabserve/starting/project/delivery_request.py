"""What a request holds: names and limits of the fields, and what they must be together."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Of one parcel by that vehicle.
MOST_KG = {"bike": 10.0, "car": 40.0, "van": 80.0}


class DeliveryRequest(BaseModel):
    """The model's features by the names of its columns, and order_id, which is echoed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"distance_km": 12.5, "parcels": 2, "weight_kg": 8.0, "vehicle": "bike"},
                {
                    "order_id": "A-1009",
                    "distance_km": 31.0,
                    "parcels": 5,
                    "weight_kg": None,
                    "vehicle": "van",
                },
            ]
        },
    )

    order_id: str | None = Field(default=None, max_length=64)
    distance_km: float = Field(gt=0, le=500)
    parcels: int = Field(ge=1, le=100)
    weight_kg: float | None = Field(default=None, gt=0, description="null where nobody weighed.")
    vehicle: Literal["bike", "car", "van"]

    @model_validator(mode="after")
    def fits_the_vehicle(self) -> Self:
        most = MOST_KG[self.vehicle] * self.parcels
        if self.weight_kg is not None and self.weight_kg > most:
            raise ValueError(f"weight_kg is more than {most:g}, the most for these parcels")
        return self
