"""`check` one artefact, `diff` two."""

import json
import sys

import click

from tabserve.errors import ArtifactError


@click.command()
@click.argument("path")
@click.option("--allow-pickle", is_flag=True, help="Load a pickle in order to prove it.")
@click.option(
    "--allow-code", is_flag=True, help="Run the model's own modules in order to prove it."
)
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


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--allow-pickle", is_flag=True, help="Load pickles in order to compare answers.")
@click.option(
    "--allow-code", is_flag=True, help="Run the models' own modules in order to compare answers."
)
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
