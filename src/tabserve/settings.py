"""The one table of settings: flags of `tabserve serve`, TABSERVE_* variables, tabserve.toml.

`docs/settings.md` is made from it too.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from tabserve.errors import InvalidSettings

PREFIX = "TABSERVE_"
TOML = "tabserve.toml"

# Variables of other commands, which the server must not take for misspelt settings.
OTHER_VARIABLES = frozenset({"TABSERVE_API_KEY"})

# In the folder that workers share: by name, the version that one of them proved last.
PROVEN = "proven"

# What Kubernetes sets in every pod where a Service is named tabserve or tabserve-something: nobody
# meant them for us.
_KUBERNETES_LINK = re.compile(r"TABSERVE_(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_\w+)?)")

# Those of the command that runs the processes, whatever a service in the user's code was given.
PROCESS_SETTINGS = frozenset(
    {
        "path", "host", "port", "admin_host", "admin_port", "workers",
        "supervise", "drain_delay", "framework", "reload",
        "run_dir",
    }
)  # fmt: skip

_ORIGIN = re.compile(r"\*|https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\]")

# May hold a password, which no error repeats.
_SECRET = frozenset({"rate_limit_store"})

_PERIODS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclass(frozen=True)
class Rate:
    """At most `count` requests in a window of `period_s` that a client's first request opens."""

    count: int
    period_s: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`100/minute`; ValueError for anything else."""
        count, slash, period = text.replace(" ", "").partition("/")
        if not slash or not count.isdecimal() or int(count) < 1 or period not in _PERIODS_S:
            raise ValueError(
                "Expected a rate as N/second, N/minute, N/hour or N/day, such as 100/minute"
            )
        return cls(int(count), _PERIODS_S[period])


def _setting(default: Any, help: str, unit: str = "", **bounds: Any) -> Any:
    return Field(default=default, description=help, json_schema_extra={"unit": unit}, **bounds)


class Settings(BaseModel):
    """Flags win over the environment, and that over tabserve.toml in the working directory."""

    # Not pydantic-settings, whose import is a tenth of the server's start.
    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, **told: Any) -> None:
        super().__init__(**_of_the_file() | self._of_the_environment() | told)

    path: str = _setting(
        "models", "What to serve: a version's folder, a name's folder, a repository, "
        "module:service, or a model that is not packed: its file or module:attr."
    )  # fmt: skip
    host: str = _setting(
        "127.0.0.1", "Address to listen on; one that is not loopback needs keys or --insecure."
    )
    port: int = _setting(8000, "Port to listen on; 0 takes a free one.", ge=0, le=65535)
    admin_port: int | None = _setting(
        None, "Port on which versions are promoted, rolled back and tried; 0 takes a free one. "
        "Needs an admin key where there are keys.", ge=0, le=65535,
    )  # fmt: skip
    admin_host: str = _setting("127.0.0.1", "Address of the admin port.")
    workers: int = _setting(1, "Processes that answer requests.", ge=1, le=512)
    default_model: str | None = _setting(
        None, "Of several models the one that /predict means; without it each is under "
        "/models/NAME/predict."
    )  # fmt: skip
    allow_breaking: bool = _setting(
        False, "Let a new version go live though it would break the clients of the old one."
    )
    supervise: bool = _setting(
        False, "With one worker too, a process that replaces it where it dies or hangs."
    )
    drain_delay: float = _setting(
        0.0, "After SIGTERM requests are answered for so long while /ready is 503.", "s",
        ge=0, le=3600,
    )  # fmt: skip
    framework: Literal["fastapi", "flask"] = _setting(
        "fastapi", "fastapi is the asynchronous server; flask runs under gunicorn."
    )
    reload: bool = _setting(False, "Start anew when your code or the artefact changes.")
    request: str | None = _setting(
        None, "Your own pydantic request class, as module:Class; of several models that of "
        "the default one, or for each NAME=module:Class, separated by commas."
    )  # fmt: skip
    keys: str | None = _setting(
        None,
        "File of API keys (see tabserve keys), or the keys as NAME:HASH,NAME:HASH:ROLE.",
        min_length=1,
    )
    key_tries: str = _setting(
        "60/minute", "Wrong keys per address, past which the answer is 429; or off."
    )
    insecure: bool = _setting(False, "Allow an address that is not loopback without keys.")
    allow_pickle: bool = _setting(
        False, "Allow loading a pickle (joblib), which runs the code that it holds."
    )
    allow_code: bool = _setting(
        False, "Allow running the modules that an artefact carries, or the function that it names."
    )
    data: Path | None = _setting(
        None, "CSV with sample rows, where PATH is the file of a model that is not packed."
    )
    target: str | None = _setting(None, "Column of the rows of --data that holds the true answers.")
    docs: Literal["main", "admin", "off"] = _setting(
        "main", "Where /docs, /redoc and /openapi.json are: with the predictions, on the admin "
        "port, or nowhere."
    )  # fmt: skip
    metrics: Literal["main", "admin", "off"] = _setting(
        "main", "Where /metrics is: with the predictions and on the admin port, there alone, or "
        "nowhere."
    )  # fmt: skip
    cors_origins: tuple[str, ...] = _setting(
        (), "Origins whose pages may ask from a browser, such as https://app.example.org, "
        "separated by commas; * for all."
    )  # fmt: skip
    rate_limit: str | None = _setting(
        None, "Predictions' requests per key, or per address where there are no keys, "
        "such as 100/minute."
    )  # fmt: skip
    rate_limit_counts: Literal["requests", "rows"] = _setting(
        "requests", "What the rate limit is of: requests, or rows, of which a batch has many."
    )
    rate_limit_store: str | None = _setting(
        None, "Where the servers of several machines count together: redis://HOST:PORT/DB, best as "
        "a variable where it holds a password.", repr=False,
    )  # fmt: skip
    rate_limit_fallback: Literal["open", "closed"] = _setting(
        "open",
        "While the store is away: open admits requests uncounted, closed refuses them with 503.",
    )
    deadline: float = _setting(
        30.0,
        "Time for one request, which its X-Request-Timeout-Ms header may make shorter; past "
        "it the answer is 504, or 503 where the model had not begun.",
        "s",
        gt=0,
        le=3600,
    )
    max_queue: int = _setting(
        1000, "Requests that may wait for the model; past it the answer is 503.", "requests", ge=1
    )
    max_queue_rows: int = _setting(
        100_000, "Rows of these requests together; past it the answer is 503.", "rows", ge=1
    )
    max_wait: float = _setting(
        5.0, "A request that is expected to wait longer for the model is answered 503 at once.",
        "s", gt=0, le=3600,
    )  # fmt: skip
    max_body: int = _setting(
        4 * 2**20, "Size of a request's body; past it the answer is 413.", "bytes", ge=1
    )
    max_bodies: int = _setting(
        256 * 2**20, "Size of all bodies that a worker holds, in part or until their answer, and "
        "no less than one may have; past it the answer is 503.", "bytes", ge=1,
    )  # fmt: skip
    max_rows: int = _setting(
        10_000, "Records of one batch; past it the answer is 413.", "rows", ge=1, le=2**31 - 1
    )
    max_depth: int = _setting(
        64, "Nesting of a JSON body; what is deeper is a 422.", "levels", ge=3, le=128
    )
    max_ratio: int = _setting(
        100, "A gzip body may grow to so many times its size; past it the answer is 413.", ge=1
    )
    max_target: int = _setting(
        8 * 2**10, "Size of a request's target; past it the answer is 414.", "bytes", ge=64
    )
    max_headers: int = _setting(100, "Headers of a request; past it the answer is 431.", ge=10)
    max_header_bytes: int = _setting(
        32 * 2**10, "Size of the headers together; past it the answer is 431.", "bytes", ge=1024
    )
    receive_timeout: float = _setting(
        10.0, "Time in which the head of a request has to come, and again its body; past it the "
        "answer is 408.", "s", gt=0, le=3600
    )  # fmt: skip
    idle_timeout: float = _setting(
        15.0, "A connection on which no request comes, or no answer is read, is closed.", "s",
        gt=0, le=3600,
    )  # fmt: skip
    allowed_hosts: tuple[str, ...] = _setting(
        (), "Names, without ports, that requests may have in their Host header, separated by "
        "commas; *.example.org is all below one. Others are a 421 where a route is not public. "
        "Any name where left out."
    )  # fmt: skip
    log: str = _setting("-", "Where log lines go: a file, - for standard output, or off.")
    hide: tuple[str, ...] = _setting(
        (), "Fields left out of the prediction log, separated by commas."
    )
    run_dir: Path | None = _setting(
        None, "Folder in which the workers of one server share metrics and rate limits; with "
        "several workers one is made."
    )  # fmt: skip

    @field_validator("*", mode="before")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        """Only a file can say it, and no name of anything holds one."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError("Expected text without the character U+0000")
        return value

    @field_validator("port", mode="before")
    @classmethod
    def _no_kubernetes_link(cls, value: Any) -> Any:
        """TABSERVE_PORT=tcp://10.0.0.1:8000 is such a link too; it leaves the default."""
        is_link = isinstance(value, str) and value.startswith("tcp://")
        return cls.model_fields["port"].default if is_link else value

    @field_validator("hide", "cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            [name.strip() for name in value.split(",") if name.strip()]
            if isinstance(value, str)
            else value
        )

    @field_validator("rate_limit")
    @classmethod
    def _parsable(cls, value: str | None) -> str | None:
        if value is not None:
            Rate.parse(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_ORIGIN.fullmatch(origin) for origin in value):
            raise ValueError(
                "Expected origins as a browser sends them, such as https://app.example.org or "
                "http://localhost:3000, without a path, or *"
            )
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """What no header can be would leave the server without a name."""
        if not all(_HOST.fullmatch(host) for host in value):
            raise ValueError(
                "Expected names without scheme and port, such as api.example.org, *.example.org, "
                "10.0.0.7 or [::1]"
            )
        return value

    @field_validator("rate_limit_store")
    @classmethod
    def _known_store(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("Expected the address of a store, such as redis://127.0.0.1:6379/0")
        return value

    @field_validator("key_tries")
    @classmethod
    def _parsable_or_off(cls, value: str) -> str:
        if value != "off":
            Rate.parse(value)
        return value

    @model_validator(mode="after")
    def _reload_alone(self) -> Self:
        if self.reload and self.workers > 1:
            raise ValueError("--reload works with one worker only")
        return self

    @model_validator(mode="after")
    def _with_what_it_needs(self) -> Self:
        """Nothing that is asked for has no effect."""
        needs = {
            name: "admin_port" for name in ("docs", "metrics") if getattr(self, name) == "admin"
        }
        needs |= {
            name: "rate_limit"
            for name in ("rate_limit_counts", "rate_limit_store")
            if getattr(self, name) != type(self).model_fields[name].default
        }
        for name, needed in needs.items():
            if getattr(self, needed) is None:
                value = "" if name in _SECRET else f" {getattr(self, name)}"
                raise ValueError(f"{flag(name)}{value} needs {flag(needed)}")
        return self

    @classmethod
    def _of_the_environment(cls) -> dict[str, str]:
        """An empty variable says nothing."""
        given = {name.upper(): text for name, text in os.environ.items() if text}
        return {name: given[key] for name in cls.model_fields if (key := variable(name)) in given}

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Flags, environment and file together. Raises InvalidSettings with a sentence."""
        unknown = sorted(
            name
            for name in os.environ
            if name.startswith(PREFIX)
            and name.removeprefix(PREFIX).lower() not in cls.model_fields
            and name not in OTHER_VARIABLES
            and not _KUBERNETES_LINK.fullmatch(name)
        )
        if unknown:
            raise InvalidSettings(
                f"Unknown setting in the environment: {', '.join(unknown)}. The known ones are "
                f"{', '.join(map(variable, cls.model_fields))}."
            )
        try:
            return cls(**flags)
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
        except ValueError as error:  # tomllib's
            raise InvalidSettings(f"{TOML} cannot be read: {error}.") from None
        except OSError as error:
            raise InvalidSettings(f"{TOML} cannot be read: {error.strerror}.") from None
        name = str(found["loc"][0]) if found["loc"] else ""
        if found["type"] == "extra_forbidden":
            raise InvalidSettings(
                f"Unknown setting {name!r} in {TOML}. The known ones are "
                f"{', '.join(cls.model_fields)}."
            )
        # What a validator here says is a sentence already; pydantic puts this before it.
        told = found["msg"].removeprefix("Value error, ")
        where = f" ({flag(name)}, {variable(name)} or {name} in {TOML})" if name else ""
        got = "another one" if name in _SECRET else repr(found["input"])
        raise InvalidSettings(f"{told}, got {got}{where}." if name else f"{told}.")

    def environment(self) -> Mapping[str, str]:
        """The variables that make another process's Settings equal to these."""
        return {
            variable(name): ",".join(value) if isinstance(value, tuple) else str(value)
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None and value != ()
        }


def _of_the_file() -> dict[str, Any]:
    """Raises OSError, and ValueError where it is no TOML."""
    path = Path(TOML)
    return tomllib.loads(path.read_text("utf-8")) if path.exists() else {}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return PREFIX + name.upper()


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
