"""`tabserve check`: what an artefact is, and whether it may be served here."""

from dataclasses import dataclass, field
from importlib import metadata
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tabserve import carried, repository
from tabserve.artifact import Artifact, Manifest, Tried
from tabserve.errors import ArtifactError, OperatorError, UntrustedModel
from tabserve.output import Renderer
from tabserve.parity import cpu_model
from tabserve.repository import LoadedModel

Verdict = Literal["ok", "warning", "refused"]

_EXIT_CODES: dict[Verdict, int] = {"ok": 0, "warning": 1, "refused": 2}
_COLOURS: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "refused": "red"}


@dataclass(frozen=True)
class Finding:
    subject: str
    verdict: Verdict
    text: str


@dataclass
class Report:
    findings: list[Finding] = field(default_factory=list)

    def add(self, subject: str, verdict: Verdict, text: str) -> None:
        self.findings.append(Finding(subject, verdict, text))

    @property
    def exit_code(self) -> int:
        return max((_EXIT_CODES[found.verdict] for found in self.findings), default=0)


def check(path: str, *, allow_pickle: bool = False, allow_code: bool = False) -> Report:
    """Look at the artefact that PATH means; nothing of it is executed that serving would not.

    Raises ArtifactError where there is none, or its manifest cannot be read.
    """
    artifact = repository.find(path)
    manifest = artifact.manifest
    report = Report()
    report.add("artefact", "ok", f"{manifest.name} {manifest.version} at {artifact.folder}")
    report.add("model", "ok", f"{manifest.model_type}, {_features(manifest)}")
    report.add("answer", "ok", ", ".join(sorted(_answer_fields(manifest))))
    report.add("trained", "ok", manifest.training_date.isoformat(timespec="seconds"))
    for metric in manifest.metrics:
        report.add(metric.name, "ok", f"{metric.value:.6g} on {metric.data}")
    _check_files(artifact, report)
    _check_libraries(manifest, report)
    _check_model(artifact, report, allow_pickle, allow_code)
    return report


def show(report: Report, console: Console) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for found in report.findings:
        colour = _COLOURS[found.verdict]
        # As Text: a feature's name in brackets is no markup.
        table.add_row(Text(found.verdict, colour), Text(found.subject), Text(found.text))
    console.print(table)


def _features(manifest: Manifest) -> str:
    names = [
        f"{feature.name} ({feature.type}{', may be null' if feature.nullable else ''})"
        for feature in manifest.signature.features
    ]
    return f"{len(names)} features: {', '.join(names)}"


def _answer_fields(manifest: Manifest) -> tuple[str, ...]:
    return Renderer(manifest.targets, manifest.output).fields


def _check_files(artifact: Artifact, report: Report) -> None:
    for name in sorted(artifact.manifest.files):
        try:
            size = len(artifact.read(name))
        except ArtifactError as error:
            report.add(name, "refused", str(error))
        else:
            report.add(name, "ok", f"{size:,} bytes, sha256 as packed")


def _check_libraries(manifest: Manifest, report: Report) -> None:
    # scikit-learn is imported as sklearn, and xgboost comes as xgboost or xgboost-cpu.
    distributions = metadata.packages_distributions()
    for library, packed in manifest.libraries.items():
        try:
            found = metadata.version(distributions.get(library, [library])[0])
        except metadata.PackageNotFoundError:
            report.add(library, "warning", f"packed with {packed}, not installed here")
            continue
        if found == packed:
            report.add(library, "ok", f"{found}, as packed")
        else:
            report.add(library, "warning", f"packed with {packed}, {found} is installed here")


def _check_model(artifact: Artifact, report: Report, allow_pickle: bool, allow_code: bool) -> None:
    """Load and prove it, unless something that stands before that refused it."""
    if report.exit_code == _EXIT_CODES["refused"]:
        return
    try:
        loaded = repository.load(artifact, allow_pickle=allow_pickle, allow_code=allow_code)
    except UntrustedModel as error:
        report.add("trust", "refused", str(error))
    except OperatorError as error:
        report.add("golden rows", "refused", str(error))
    except Exception as error:  # noqa: BLE001 - whatever a library raises on this file is the finding
        report.add("loading", "refused", f"{type(error).__name__}: {error}")
    else:
        report.add("trust", *_trust(artifact.manifest))
        if artifact.manifest.parity.unproven:
            text = "none: it was packed without sample rows, so nothing shows that it is the same"
            report.add("golden rows", "warning", text)
        else:
            report.add("golden rows", "ok", _parity(loaded))
        for tried in artifact.manifest.parity.tried:
            report.add(f"{tried.engine} engine", "ok", _tried(tried))


def _trust(manifest: Manifest) -> tuple[Verdict, str]:
    """Of what serving opens: a lowered model's original stays closed."""
    if manifest.lowered is not None:
        return "ok", "onnx: data only"
    if manifest.function is not None:
        return "warning", f"runs {manifest.function}, code of the user's own"
    if any(name.startswith(carried.PREFIX) for name in manifest.files):
        return "warning", "runs modules of the user's own, in the folder code"
    formats = manifest.model_files.values()
    if "joblib" in formats:
        return "warning", "joblib: runs code of the file when loaded"
    return "ok", f"{', '.join(formats)}: data only"


def _tried(tried: Tried) -> str:
    if not tried.equal:
        return tried.why or "not equal"
    return (
        f"equal, largest difference {tried.max_difference:g}, {tried.row_us:,.0f} µs a row when "
        "packed"
    )


def _parity(loaded: LoadedModel) -> str:
    parity = loaded.manifest.parity
    return (
        f"all {parity.n_rows} reproduced by the {loaded.manifest.engine} engine, class "
        f"{parity.exactness}, largest difference {loaded.difference:g} (packed on {parity.cpu}, "
        f"{cpu_model()} here)"
    )
