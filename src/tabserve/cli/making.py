"""`pack` makes an artefact, and `new` a project that begins with one."""

from pathlib import Path
from typing import Any

import click


@click.command()
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


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--name", help="Of the model. [default: that of DIR]")
def new(folder: Path, name: str | None) -> None:
    """Make a starting project in DIR.

    It has a request class, training, service, tests and Dockerfile.
    """
    from tabserve import starting

    made = starting.start(folder, name)
    click.echo(f"Made {made}; {made / 'README.md'} says how to go on.")
