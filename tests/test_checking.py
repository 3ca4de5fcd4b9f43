"""`tabserve check`: what it says, and the exit code by which a pipeline decides."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

import tabserve
from tabserve import measuring, runtime
from tabserve.artifact import Artifact
from tabserve.checking import Finding, Report, check, show
from tabserve.errors import ArtifactError
from tests.forging import edit_manifest
from tests.test_packing import NUMBERS, TARGET


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is not lowered, so that serving opens its pickle."""
    model = KNeighborsClassifier(2).fit(NUMBERS, TARGET)
    out = tmp_path_factory.mktemp("pickled")
    return tabserve.pack(model, out, name="m", version="1", data=NUMBERS, format="joblib")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own would import every library anew, for each test."""

    def measured(artifact: Artifact, *, allow_pickle: bool, allow_code: bool) -> measuring.Measured:
        return measuring.here(artifact.folder, allow_pickle, allow_code)

    monkeypatch.setattr(measuring, "apart", measured)


here = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    return shutil.copytree(repository / "churn" / "1.2.3", tmp_path / "churn" / "1.2.3")


def findings(path: Path, **options: Any) -> dict[str, Finding]:
    found = {found.subject: found for found in check(str(path), **options).findings}
    assert [one for one in found.values() if bool(one.mend) != (one.verdict != "ok")] == []
    return found


def test_a_sound_artefact_is_told_in_full_and_ends_with_0(folder: Path, pipeline: Pipeline) -> None:
    report = check(str(folder.parents[1]))
    texts = {found.subject: found.text for found in report.findings}
    assert report.exit_code == 0
    assert {found.verdict for found in report.findings} == {"ok"}
    assert texts["artefact"] == f"churn 1.2.3 at {folder}"
    assert texts["model"] == (
        "Pipeline(RandomForestClassifier), 4 features: tenure_months (integer, may be null), "
        "monthly_charges (number, may be null), total_charges (number, may be null), "
        "contract_type (string)"
    )
    assert texts["answer"] == (
        "churn_probability, risk_category, model_version, prediction_id, prediction_timestamp"
    )
    assert texts["trust"] == "onnx: data only"
    assert "reproduced by the onnx engine, class bits, largest difference 0" in texts["golden rows"]
    assert texts["native engine"].startswith("equal, largest difference 0, ")
    assert texts["onnx engine"].startswith("equal, largest difference 0, ")


@here
def test_another_version_of_a_library_is_a_warning_and_ends_with_1(folder: Path) -> None:
    found = Artifact(folder).manifest.libraries["sklearn"]
    others = {"sklearn": "1.0.0", "onnxruntime": "1.0.0", "no-such-library": "2.0"}
    edit_manifest(folder, lambda manifest: manifest["libraries"].update(others))
    report = check(str(folder))
    warnings = {row.subject: row.text for row in report.findings if row.verdict == "warning"}
    mend = findings(folder)["sklearn"].mend
    assert report.exit_code == 1
    assert mend.startswith('Install what it was packed with: pip install "scikit-learn==1.0.0"')
    assert warnings == {
        "sklearn": f"packed with 1.0.0, {found} is installed here",
        "onnxruntime": f"packed with 1.0.0, {runtime.VERSION} is installed here",
    }
    told = findings(folder)["no-such-library"]
    text = "packed with 2.0, not installed here; the graph needs none"
    assert (told.verdict, told.text) == ("ok", text)
    assert report.verdict == "It can be served, with 2 warnings."


@here
def test_files_that_the_manifest_does_not_name_are_told(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")
    (folder / "cache").mkdir()
    (folder / "cache" / "deep").symlink_to("/etc")
    warned = [name for name, row in findings(folder).items() if row.verdict == "warning"]
    assert warned == ["cache", "notes.txt"]
    assert check(str(folder)).exit_code == 1


@pytest.mark.parametrize("name", ["model.skops", "golden.jsonl"])
def test_an_altered_file_is_refused_and_not_loaded_and_ends_with_2(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    report = check(str(folder))
    refused = {row.subject: row.text for row in report.findings if row.verdict == "refused"}
    assert report.exit_code == 2
    assert list(refused) == [name]
    assert "was changed after packing" in refused[name]
    found = findings(folder)
    assert found[name].mend == "Pack the model again, or restore the file."
    assert "golden rows" not in found


@here
def test_a_pickle_is_refused_unless_allowed_and_a_warning_then(pickled: Path) -> None:
    refused = findings(pickled)["trust"]
    assert (refused.verdict, "--allow-pickle" in refused.mend) == ("refused", True)
    allowed = findings(pickled, allow_pickle=True)
    assert allowed["trust"].verdict == "warning"
    assert allowed["trust"].text == "joblib: runs code of the file when loaded"
    assert allowed["golden rows"].verdict == "ok"


@here
def test_golden_rows_that_do_not_come_out_end_with_2(folder: Path) -> None:
    edit_manifest(
        folder, lambda manifest: manifest["signature"]["features"][0].update(type="boolean")
    )
    found = findings(folder)["golden rows"]
    assert found.verdict == "refused"
    assert "tenure_months: Input should be a valid boolean" in found.text


@here
def test_what_was_measured_and_the_imports_of_a_pickle_are_told(pickled: Path) -> None:
    told = check(str(pickled), allow_pickle=True).to_json()
    found = {one["subject"]: one["text"] for one in told["findings"]}
    assert "sklearn.neighbors._classification.KNeighborsClassifier" in found["pickle"]
    assert "does not make it harmless" in found["pickle"]
    assert {"memory", "one row", "batch", "load"} <= found.keys()
    assert told["exit_code"] == 1
    assert told["measured"]["worker_mib"] > told["measured"]["model_mib"]
    assert 0 < told["measured"]["forked_mib"] < told["measured"]["worker_mib"]
    assert told["verdict"] == "It can be served, with 1 warning."


@here
def test_a_graph_costs_each_further_worker_less(folder: Path) -> None:
    report = check(str(folder))
    measured = report.measured
    assert measured is not None
    assert measured.forked_mib is not None and measured.worker_mib is not None
    assert 0 < measured.forked_mib < measured.worker_mib
    (memory,) = (found.text for found in report.findings if found.subject == "memory")
    assert memory.endswith(f"shares most of it and adds at least {measured.forked_mib:.0f} MiB")


def test_a_model_that_ends_its_process_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring.sys, "executable", "/bin/false")
    found = findings(folder)["loading"]
    assert (found.verdict, found.text) == (
        "refused", "The process that loaded it ended with code 1."
    )  # fmt: skip


def test_a_path_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Expected a packed model"):
        check(str(tmp_path))


def test_the_table_shows_brackets_as_they_are() -> None:
    console = Console(record=True, width=200, file=None, quiet=False)
    with console.capture() as capture:
        show(Report([Finding("x", "warning", "[red]x[/red], not [0.5]", "Say [1].")]), console)
    first, last = capture.get().splitlines()
    assert first.split() == ["warning", "x", "[red]x[/red],", "not", "[0.5].", "Say", "[1]."]
    assert last == "It can be served, with 1 warning."


def test_a_finding_is_one_whole_line_in_a_pipe_and_wrapped_in_a_terminal() -> None:
    text = f"imports {'sklearn.' * 9}Tree and no more"
    report = Report([Finding("pickle", "ok", text), Finding("x", "refused", "y", "z.")])
    piped, terminal = (Console(width=40, force_terminal=forced) for forced in (False, True))
    with piped.capture() as lines:
        show(report, piped)
    with terminal.capture() as wrapped:
        show(report, terminal)
    assert lines.get().splitlines() == [
        f"ok       pickle  {text}", "refused  x       y. z.",
        "Serving would refuse it: 1 refused.",
    ]  # fmt: skip
    assert "…" not in wrapped.get()
    assert max(map(len, Text.from_ansi(wrapped.get()).plain.splitlines())) <= 40


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [([], 0), (["ok"], 0), (["ok", "warning"], 1), (["refused", "warning"], 2)],
)
def test_the_worst_finding_decides_the_exit_code(verdicts: list[Any], code: int) -> None:
    assert Report([Finding("x", verdict, "") for verdict in verdicts]).exit_code == code
