"""The same real processes as in tests/end_to_end."""

from tests.end_to_end.conftest import own_repository, serve

__all__ = ["own_repository", "serve"]


def customer_at_72(statement: str) -> str:
    """The source of a request class that does this where a customer has stayed for 72 months."""
    return f"""
import time
from pydantic import BaseModel, field_validator

class Customer(BaseModel):
    tenure_months: int
    monthly_charges: float
    total_charges: float | None
    contract_type: str

    @field_validator("tenure_months")
    @classmethod
    def _checked(cls, value):
        if value == 72:
            {statement}
        return value
"""
