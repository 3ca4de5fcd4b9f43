import re
import shlex
from pathlib import Path

import click
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

import tabserve
from tabserve import checking, differing, measuring
from tabserve.artifact import Artifact
from tabserve.cli import main
from tabserve.metrics import Metrics
from tests import settings_page
from tests.documentation import PAGES, ROOT, all_blocks


def test_the_settings_page_is_made_from_the_table():
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page.page(), "run scripts/docs"


def test_the_python_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for block in all_blocks("python"):
        exec(compile(block.text, str(block.page), "exec"), {"__name__": "documentation"})
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["iris", "tumour"]


@pytest.mark.parametrize(
    "line",
    [
        command
        for block in all_blocks("sh")
        for command in block.commands()
        if command.startswith("tabserve ")
    ],
)
def test_a_documented_command_has_its_flags(line: str):
    command: click.Command = main
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    known = {flag for parameter in command.params for flag in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_file(page: Path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_json_of_check_and_diff_has_the_documented_keys() -> None:
    page = (ROOT / "docs" / "trust.md").read_text()
    keys = {
        *checking.Report().to_json(),
        *(f"measured.{key}" for key in measuring.Measured.model_fields),
        *differing.Differences.model_fields,
        *(f"answers[].{key}" for key in differing.Answers.model_fields),
    }
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall("`([^`]+)`", row)}
    assert documented - {"--json", "code/"} == keys


def test_every_metric_is_documented() -> None:
    body, _ = Metrics().exposition("")
    told = re.findall(r"^# TYPE (\S+)", body.decode(), re.MULTILINE)
    section = (ROOT / "docs" / "serving.md").read_text().partition("## Metrics")[2]
    documented = tuple(re.findall(r"`(tabserve_\w+)[*{`]", section))
    # When a counter was made, which the library adds, is no metric of ours.
    own = [name for name in told if not name.endswith("_created")]
    assert [name for name in own if not name.startswith(documented)] == []


def test_the_documented_signature_is_one_of_the_churn_model(
    tmp_path: Path, pipeline: Pipeline, customers: pd.DataFrame
) -> None:
    (example,) = [block.text for block in all_blocks("toml") if "[features." in block.text]
    (tmp_path / "signature.toml").write_text(example)
    folder = tabserve.pack(
        pipeline, tmp_path, name="churn", version="1", data=customers, target="churn",
        signature=tmp_path / "signature.toml",
    )  # fmt: skip
    tenure, _, total, contract = Artifact(folder).manifest.signature.features
    assert (tenure.range, total.default, contract.unknown) == ("refuse", 0.0, "refuse")
