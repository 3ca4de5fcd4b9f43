"""What a run was told, and how far it is."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """What `tabserve score` was told. rejects: None for OUT.rejects.ndjson beside it."""

    path: str
    source: Path
    out: Path
    rejects: Path | None = None
    keep: tuple[str, ...] = ()
    request: str | None = None
    allow_pickle: bool = False
    allow_code: bool = False
    processes: int | None = None
    chunk: int | None = None
    resume: bool = False
    replace: bool = False

    @property
    def rejects_path(self) -> Path:
        return self.rejects or self.out.parent / f"{self.out.name}.rejects.ndjson"


@dataclass(frozen=True)
class Progress:
    """share: of the input. resumed: rows that an earlier run had done already."""

    n_scored: int = 0
    n_rejected: int = 0
    n_resumed: int = 0
    share: float = 0.0
    elapsed_s: float = 0.0

    @property
    def n_rows(self) -> int:
        return self.n_scored + self.n_rejected

    @property
    def rows_per_s(self) -> float:
        return (self.n_rows - self.n_resumed) / max(self.elapsed_s, 1e-9)
