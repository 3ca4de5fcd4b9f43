"""The same real processes as in tests/end_to_end."""

from tests.end_to_end.conftest import own_repository, serve

__all__ = ["own_repository", "serve"]
