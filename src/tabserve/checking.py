"""`tabserve check`: what an artefact is, and whether it may be served here."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tabserve import carried, libraries, pickles, repository, trial
from tabserve.artifact import Artifact, Manifest, Tried
from tabserve.errors import ArtifactError, UntrustedModel
from tabserve.output import Renderer
from tabserve.parity import cpu_model
from tabserve.trial import Trial

Verdict = Literal["ok", "warning", "refused"]

_EXIT_CODES: dict[Verdict, int] = {"ok": 0, "warning": 1, "refused": 2}
_COLOURS: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "refused": "red"}


@dataclass(frozen=True)
class Finding:
    """mend: what can be done about it, where something should."""

    subject: str
    verdict: Verdict
    text: str
    mend: str = ""


@dataclass
class Report:
    """measured: of loading it, where it was loaded."""

    findings: list[Finding] = field(default_factory=list)
    measured: Trial | None = None

    def add(self, subject: str, verdict: Verdict, text: str, mend: str = "") -> None:
        self.findings.append(Finding(subject, verdict, text, mend))

    def to_json(self) -> dict[str, Any]:
        measured = None if self.measured is None else self.measured.model_dump()
        return {
            "exit_code": self.exit_code,
            "findings": [asdict(found) for found in self.findings],
            "measured": measured,
        }

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
    _check_pickles(artifact, report)
    _check_libraries(manifest, report)
    _check_model(artifact, report, allow_pickle, allow_code)
    return report


def refusal(error: ArtifactError) -> Report:
    """Of what is no artefact, or has a manifest that cannot be read."""
    return Report([Finding("artefact", "refused", str(error))])


def show(report: Report, console: Console) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for found in report.findings:
        colour = _COLOURS[found.verdict]
        # As Text: a feature's name in brackets is no markup.
        told = f"{found.text} {found.mend}" if found.mend else found.text
        table.add_row(Text(found.verdict, colour), Text(found.subject), Text(told))
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


def _check_pickles(artifact: Artifact, report: Report) -> None:
    """What they would import, whether or not they may be loaded."""
    is_opened = artifact.manifest.engine != "onnx"
    for name, format in artifact.manifest.model_files.items():
        if format != "joblib":
            continue
        try:
            found = pickles.imports(artifact.read(name))
        except ArtifactError as error:
            if isinstance(error, UntrustedModel):  # an altered file was told of already
                report.add("pickle", "refused" if is_opened else "warning", str(error), _AS_SKOPS)
            continue
        text = f"imports {', '.join(found.names) or 'nothing'}"
        if found.refused:
            text = f"{text}; no model needs {pickles.listed(found.refused)}"
            report.add("pickle", "refused" if is_opened else "warning", text, _AS_SKOPS)
        else:
            limits = "; that nothing else was found does not make it harmless"
            report.add("pickle", "warning" if found.others else "ok", text + limits)


_AS_SKOPS = "Do not load it unless you made it; pack the model as skops."


def _check_libraries(manifest: Manifest, report: Report) -> None:
    for library, packed in manifest.libraries.items():
        found = libraries.installed(library)
        if found is None:
            report.add(library, "warning", f"packed with {packed}, not installed here")
        elif found == packed:
            report.add(library, "ok", f"{found}, as packed")
        else:
            report.add(library, "warning", f"packed with {packed}, {found} is installed here")


def _check_model(artifact: Artifact, report: Report, allow_pickle: bool, allow_code: bool) -> None:
    """Load and prove it in another process, unless something that stands before that refused it."""
    manifest = artifact.manifest
    if report.exit_code == _EXIT_CODES["refused"]:
        return
    report.measured = found = trial.run(artifact, allow_pickle=allow_pickle, allow_code=allow_code)
    if found.refusal is not None:
        report.add(found.refusal, "refused", found.text)
        return
    report.add("trust", *_trust(manifest))
    if manifest.parity.unproven:
        text = "none: it was packed without sample rows, so nothing shows that it is the same"
        report.add("golden rows", "warning", text)
        return
    report.add("golden rows", "ok", _parity(manifest, found))
    for tried in manifest.parity.tried:
        made = f" ({tried.converter})" if tried.converter else ""
        report.add(f"{tried.engine} engine{made}", "ok", _tried(tried))
    if found.worker_mib is not None and found.model_mib is not None:
        text = f"a worker takes {found.worker_mib:.0f} MiB, {found.model_mib:.0f} with the model"
        report.add("memory", "ok", text)
    report.add("load", "ok", f"{found.load_s:.2f} s until it was proven")
    report.add("one row", "ok", f"{found.row_us:,.0f} µs now")
    report.add("batch", "ok", f"{found.batch_us:,.0f} µs for {found.batch_rows} rows now")


def _trust(manifest: Manifest) -> tuple[Verdict, str]:
    """Of what serving opens: a lowered model's original stays closed."""
    if manifest.engine == "onnx":
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
        f"{'within the tolerance' if tried.converter else 'equal'}, "
        f"largest difference {tried.max_difference:g}, {tried.row_us:,.0f} µs a row when "
        "packed"
    )


def _parity(manifest: Manifest, found: Trial) -> str:
    parity = manifest.parity
    return (
        f"all {parity.n_rows} reproduced by the {manifest.engine} engine, class "
        f"{parity.shown_class}, largest difference {found.difference:g} (packed on {parity.cpu}, "
        f"{cpu_model()} here)"
    )
