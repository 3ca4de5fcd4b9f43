"""`serve`, and `bench`, which asks what is served."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, get_args

import click

from tabserve.errors import BenchError
from tabserve.settings import Settings, flag, variable


def _serve_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option per setting. Values stay text: Settings reads and judges them."""
    for name, field in reversed(Settings.model_fields.items()):
        if name == "path":
            continue
        default = field.get_default()
        choices = [value for value in get_args(field.annotation) if isinstance(value, str)]
        unit = (field.json_schema_extra or {}).get("unit")  # type: ignore[union-attr]
        # Not `in (False,)`, which 0.0 is too.
        has_none = default is None or default is False or default == ()
        shown = "" if has_none else f" [default: {default}{' ' * bool(unit)}{unit}]"
        extra: dict[str, Any] = (
            {"is_flag": True, "default": None}
            if field.annotation is bool
            else {"type": click.Choice(choices)}
            if choices
            else {"metavar": _metavar(field.annotation)}
        )
        command = click.option(flag(name), name, help=f"{field.description}{shown}", **extra)(
            command
        )
    return command


def _metavar(annotation: Any) -> str:
    types = (annotation, *get_args(annotation))
    return next((word for kind, word in _METAVARS.items() if kind in types), "TEXT")


_METAVARS = {int: "INTEGER", float: "FLOAT", Path: "PATH"}


@click.command(
    epilog=f"Every flag is also a variable ({variable('port')}) and a line in tabserve.toml."
)
@click.argument("path", required=False)
@_serve_options
def serve(**flags: Any) -> None:
    """Serve PATH over HTTP.

    PATH is a version's folder, a name's folder, a repository, module:service, or a model that is
    not packed: its file or module:attr. Left out, it is models.
    """
    gc.disable()  # until what is served is there, see `server.starting.freeze`
    from tabserve import unpacked

    given = {name: value for name, value in flags.items() if value is not None}
    sys.exit(unpacked.serve(given))


@click.command()
@click.argument("url")
@click.option("--data", type=click.Path(path_type=Path), help="Rows: CSV, NDJSON or a JSON list.")
@click.option(
    "--key-file",
    type=click.File(),
    metavar="FILE",
    help="Holds the API key; or it is in TABSERVE_API_KEY.",
)
@click.option(
    "-c", "--connections", type=click.IntRange(1, 4096), default=64, show_default=True,
    help="Connections that send the next request as soon as they have the answer.",
)  # fmt: skip
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True),
    help="Requests a second on a fixed schedule instead, however slow the answers.",
)  # fmt: skip
@click.option(
    "--duration", type=click.FloatRange(min=0, min_open=True, max=86400), default=10.0,
    show_default=True, help="Seconds.",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(1), help="Rows per request, to /predict/batch.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report here.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="And here, with plots.")
def bench(
    url: str,
    data: Path | None,
    key_file: TextIO | None,
    connections: int,
    rate: float | None,
    duration: float,
    batch: int | None,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    """Load-test the server at URL."""
    from rich.console import Console

    from tabserve import bench as load_test

    plan = load_test.Plan(
        url=url, data=data, key=_key(key_file), connections=connections, rate=rate,
        duration_s=duration, batch=batch,
    )  # fmt: skip
    for place in (json_path, html_path):
        if place is not None:
            load_test.check_place(place)
    console = Console()
    report = load_test.run(plan, console)
    load_test.show(report, console)
    if json_path is not None:
        load_test.save_json(report, json_path)
    if html_path is not None:
        load_test.save_html(report, html_path)


def _key(file: TextIO | None) -> str | None:
    """Not a flag's value, which all users of the machine can read in the list of processes."""
    if file is None:
        return os.environ.get("TABSERVE_API_KEY")
    try:
        return file.read().strip()
    except UnicodeDecodeError:
        raise BenchError(f"Expected a file of text that holds a key, got {file.name}") from None
