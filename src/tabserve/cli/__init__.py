"""The command line. Each command is thin and calls one function of the package."""

import io
import sys
from typing import Any

import click

from tabserve.cli.judging import check, diff
from tabserve.cli.keys import keys
from tabserve.cli.making import new, pack
from tabserve.cli.scoring import score
from tabserve.cli.serving import bench, serve
from tabserve.cli.versions import promote, rollback, rollout
from tabserve.errors import TabserveError

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


for command in (pack, new, serve, bench, check, diff, promote, rollback, rollout, score, keys):
    main.add_command(command)
