"""`keys`: API keys."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from tabserve.settings import variable


@click.group()
def keys() -> None:
    """API keys: random, shown once, kept as hashes."""


def _keys_file(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--keys", "path", default="keys.json", show_default=True, envvar=variable("keys"),
        show_envvar=True, type=click.Path(path_type=Path), help="File of the keys.",
    )(command)  # fmt: skip


def _expires(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--expires", metavar="TIME", help="When it is refused: after 90d, or on 2030-01-31."
    )(command)


@keys.command("add")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["predict", "metrics", "admin"]), default="predict",
    show_default=True, help="metrics may read /metrics and not predict; admin may do everything.",
)  # fmt: skip
@_expires
@_keys_file
def add_key(name: str, role: Any, expires: str | None, path: Path) -> None:
    """Make a key for NAME and show it, this once."""
    from tabserve import auth

    end = None if expires is None else auth.moment(expires)
    _show_key(name, auth.add_key(path, name, role, end))


@keys.command("rotate")
@click.argument("name")
@click.option(
    "--overlap", default="1d", show_default=True, metavar="TIME",
    help="For so long the key that there is stays valid too, such as 12h; 0m for not at all.",
)  # fmt: skip
@_expires
@_keys_file
def rotate_key(name: str, overlap: str, expires: str | None, path: Path) -> None:
    """Make NAME another key of the same role.

    It is shown this once. Both are taken until the time of overlap is over.
    """
    from tabserve import auth

    end = None if expires is None else auth.moment(expires)
    _show_key(name, auth.rotate_key(path, name, auth.duration(overlap), end))


@keys.command("list")
@_keys_file
def list_keys(path: Path) -> None:
    """Name the keys and their roles.

    And when they were made, and when they expire.
    """
    from tabserve import auth

    for key in auth.read_keys(path):
        end = ("\texpired " if key.has_expired else "\texpires ") + _date(key.expires)
        click.echo(f"{key.name}\t{key.role}\t{_date(key.created)}{end if key.expires else ''}")


@keys.command("revoke")
@click.argument("name")
@click.option("--old", is_flag=True, help="But for the newest, once all clients have it.")
@_keys_file
def revoke_key(name: str, old: bool, path: Path) -> None:
    """Refuse the keys of NAME from now on, in servers that run too."""
    from tabserve import auth

    auth.revoke_key(path, name, old=old)
    click.echo(f"Revoked {'what was the' if old else 'the'} key of {name}.")


def _show_key(name: str, key: str) -> None:
    click.echo(f"The key of {name}, which is kept nowhere else:", err=True)
    click.echo(key)


def _date(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")
