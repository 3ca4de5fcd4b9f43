"""A loaded model has reproduced its golden rows, or is refused with a sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from tabserve.artifact import Artifact
from tabserve.errors import ArtifactError, NotReproduced, UntrustedModel
from tabserve.loading import load
from tabserve.repository import find
from tests.forging import edit_manifest, forge


@pytest.fixture
def models(repository: Path, tmp_path: Path) -> Path:
    """A repository that the test may change."""
    return shutil.copytree(repository, tmp_path / "models")


def golden_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]


def forge_golden(folder: Path, rows: list[dict[str, Any]]) -> None:
    forge(folder, "golden.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def test_a_loaded_model_has_reproduced_its_golden_rows(models: Path) -> None:
    loaded = load(find(models))
    assert (loaded.difference, loaded.manifest.parity.exactness) == (0.0, "bits")


def test_a_golden_row_altered_with_its_hash_is_not_reproduced_and_named(models: Path) -> None:
    folder = models / "churn" / "1.2.3"
    rows = golden_rows(folder)
    rows[4]["outputs"]["proba"] += 1e-15
    forge_golden(folder, rows)
    with pytest.raises(NotReproduced, match=r"row 5 of golden\.jsonl, proba: expected"):
        load(Artifact(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["row"].update(contract_type="Weekly"), "contract_type"),
        (lambda row: row["row"].update(surprise=1), "other features"),
        (lambda row: row["row"].pop("contract_type"), "other features"),
        (lambda row: row["row"].update(tenure_months="12"), "tenure_months"),
    ],
)
def test_a_golden_row_that_does_not_fit_the_model_is_refused(
    models: Path, change: Any, message: str
) -> None:
    folder = models / "churn" / "1.2.3"
    rows = golden_rows(folder)
    change(rows[2])
    forge_golden(folder, rows)
    with pytest.raises(ArtifactError, match=rf"Row 3 of golden.jsonl .*{message}"):
        load(Artifact(folder))


@pytest.mark.parametrize("outputs", [{}, {"label": "Yes"}, {"proba": [0.5]}, {"proba": 0.5}])
def test_golden_rows_that_prove_nothing_are_refused(models: Path, outputs: dict[str, Any]) -> None:
    folder = models / "churn" / "1.2.3"
    forge_golden(folder, [row | {"outputs": outputs} for row in golden_rows(folder)])
    with pytest.raises(NotReproduced):
        load(Artifact(folder))
    forge_golden(folder, [])
    with pytest.raises(ArtifactError, match="no rows"):
        load(Artifact(folder))


@pytest.mark.parametrize(
    ("operator", "sentence"),
    [("Loop", "has the operator Loop"), ("Add", "is no graph that onnxruntime can compute")],
)
def test_a_graph_is_checked_before_it_is_loaded(models: Path, operator: str, sentence: str) -> None:
    folder = models / "churn" / "1.2.3"
    graph = onnx.load(folder / "model.onnx")
    graph.graph.node[0].op_type, graph.graph.node[0].domain = operator, ""
    forge(folder, "model.onnx", graph.SerializeToString())

    with pytest.raises(ArtifactError, match=sentence):
        load(Artifact(folder))


def test_a_model_file_that_is_no_skops_file_is_untrusted(models: Path) -> None:
    folder = models / "churn" / "1.2.3"
    forge(folder, "model.skops", b"cos\nsystem\n(S'true'\ntR.")
    edit_manifest(folder, lambda manifest: manifest.update(engine="native", lowered=None))
    with pytest.raises(UntrustedModel, match="no skops file"):
        load(Artifact(folder))


def test_what_loads_lets_others_go_first_after_each_row(repository: Path) -> None:
    artifact, pauses = find(repository), []

    load(artifact, pause=lambda: pauses.append(None))

    assert len(pauses) == len(artifact.golden().rows) > 1
