"""API keys: random, shown once, kept as hashes."""

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Container, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tabserve.errors import Forbidden, InvalidSettings, ModelNotReady, Unauthorized
from tabserve.types import Moment

HEADER = "X-API-Key"

# What a key is for: predictions and all that is told of models; metrics and what is told of models;
# or everything.
Role = Literal["predict", "metrics", "admin"]

_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_INLINE = re.compile(rf"({_NAME}):([0-9a-f]{{64}})(?::(predict|metrics|admin))?")


class Key(BaseModel):
    """hash: SHA-256 of the key. Keys have 256 random bits, so that no slow hash is needed."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=f"^{_NAME}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: Moment | None = None
    role: Role = "predict"


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key] = []


class Keys:
    """Tells whose key it is.

    source: a file, which is read again when it changes, so that a revoked key is refused at once;
    or NAME:HASH or NAME:HASH:ROLE separated by commas.
    Raises InvalidSettings where neither can be read.
    """

    def __init__(self, source: str) -> None:
        inline = [_INLINE.fullmatch(pair.strip()) for pair in source.split(",")]
        if all(inline):
            self._path = None
            self._read = (
                (0, 0, 0),
                {pair[2]: (pair[1], pair[3] or "predict") for pair in inline if pair},
            )
        else:
            self._path = Path(source)
            # Version first: a change in between is then seen the next time.
            self._read = _version(self._path), _names(self._path)

    def holder(self, key: str | None, roles: Container[str] | None = None) -> str:
        """The name that the key was given to. roles: of which the key must have one; None for any.

        Raises Unauthorized, Forbidden.
        """
        if not key:
            raise Unauthorized(f"Expected an API key in the header {HEADER}.")
        digest = hashlib.sha256(key.encode()).hexdigest()
        # How long a look-up by hash takes says something of the hash of what was sent, and so
        # nothing of a key.
        known = self._current().get(digest)
        if known is None:
            raise Forbidden("The API key is not known, or was revoked.")
        name, role = known
        if roles is not None and role not in roles:
            raise Forbidden(f"The API key has the role {role}, which is not enough here.")
        return name

    def _current(self) -> dict[str, tuple[str, str]]:
        """Name and role by hash."""
        if self._path is not None:
            try:
                version = _version(self._path)
                if version != self._read[0]:
                    # In one step: other threads read it too.
                    self._read = version, _names(self._path)
            except InvalidSettings:
                # Nobody is let in on the strength of what the file said once.
                raise ModelNotReady("The server's keys cannot be read at the moment.") from None
        return self._read[1]


def _names(path: Path) -> dict[str, tuple[str, str]]:
    return {key.hash: (key.name, key.role) for key in read_keys(path)}


def _version(path: Path) -> tuple[int, int, int]:
    try:
        stat = os.stat(path)  # noqa: PTH116 - for each request; Path takes as long again
    except OSError as error:
        raise InvalidSettings(
            f"Cannot read the keys in {path}: {error.strerror}. Make one with: "
            f"tabserve keys add NAME --keys {path}"
        ) from None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def read_keys(path: Path) -> list[Key]:
    """Raises InvalidSettings."""
    _refuse_no_file(path)
    try:
        return _KeyFile.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise InvalidSettings(f"Cannot read the keys in {path}: {error.strerror}.") from None
    except ValidationError:
        raise InvalidSettings(f"{path} is no file of keys as tabserve keys makes it.") from None


def _refuse_no_file(path: Path) -> None:
    """TABSERVE_KEYS may hold keys, whose hashes are not to be repeated as the name of a file."""
    if _INLINE.fullmatch(str(path).partition(",")[0].strip()):
        raise InvalidSettings(
            "Expected a file of keys, got the keys themselves; name the file with --keys."
        )
    if path.is_dir():
        raise InvalidSettings(f"Expected a file of keys, got the folder {path}.")


def add_key(path: Path, name: str, role: Role = "predict") -> str:
    """The new key, which is nowhere else. Raises InvalidSettings where the name is taken."""
    key = f"ts_{secrets.token_urlsafe(32)}"
    if not re.fullmatch(_NAME, name):
        raise InvalidSettings(f"Expected a name of letters, digits and ._@-, got {name!r}.")
    with _editing(path) as keys:
        if any(other.name == name for other in keys):
            raise InvalidSettings(f"{path} has a key named {name} already; revoke it first.")
        digest = hashlib.sha256(key.encode()).hexdigest()
        keys.append(Key(name=name, hash=digest, created=datetime.now(UTC), role=role))
    return key


def revoke_key(path: Path, name: str) -> None:
    """Raises InvalidSettings where there is no such key."""
    _refuse_no_file(path)
    _version(path)
    with _editing(path) as keys:
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            raise InvalidSettings(f"{path} has no key named {name}.")
        keys[:] = kept


@contextmanager
def _editing(path: Path) -> Iterator[list[Key]]:
    """The file's keys, written back in one step; one editor at a time."""
    _refuse_no_file(path)
    lock_path = path.with_name(path.name + ".lock")
    try:
        with lock_path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = read_keys(path) if path.exists() else []
            yield keys
            unfinished = path.with_name(path.name + ".new")
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(_KeyFile(keys=keys).model_dump_json(indent=2) + "\n")
            unfinished.replace(path)
    except OSError as error:
        raise InvalidSettings(f"Cannot write the keys in {path}: {error.strerror}.") from None
