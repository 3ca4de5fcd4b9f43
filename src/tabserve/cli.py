"""The command line. Each command is thin and calls one function of the package."""

import gc
import io
import json
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, get_args

import click

from tabserve.errors import ArtifactError, BenchError, TabserveError
from tabserve.settings import Settings, flag, variable

# What goes wrong ends with this; 1 is for `check`'s warnings and rows that `score` rejects.
EXIT_REFUSED = 2
# As shells say it: 128 and the number of SIGINT. Click's own is 1.
EXIT_INTERRUPTED = 130


class _Commands(click.Group):
    """Ends with one sentence, and not with a traceback, for every error that TabServe names."""

    def invoke(self, ctx: click.Context) -> Any:
        # A file's name may hold what is no UTF-8; to print it must not fail.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except TabserveError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(EXIT_REFUSED)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tabserve", prog_name="tabserve")
def main() -> None:
    """A fitted tabular model becomes a production REST API."""


@main.command()
@click.argument("model")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="CSV with sample rows. [default: the example in a folder of MLflow's]",
)
@click.option("--target", help="Column of the sample that holds the true answers.")
@click.option("--name", required=True, help="Name of the model.")
@click.option("--version", "model_version", required=True, help="Version, such as 1.2.3.")
@click.option(
    "--out", default="models", show_default=True, type=click.Path(path_type=Path),
    help="Folder of the packed models.",
)  # fmt: skip
@click.option(
    "--format", "model_format", type=click.Choice(["skops", "joblib"]), default="skops",
    show_default=True, help="joblib is a pickle: serving it needs --allow-pickle.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["native"]),
    help="Serve with the library itself. [default: the fastest engine that is equal]",
)  # fmt: skip
@click.option(
    "--tolerance", type=float, metavar="NUMBER",
    help="Largest difference that you accept, such as 1e-5, where no exact graph can be made.",
)  # fmt: skip
@click.option("--allow-pickle", is_flag=True, help="Allow MODEL to be a pickle or joblib file.")
@click.option(
    "--code", type=click.Path(path_type=Path),
    help="Folder of your own modules that the model needs, to be carried beside it.",
)  # fmt: skip
@click.option(
    "--classes", metavar="NAME,NAME",
    help="Names for the classes 0, 1 and so on of a booster's file, which has none.",
)  # fmt: skip
@click.option("--output-name", help="Name of the answer's number, such as churn_probability.")
@click.option("--positive", help="Class whose probability is answered.")
@click.option("--round", "decimals", type=click.IntRange(0, 15), help="Decimal places answered.")
@click.option("--bands", help='Named ranges: "risk_category: Low < 0.3 <= Medium < 0.7 <= High".')
@click.option(
    "--unknown", multiple=True, metavar="FEATURE=POLICY",
    help="Unknown categories of a feature: refuse (default), warn, allow or missing.",
)  # fmt: skip
@click.option(
    "--signature", metavar="FILE|MODULE:CLASS",
    help="What is declared of the features: a TOML file, or a pydantic class.",
)  # fmt: skip
@click.option(
    "--extra-fields", type=click.Choice(["refuse", "ignore"]), default="refuse",
    show_default=True, help="Fields of a request that are no feature.",
)  # fmt: skip
@click.option("--replace", is_flag=True, help="Overwrite a version that exists.")
def pack(
    model: str,
    data: Path | None,
    target: str | None,
    name: str,
    model_version: str,
    out: Path,
    model_format: Any,
    engine: Any,
    tolerance: float | None,
    allow_pickle: bool,
    code: Path | None,
    classes: str | None,
    output_name: str | None,
    positive: str | None,
    decimals: int | None,
    bands: str | None,
    unknown: tuple[str, ...],
    signature: str | None,
    extra_fields: Any,
    replace: bool,
) -> None:
    """Pack MODEL into a versioned folder, with what proves it.

    MODEL is a fitted scikit-learn estimator as FILE.skops, FILE.joblib or module:attr, a file of
    XGBoost (.json, .ubj), LightGBM (.txt) or CatBoost (.cbm), FILE.onnx, a folder of MLflow's, or a
    function of yours as module:attr.
    """
    from tabserve import packing, sources, telling

    with telling.steps_told(also_in_lines=False):
        folder = packing.pack_from_files(
            model,
            data,
            target=target,
            name=name,
            version=model_version,
            out=out,
            format=model_format,
            engine=engine,
            tolerance=tolerance,
            allow_pickle=allow_pickle,
            code=code,
            classes=None if classes is None else classes.split(","),
            output=sources.declared_output(output_name, positive, decimals, bands),
            unknown=sources.policies(unknown),
            signature=sources.declared_signature(signature),
            extra_fields=extra_fields,
            replace=replace,
        )
    click.echo(f"Packed {folder}")


