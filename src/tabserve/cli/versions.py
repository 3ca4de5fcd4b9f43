"""Which version is live, and which is tried: `promote`, `rollback`, `rollout`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tabserve.settings import variable


def _repository(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--path", default="models", show_default=True, envvar=variable("path"), show_envvar=True,
        type=click.Path(path_type=Path), help="Folder of the packed models.",
    )(command)  # fmt: skip


@click.command()
@click.argument("name")
@click.argument("version")
@_repository
@click.option("--allow-breaking", is_flag=True, help="Even if it breaks clients of the live one.")
@click.option("--allow-pickle", is_flag=True, help="Load a pickle in order to prove it.")
@click.option(
    "--allow-code", is_flag=True, help="Run the model's own modules in order to prove it."
)
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


@click.command()
@click.argument("name")
@_repository
def rollback(name: str, path: Path) -> None:
    """Go back to the version of NAME that was live before.

    Servers that run follow.
    """
    from tabserve import releases

    live = releases.rollback(releases.folder_of(path, name))
    click.echo(f"{name} {live.version} is live.")


@click.command()
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
    if stop and (canary, shadow, share, sticky) != (None, None, None, None):
        raise click.UsageError("Say --stop alone: it ends whatever is tried.")
    if stop:
        releases.stop(folder)
        click.echo(f"{name}: the live version alone.")
        return
    plan = releases.plan(canary=canary, shadow=shadow, share=share, sticky=sticky)
    releases.begin(folder, plan)
    click.echo(f"{name} {plan.version}: {plan.kind}, {plan.share:g} of the requests.")
