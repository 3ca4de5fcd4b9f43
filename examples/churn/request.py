"""What a request to the churn API holds: the user's own pydantic class."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ChurnRequest(BaseModel):
    """One customer. The names are those of the columns that the model was fitted on."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "tenure_months": 12,
                    "monthly_charges": 65.5,
                    "total_charges": 786.0,
                    "contract_type": "Month-to-month",
                },
                {
                    "customer_id": "7590-VHVEG",
                    "tenure_months": 60,
                    "monthly_charges": 20.05,
                    "total_charges": None,
                    "contract_type": "Two year",
                },
            ]
        },
    )

    customer_id: str | None = Field(default=None, max_length=64, description="Echoed.")
    tenure_months: int = Field(ge=0, le=240, description="Months since the contract began.")
    monthly_charges: float = Field(ge=0, le=1000, description="US dollars a month.")
    total_charges: float | None = Field(
        default=None, ge=0, description="US dollars so far; null where it is not known."
    )
    contract_type: Literal["Month-to-month", "One year", "Two year"]

    @model_validator(mode="after")
    def charges_add_up(self) -> Self:
        """A total far from months times charge is a mistake of the caller's system."""
        expected = self.monthly_charges * self.tenure_months
        if self.tenure_months > 0 and self.total_charges is not None:  # noqa: SIM102
            if abs(self.total_charges - expected) > 0.5 * expected:
                raise ValueError(
                    "total_charges is further than 50 % from monthly_charges * tenure_months"
                )
        return self
