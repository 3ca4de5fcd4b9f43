"""Routes: what answers one method on one path, and who may ask."""

from dataclasses import dataclass, field, replace
from typing import Any

from tabserve.auth import Role
from tabserve.types import Handler

# Of the keys that a route takes.
ANY_ROLE: frozenset[Role] = frozenset({"predict", "metrics", "admin"})
PREDICT: frozenset[Role] = frozenset({"predict", "admin"})
METRICS: frozenset[Role] = frozenset({"metrics", "admin"})
ADMIN: frozenset[Role] = frozenset({"admin"})

JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Route:
    """One method on one exact path.

    public: needs no key. limited: counts against the rate limit. has_rows: where that counts rows,
    the handler says how many (`charged`), and else it is one.
    roles: of the keys that it takes. takes: the type of the body, where it reads one.
    template: the path with the names of models and versions left open, under which its latency is
    counted; the path itself where left out.
    operation: its OpenAPI operation; None keeps it out of the document.
    """

    method: str
    path: str
    handler: Handler
    public: bool = False
    limited: bool = False
    has_rows: bool = False
    roles: frozenset[Role] = ANY_ROLE
    takes: str = ""
    operation: dict[str, Any] | None = field(default=None, compare=False)
    template: str = ""

    def below(self, prefix: str, template: str) -> "Route":
        """The same below a path."""
        inner = self.template or self.path
        return replace(self, path=prefix + self.path, template=template + inner)