def _serve_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option per setting. Values stay text: Settings reads and judges them."""
    for name, field in reversed(Settings.model_fields.items()):
        if name == "path":
            continue
        default = field.get_default()
        choices = [value for value in get_args(field.annotation) if isinstance(value, str)]
        unit = (field.json_schema_extra or {}).get("unit")  # type: ignore[union-attr]
        shown = (
            "" if default in (None, False, ()) else f" [default: {default}{' ' * bool(unit)}{unit}]"
        )
        extra: dict[str, Any] = (
            {"is_flag": True, "default": None}
            if field.annotation is bool
            else {"type": click.Choice(choices) if choices else str}
        )
        command = click.option(flag(name), name, help=f"{field.description}{shown}", **extra)(
            command
        )
    return command


@main.command(
    epilog=f"Every flag is also a variable ({variable('port')}) and a line in tabserve.toml."
)
@click.argument("path", required=False)
@_serve_options
def serve(**flags: Any) -> None:
    """Serve PATH over HTTP.

    PATH is a version's folder, a name's folder, a repository, module:service, or a model that is
    not packed: its file or module:attr.
    """
    gc.disable()  # until what is served is there, see `server.starting.freeze`
    from tabserve import unpacked

    given = {name: value for name, value in flags.items() if value is not None}
    sys.exit(unpacked.serve(given))


@main.command()
@click.argument("path")
@click.option("--allow-pickle", is_flag=True, help="Load a pickle in order to prove it.")
@click.option("--allow-code", is_flag=True, help="Run the model's own modules to prove it.")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def check(path: str, allow_pickle: bool, allow_code: bool, as_json: bool) -> None:
    """Say what is inside PATH, and whether serving would take it.

    That is: whether to trust it, and whether it still gives its golden outputs. Ends with 0 where
    all is well, 1 with a warning, 2 where serving would refuse it.
    """
    from rich.console import Console

    from tabserve import checking

    try:
        report = checking.check(path, allow_pickle=allow_pickle, allow_code=allow_code)
    except ArtifactError as error:
        if not as_json:
            raise
        report = checking.refusal(error)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        checking.show(report, Console())
    sys.exit(report.exit_code)


@main.command()
@click.argument("first")
@click.argument("second")
@click.option("--allow-pickle", is_flag=True, help="Load pickles in order to compare answers.")
@click.option("--allow-code", is_flag=True, help="Run the models' own modules for that.")
@click.option("--json", "as_json", is_flag=True, help="The differences as JSON.")
def diff(first: str, second: str, allow_pickle: bool, allow_code: bool, as_json: bool) -> None:
    """Compare two artefacts.

    By signature, output, metrics, engine, libraries and answers. Ends with 0 where they are alike,
    1 where they differ, 2 where clients of FIRST would break.
    """
    from rich.console import Console

    from tabserve import differing

    found = differing.diff(first, second, allow_pickle=allow_pickle, allow_code=allow_code)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        differing.show(found, Console())
    sys.exit(found.exit_code)


@main.command()
@click.argument("url")
@click.option("--data", type=click.Path(path_type=Path), help="Rows: CSV, NDJSON or a JSON list.")
@click.option(
    "--key-file", type=click.File(), help="Holds the API key; or it is in TABSERVE_API_KEY."
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


def _repository(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--path", default="models", show_default=True, envvar=variable("path"), show_envvar=True,
        type=click.Path(path_type=Path), help="Folder of the packed models.",
    )(command)  # fmt: skip


@main.command()
@click.argument("name")
@click.argument("version")
@_repository
@click.option("--allow-breaking", is_flag=True, help="Even if it breaks clients of the live one.")
@click.option("--allow-pickle", is_flag=True, help="Load a pickle in order to prove it.")
@click.option("--allow-code", is_flag=True, help="Run the user's own modules in order to prove it.")
def promote(
    name: str,
    version: str,
    path: Path,
    allow_breaking: bool,
    allow_pickle: bool,
    allow_code: bool,
) -> None:
    """Make VERSION of NAME the live one, once it was proven here.

    Servers that run follow.
    """
    from tabserve import releases

    folder = releases.folder_of(path, name)
    live = releases.promote(
        folder,
        version,
        allow_breaking=allow_breaking,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
    )
    click.echo(f"{name} {live.version} is live.")


@main.command()
@click.argument("name")
@_repository
def rollback(name: str, path: Path) -> None:
    """Go back to the version of NAME that was live before.

    Servers that run follow.
    """
    from tabserve import releases

    live = releases.rollback(releases.folder_of(path, name))
    click.echo(f"{name} {live.version} is live.")


@main.command()
@click.argument("name")
@_repository
@click.option("--canary", metavar="VERSION", help="Answers a share of the requests.")
@click.option("--shadow", metavar="VERSION", help="Is computed aside, and answers none.")
@click.option(
    "--share", type=click.FloatRange(0, 1), default=None,
    help="Of the requests. [default: 0.1 of a canary, 1 of a shadow]",
)  # fmt: skip
@click.option("--sticky", metavar="FIELD", help="Its value decides who answers; or api-key.")
@click.option("--stop", is_flag=True, help="The live version alone again.")
def rollout(
    name: str,
    path: Path,
    canary: str | None,
    shadow: str | None,
    share: float | None,
    sticky: str | None,
    stop: bool,
) -> None:
    """Try a version of NAME beside the live one, in servers that run."""
    from tabserve import releases

    folder = releases.folder_of(path, name)
    if stop:
        releases.stop(folder)
        click.echo(f"{name}: the live version alone.")
        return
    plan = releases.plan(canary=canary, shadow=shadow, share=share, sticky=sticky)
    releases.begin(folder, plan)
    click.echo(f"{name} {plan.version}: {plan.kind}, {plan.share:g} of the requests.")


@main.command()
@click.argument("path")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--rejects", type=click.Path(path_type=Path),
    help="NDJSON of the rows that were refused. [default: OUT.rejects.ndjson]",
)  # fmt: skip
@click.option("--keep", multiple=True, metavar="COLUMN", help="Copy a column of IN; repeatable.")
@click.option("--request", metavar="MODULE:CLASS", help="Your own class; rows are read one by one.")
@click.option("--allow-pickle", is_flag=True, help="Load a model that was packed as a pickle.")
@click.option("--allow-code", is_flag=True, help="Run the user's own modules of the model.")
@click.option("--processes", type=click.IntRange(1), help="[default: the CPUs there are]")
@click.option(
    "--chunk", type=click.IntRange(1), metavar="ROWS",
    help="Rows that are scored at once. [default: 131072, less with more than 16 features]",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted.")
@click.option("--replace", is_flag=True, help="Overwrite OUT.")
def score(path: str, source: Path, **options: Any) -> None:
    """Score the rows of IN into OUT.

    Both are CSV, NDJSON or Parquet, by their names' suffixes. Rows are validated as requests are.
    Ends with 0 where all have an answer, 1 where some were rejected, 2 where the run could not be
    finished; what it did is kept for --resume.
    """
    from rich.console import Console

    from tabserve import scoring

    plan = scoring.Plan(path, source, **options)
    console = Console(stderr=True)
    with scoring.progress(console) as on_progress:
        report = scoring.run(plan, on_progress)
    scoring.show(report, plan, console)
    sys.exit(1 if report.n_rejected else 0)


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--name", help="Of the model. [default: that of DIR]")
def new(folder: Path, name: str | None) -> None:
    """Make a starting project in DIR.

    It has a request class, training, service, tests and Dockerfile.
    """
    from tabserve import starting

    made = starting.start(folder, name)
    click.echo(f"Made {made}; {made / 'README.md'} says how to go on.")


@main.group()
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
    """Make another key for NAME, of the same role, and show it, this once.

    Both are taken until the time of overlap is over.
    """
    from tabserve import auth

    end = None if expires is None else auth.moment(expires)
    _show_key(name, auth.rotate_key(path, name, auth.duration(overlap), end))


@keys.command("list")
@_keys_file
def list_keys(path: Path) -> None:
    """Name the keys, their roles, when they were made and when they expire."""
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
