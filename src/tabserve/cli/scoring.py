"""`score` a file."""

import sys
from pathlib import Path
from typing import Any

import click


@click.command()
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
@click.option("--allow-code", is_flag=True, help="Run the model's own modules.")
@click.option(
    "--processes", type=click.IntRange(1),
    help="Processes that score. [default: one for each CPU there is]",
)  # fmt: skip
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
