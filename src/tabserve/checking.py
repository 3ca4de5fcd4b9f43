"""`tabserve check`: what an artefact is, and whether it may be served here."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from tabserve import carried, libraries, measuring, pickles, repository, telling
from tabserve.artifact import Artifact, Manifest, Tried
from tabserve.errors import ArtifactError, UntrustedModel
from tabserve.measuring import Measured
from tabserve.output import COMMON_FIELDS, WARNINGS, Renderer
from tabserve.parity import cpu_model

Verdict = Literal["ok", "warning", "refused"]

_EXIT_CODES: dict[Verdict, int] = {"ok": 0, "warning": 1, "refused": 2}
_WORST: dict[int, Verdict] = {code: verdict for verdict, code in _EXIT_CODES.items()}
_COLOURS: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "refused": "red"}

# Of features, and of files that do not belong there: a wide model has thousands.
_MOST_SHOWN = 100


@dataclass(frozen=True)
class Finding:
    """mend: what can be done about it, unless it is well."""

    subject: str
    verdict: Verdict
    text: str
    mend: str = ""


@dataclass
class Report:
    """measured: of loading it, where it was loaded."""

    findings: list[Finding] = field(default_factory=list)
    measured: Measured | None = None

    def ok(self, subject: str, text: str) -> None:
        self.findings.append(Finding(subject, "ok", text))

    def warn(self, subject: str, text: str, mend: str) -> None:
        self.findings.append(Finding(subject, "warning", text, mend))

    def refuse(self, subject: str, text: str, mend: str) -> None:
        self.findings.append(Finding(subject, "refused", text, mend))

    def to_json(self) -> dict[str, Any]:
        measured = None if self.measured is None else self.measured.model_dump()
        return {
            "exit_code": self.exit_code,
            "verdict": self.verdict,
            "findings": [asdict(found) for found in self.findings],
            "measured": measured,
        }

    @property
    def exit_code(self) -> int:
        return max((_EXIT_CODES[found.verdict] for found in self.findings), default=0)

    @property
    def verdict(self) -> str:
        """All of it in a sentence."""
        counts = Counter(found.verdict for found in self.findings)
        if counts["refused"]:
            return f"Serving would refuse it: {counts['refused']} refused."
        if counts["warning"]:
            return f"It can be served, with {counted(counts['warning'], 'warning')}."
        return "It can be served."


def check(path: str, *, allow_pickle: bool = False, allow_code: bool = False) -> Report:
    """Look at the artefact that PATH means; nothing of it is executed that serving would not.

    Raises ArtifactError where there is none, or its manifest cannot be read.
    """
    artifact = repository.find(path)
    manifest = artifact.manifest
    report = Report()
    report.ok("artefact", f"{manifest.name} {manifest.version} at {artifact.folder}")
    report.ok("model", f"{manifest.model_type}, {_features(manifest)}")
    report.ok("answer", ", ".join(_answer_fields(manifest)))
    report.ok("trained", manifest.training_date.isoformat(timespec="seconds"))
    for metric in manifest.metrics:
        report.ok(metric.name, f"{metric.value:.6g} on {metric.data}")
    _check_files(artifact, report)
    _check_pickles(artifact, report)
    _check_libraries(manifest, report)
    _check_model(artifact, report, allow_pickle, allow_code)
    return report


def refusal(error: ArtifactError) -> Report:
    """Of what is no artefact, or has a manifest that cannot be read."""
    report = Report()
    report.refuse("artefact", *_parted(str(error)))
    return report


def show(report: Report, console: Console) -> None:
    rows = []
    for found in report.findings:
        told = f"{found.text.rstrip('.')}. {found.mend}" if found.mend else found.text
        rows.append((Text(found.verdict, _COLOURS[found.verdict]), Text(found.subject), Text(told)))
    telling.show_columns(rows, console)
    console.print(Text(report.verdict, _COLOURS[_WORST[report.exit_code]]))


def counted(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _features(manifest: Manifest) -> str:
    names = [
        f"{feature.name} ({feature.type}{', may be null' if feature.nullable else ''})"
        for feature in manifest.signature.features
    ]
    shown = names[:_MOST_SHOWN]
    others = len(names) - len(shown)
    more = f" and {others} more" if others else ""
    return f"{counted(len(names), 'feature')}: {', '.join(shown)}{more}"


def _answer_fields(manifest: Manifest) -> tuple[str, ...]:
    """In the order of an answer."""
    renderer = Renderer(manifest.targets, manifest.output)
    warnings = (WARNINGS,) if manifest.signature.may_warn else ()
    return (*renderer.own_fields, *COMMON_FIELDS, *warnings)


def _check_files(artifact: Artifact, report: Report) -> None:
    for name in sorted(artifact.manifest.files):
        try:
            size = len(artifact.read(name))
        except ArtifactError as error:
            report.refuse(name, *_parted(str(error)))
        else:
            report.ok(name, f"{size:,} bytes, sha256 as packed")
    for name in artifact.strangers()[:_MOST_SHOWN]:
        text = "not named in the manifest, so nothing reads it and nothing vouches for it"
        report.warn(name, text, "Remove it, unless you put it there yourself.")


def _check_pickles(artifact: Artifact, report: Report) -> None:
    """What they would import, whether or not they may be loaded."""
    tell = report.warn if artifact.manifest.engine == "onnx" else report.refuse
    for name, format in artifact.manifest.model_files.items():
        if format != "joblib":
            continue
        try:
            found = pickles.imports(artifact.read(name))
        except ArtifactError as error:
            if isinstance(error, UntrustedModel):  # an altered file was told of already
                tell("pickle", str(error), _AS_SKOPS)
            continue
        text = f"imports {', '.join(found.names) or 'nothing'}"
        if found.refused:
            text = f"{text}; no model needs {pickles.listed(found.refused)}"
            tell("pickle", text, _AS_SKOPS)
            continue
        text = f"{text}; that nothing else was found does not make it harmless"
        if found.others:
            others = pickles.listed(found.others)
            report.warn("pickle", text, f"Look at {others}: no library of models has that.")
        else:
            report.ok("pickle", text)


_AS_SKOPS = "Do not load it unless you made it; pack the model as skops."


def _check_libraries(manifest: Manifest, report: Report) -> None:
    for library, packed in manifest.libraries.items():
        found = libraries.installed(library)
        line = f"{libraries.installed_as(library)}=={packed}"
        mend = f'Install what it was packed with: pip install "{line}"; or pack it again here.'
        if found is None and manifest.engine == "onnx" and library not in libraries.OF_GRAPHS:
            report.ok(library, f"packed with {packed}, not installed here; the graph needs none")
        elif found is None:
            report.warn(library, f"packed with {packed}, not installed here", mend)
        elif found == packed:
            report.ok(library, f"{found}, as packed")
        else:
            report.warn(library, f"packed with {packed}, {found} is installed here", mend)


def _check_model(artifact: Artifact, report: Report, allow_pickle: bool, allow_code: bool) -> None:
    """Load and prove it in another process, unless something that stands before that refused it."""
    manifest = artifact.manifest
    if report.exit_code == _EXIT_CODES["refused"]:
        return
    report.measured = found = measuring.apart(
        artifact, allow_pickle=allow_pickle, allow_code=allow_code
    )
    if found.refusal is not None:
        told = (found.text, _AS_PACKED) if found.refusal == "loading" else _parted(found.text)
        report.refuse(found.refusal, *told)
        return
    _tell_trust(manifest, report)
    if manifest.parity.unproven:
        text = "none: it was packed without sample rows, so nothing shows that it is the same"
        report.warn("golden rows", text, "Pack it with rows of its training data: --data ROWS.csv.")
    else:
        report.ok("golden rows", _parity(manifest, found))
    for tried in manifest.parity.tried:
        made = f" ({tried.converter})" if tried.converter else ""
        report.ok(f"{tried.engine} engine{made}", _tried(tried))
    if found.worker_mib is not None and found.model_mib is not None:
        report.ok("memory", _memory(found))
    report.ok("load", f"{found.load_s:.2f} s until it can answer")
    report.ok("one row", f"{found.row_us:,.0f} µs now")
    report.ok("batch", f"{found.batch_us:,.0f} µs for {found.batch_rows:,} rows now")


def _memory(found: Measured) -> str:
    """What a worker costs, and what another one beside it does."""
    told = f"a worker takes {found.worker_mib:.0f} MiB, {found.model_mib:.0f} of it for the model"
    if found.forked_mib is None:
        return f"{told}; each further worker takes as much"
    adds = f"{found.forked_mib:.0f} MiB"
    return f"{told}; each further worker shares most of it and adds at least {adds}"


def _tell_trust(manifest: Manifest, report: Report) -> None:
    """Of what serving opens: a lowered model's original stays closed."""
    formats = ", ".join(manifest.model_files.values())
    if manifest.engine == "onnx":
        report.ok("trust", "onnx: data only")
    elif manifest.function is not None:
        text = f"runs {manifest.function}, code of the user's own"
        report.warn("trust", text, _ONLY_KNOWN_CODE)
    elif any(name.startswith(carried.PREFIX) for name in manifest.files):
        text = "runs modules of the user's own, in the folder code"
        report.warn("trust", text, _ONLY_KNOWN_CODE)
    elif "joblib" in manifest.model_files.values():
        mend = "Pack it as skops, or serve it with --allow-pickle if you trust who made it."
        report.warn("trust", "joblib: runs code of the file when loaded", mend)
    else:
        report.ok("trust", f"{formats}: data only")


_ONLY_KNOWN_CODE = "Read it, and serve it with --allow-code if you trust who made it."


def _parted(text: str) -> tuple[str, str]:
    """What an error says is wrong, and what it says to do, which stands behind it."""
    wrong, _, mend = text.partition(". ")
    if not mend:
        return text, _AS_PACKED
    return f"{wrong}.", mend


_AS_PACKED = "Restore the files as they were packed, or pack the model again here."


def _tried(tried: Tried) -> str:
    if not tried.equal:
        return tried.why or "not equal"
    return (
        f"{'within the tolerance' if tried.converter else 'equal'}, "
        f"largest difference {tried.max_difference:g}, {tried.row_us:,.0f} µs a row when "
        "packed"
    )


def _parity(manifest: Manifest, found: Measured) -> str:
    parity = manifest.parity
    drawn = ""
    if parity.n_hard_rows < parity.n_hard_rows_known:
        drawn = f"; {parity.n_hard_rows:,} of {parity.n_hard_rows_known:,} hard rows were tried"
    return (
        f"all {parity.n_rows} reproduced by the {manifest.engine} engine, class "
        f"{parity.shown_class}, largest difference {found.difference:g} (packed on {parity.cpu}, "
        f"{cpu_model()} here){drawn}"
    )
