"""API keys: random, shown once, kept as hashes."""

import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from time import time
from typing import Literal, NamedTuple
from urllib.parse import unquote_plus

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tabserve.errors import (
    BadRequest,
    Forbidden,
    InvalidSettings,
    ModelNotReady,
    Unauthorized,
    UnknownKey,
)
from tabserve.redaction import PREFIX, has_key
from tabserve.types import Moment

HEADER = "X-API-Key"

# A change of the file is seen after so long, or when a key comes that is not known.
_LOOK_S = 0.5

# What a key is for: predictions and all that is told of models; metrics and what is told of models;
# or everything.
Role = Literal["predict", "metrics", "admin"]

_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_INLINE = re.compile(rf"({_NAME}):([0-9a-f]{{64}})(?::(predict|metrics|admin))?")

# What clients call a key that they put into the address.
_PARAMETER = re.compile(r"(?:^|[&;])(?:(?:x[-_]?)?api[-_]?key|key|(?:access[-_]?)?token)=", re.I)

_DURATION = re.compile(r"(\d{1,6}) ?([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Key(BaseModel):
    """hash: SHA-256 of the key. Keys have 256 random bits, so that no slow hash is needed.

    Several keys may have one name: those of one owner while one takes the other's place.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=f"^{_NAME}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: Moment | None = None
    role: Role = "predict"
    expires: Moment | None = None

    @property
    def has_expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)


class _Holder(NamedTuple):
    """expires: seconds since 1970."""

    name: str
    role: str
    expires: float


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key] = []


class Keys:
    """Tells whose key it is.

    source: a file, which is read again when it changes, so that a revoked key is refused within a
    second; or NAME:HASH or NAME:HASH:ROLE separated by commas. clock: seconds since 1970.
    Raises InvalidSettings where neither can be read.
    """

    def __init__(self, source: str, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._looked = clock()
        if has_key(source):
            raise InvalidSettings(
                "Expected a file of keys, or NAME:HASH, got a key itself: other users of this "
                "machine can read it in the list of processes, so make another one."
            )
        inline = [_INLINE.fullmatch(pair.strip()) for pair in source.split(",")]
        if all(inline):
            self._path = None
            self._read = (
                (0, 0, 0),
                {
                    pair[2]: _Holder(pair[1], pair[3] or "predict", float("inf"))
                    for pair in inline
                    if pair
                },
            )
        elif any(inline):
            raise InvalidSettings(
                "Expected a file of keys, or NAME:HASH or NAME:HASH:ROLE separated by commas, got "
                "other text between these."
            )
        else:
            path = Path(source)
            # Version first: a change in between is then seen the next time.
            self._read = _version(path), _holders(path)
            self._path = path.absolute()  # wherever the code of a model may go

    def holder(self, key: str | None, roles: Container[str] | None = None) -> str:
        """The name that the key was given to. roles: of which the key must have one; None for any.

        Raises Unauthorized, Forbidden.
        """
        if not key:
            raise Unauthorized(f"Expected an API key in the header {HEADER}.")
        digest = _digest(key)
        # How long a look-up by hash takes says something of the hash of what was sent, and so
        # nothing of a key.
        now = self._clock()
        if not 0 <= now - self._looked < _LOOK_S:
            self._look()
        known = self._read[1].get(digest)
        if known is None:  # or only now
            self._look()
            known = self._read[1].get(digest)
        if known is None:
            raise UnknownKey("The API key is not known, or was revoked.")
        if known.expires <= now:
            raise Forbidden("The API key has expired.")
        if roles is not None and known.role not in roles:
            raise Forbidden(f"The API key has the role {known.role}, which is not enough here.")
        return known.name

    def _look(self) -> None:
        """Read the file again if it has changed."""
        if self._path is None:
            return
        try:
            version = _version(self._path)
            if version != self._read[0]:
                # In one step: other threads read it too.
                self._read = version, _holders(self._path)
        except InvalidSettings:
            # Nobody is let in on the strength of what the file said once.
            raise ModelNotReady("The server's keys cannot be read at the moment.") from None
        self._looked = self._clock()  # where it could be read; else it is looked at each time


@lru_cache(maxsize=256)
def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def refuse_key_in(query: str) -> None:
    """Addresses stand in histories, in proxies' logs and in what a page tells the next one. Raises
    BadRequest.
    """
    text = unquote_plus(query)
    if _PARAMETER.search(text) or has_key(text):
        raise BadRequest(
            f"Expected the API key in the header {HEADER}, got one in the address, where others "
            "can read it: make another one."
        )


def _holders(path: Path) -> dict[str, _Holder]:
    return {
        key.hash: _Holder(
            key.name, key.role, float("inf") if key.expires is None else key.expires.timestamp()
        )
        for key in read_keys(path)
    }


def _version(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise InvalidSettings(
            f"Cannot read the keys in {path}: {error.strerror}. Make one with "
            f"tabserve keys add NAME --keys {path}."
        ) from None
    return found.st_mtime_ns, found.st_size, found.st_ino


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


def add_key(path: Path, name: str, role: Role = "predict", expires: datetime | None = None) -> str:
    """The new key, which is nowhere else. Raises InvalidSettings where the name is taken."""
    if not re.fullmatch(_NAME, name):
        raise InvalidSettings(f"Expected a name of letters, digits and ._@-, got {name!r}.")
    with _editing(path) as keys:
        if any(key.name == name and not key.has_expired for key in keys):
            raise InvalidSettings(
                f"{path} has a key named {name} already; revoke it first, or let another take its "
                f"place: tabserve keys rotate {name}"
            )
        keys[:] = [key for key in keys if key.name != name]
        return _added(keys, name, role, expires)


def rotate_key(path: Path, name: str, overlap: timedelta, expires: datetime | None = None) -> str:
    """Another key of the same name and role. Those that there are expire after `overlap`.

    Raises InvalidSettings where none is valid, and for an overlap without end.
    """
    try:
        end = datetime.now(UTC) + overlap
    except OverflowError:
        raise InvalidSettings(f"Expected an overlap of years at most, got {overlap}.") from None
    with _editing_old(path) as keys:
        old = [key for key in keys if key.name == name and not key.has_expired]
        if not old:
            raise InvalidSettings(f"{path} has no valid key named {name}.")
        for key in old:
            key.expires = end if key.expires is None else min(end, key.expires)
        keys[:] = [key for key in keys if key.name != name or key in old]
        return _added(keys, name, old[-1].role, expires)


def revoke_key(path: Path, name: str, *, old: bool = False) -> None:
    """Refuse the keys of that name; old: but for the newest. Raises InvalidSettings where there is
    no such key.
    """
    with _editing_old(path) as keys:
        revoked = [key for key in keys if key.name == name]
        if old:
            revoked = revoked[:-1]
        if not revoked:
            raise InvalidSettings(f"{path} has no {'older ' * old}key named {name}.")
        keys[:] = [key for key in keys if key not in revoked]


def duration(text: str) -> timedelta:
    """`12h`: minutes, hours, days or weeks. Raises InvalidSettings."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise InvalidSettings(f"Expected a time such as 30m, 12h, 90d or 2w, got {text!r}.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def moment(text: str) -> datetime:
    """`90d` from now, or a date, whose day begins in UTC. Raises InvalidSettings."""
    now = datetime.now(UTC)
    try:
        if _DURATION.fullmatch(text.strip()):
            found = now + duration(text)
        else:
            found = datetime.fromisoformat(text)
            found = found if found.tzinfo else found.replace(tzinfo=UTC)
        is_later = found > now
    except (ValueError, OverflowError):
        is_later = False
    if not is_later:
        raise InvalidSettings(f"Expected a time to come, such as 90d or 2030-01-31, got {text!r}.")
    return found


def _added(keys: list[Key], name: str, role: Role, expires: datetime | None) -> str:
    key = PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    now = datetime.now(UTC)
    keys.append(Key(name=name, hash=digest, created=now, role=role, expires=expires))
    return key


@contextmanager
def _editing_old(path: Path) -> Iterator[list[Key]]:
    """Of a file that there is."""
    _refuse_no_file(path)
    _version(path)
    with _editing(path) as keys:
        yield keys


@contextmanager
def _editing(path: Path) -> Iterator[list[Key]]:
    """The file's keys, written back in one step; one editor at a time."""
    _refuse_no_file(path)
    # A link stays one: a server may know the file by its other name. `resolve` raises for a circle.
    path = Path(os.path.realpath(path))
    lock_path = path.with_name(path.name + ".lock")
    try:
        with lock_path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = read_keys(path) if path.exists() else []
            yield keys
            unfinished = path.with_name(path.name + ".new")
            # What stands there may be a link, by which root would give another file away.
            unfinished.unlink(missing_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                if path.exists():
                    _be_readable_as(path, descriptor)
                file.write(_KeyFile(keys=keys).model_dump_json(indent=2, exclude_none=True) + "\n")
            unfinished.replace(path)
    except OSError as error:
        raise InvalidSettings(f"Cannot write the keys in {path}: {error.strerror}.") from None


def _be_readable_as(path: Path, descriptor: int) -> None:
    """Of the same owner and mode: else a server of another user could not read the keys any more
    that root has changed. Raises OSError.
    """
    old = path.stat()
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
