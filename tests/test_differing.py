"""`tabserve diff`: what is another between two artefacts, and the exit code."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from sklearn.tree import DecisionTreeClassifier

import tabserve
from tabserve import differing
from tests.forging import edit_manifest


def test_a_version_is_like_itself(repository: Path) -> None:
    found = differing.diff(str(repository), str(repository), allow_pickle=False, allow_code=False)
    assert (found.exit_code, found.changes) == (0, [])
    assert [answers.largest_difference for answers in found.answers] == [0.0, 0.0]


def test_a_breaking_change_ends_with_2_and_is_told(repository: Path, tmp_path: Path) -> None:
    from tabserve.cli import main

    other = shutil.copytree(repository / "churn" / "1.2.3", tmp_path / "1.2.4")
    edit_manifest(other, lambda manifest: manifest["output"].update(name="risk"))
    run = CliRunner().invoke(main, ["diff", str(repository), str(other), "--json"])
    told = json.loads(run.output)
    assert run.exit_code == 2
    assert {"place": "output.churn_probability", "text": "removed", "breaking": True} in (
        told["changes"]
    )
    shown = CliRunner().invoke(main, ["diff", str(repository), str(other)])
    assert "breaking output.churn_probability: removed" in shown.output
    assert "model  Pipeline(RandomForestClassifier)  Pipeline(" in re.sub(
        " {2,}", "  ", shown.output
    )


def test_what_cannot_be_loaded_is_told(repository: Path, tmp_path: Path) -> None:
    other = shutil.copytree(repository / "churn" / "1.2.3", tmp_path / "1.2.4")
    (other / "model.onnx").write_bytes(b"")
    found = differing.diff(str(repository), str(other), allow_pickle=False, allow_code=False)
    assert found.exit_code == 1
    assert "was changed after packing" in (found.answers[0].why_not or "")


@pytest.mark.parametrize(("positive", "why_not"), [
    ("a", None), ("b", "The answers are of other kinds."),
])  # fmt: skip
def test_probabilities_of_other_classes_are_not_compared(
    positive: str, why_not: str | None, tmp_path: Path
) -> None:
    rows = [[float(x)] for x in range(20)]
    model = DecisionTreeClassifier().fit(rows, ["a", "b"] * 10)
    for version, of in (("1", "a"), ("2", positive)):
        output = tabserve.Output(name="p", positive=of)
        tabserve.pack(model, tmp_path, name="m", version=version, data=rows, output=output)

    found = differing.diff(
        str(tmp_path / "m" / "1"), str(tmp_path / "m" / "2"), allow_pickle=False, allow_code=False
    )

    assert [answers.why_not for answers in found.answers] == [why_not] * 2
