"""One file per kind of model that can be packed: what packing asks of the model itself."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from tabserve.artifact import Exactness, ModelFormat
from tabserve.feature import Unknown
from tabserve.output import Target
from tabserve.signature import Signature
from tabserve.types import Engine, Outputs, Parts


class Original(Protocol):
    """name_of_type: for people. lowerable: the model that a graph may be made of, if it is one."""

    name_of_type: str
    exactness: Exactness
    lowerable: Any | None

    def rows(self, data: Any) -> Any:
        """The columns that the model takes, in its order, as a DataFrame. Raises PackError."""
        ...

    def usual_rows(self) -> Any:
        """A few such rows made of what the model itself knows. Raises PackError."""
        ...

    def signature(
        self, rows: Any, unknown: Mapping[str, Unknown], extra_fields: Literal["refuse", "ignore"]
    ) -> Signature: ...

    def targets(self, rows: Any, target: Any | None) -> tuple[Target, ...]: ...

    def computing(self) -> AbstractContextManager[None]:
        """Within it the model computes as it will where it is served."""
        ...

    def engine(self, signature: Signature, targets: tuple[Target, ...], parts: Parts) -> Engine:
        """The model itself."""
        ...

    def outputs(self, engine: Engine, rows: Any) -> Outputs:
        """What `engine` says of the very rows of the user's."""
        ...

    def files(self) -> dict[ModelFormat, bytes]: ...

    def packed(
        self,
        files: Mapping[ModelFormat, bytes],
        signature: Signature,
        targets: tuple[Target, ...],
        parts: Parts,
    ) -> Engine:
        """The model as it comes back out of its files."""
        ...

    def libraries(self) -> dict[str, str]: ...
