"""Each benchmark prints its lines; what it measures is for people to read."""

from pathlib import Path

import pytest

from benchmarks import batches, cost, footprint, models, reload, workers
from examples.churn import data


def cells(printed: str) -> list[list[str]]:
    """Of the lines of Markdown tables, without their rules."""
    lines = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines]


def test_models_prints_a_line_for_each_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.generate(1100).to_csv(tmp_path / "telco.csv", index=False)
    words = ["--data", str(tmp_path / "telco.csv"), "--rounds", "1", "--seconds", "0", "--no-http"]

    models.main([*words, "--models", "LogisticRegression", "LightGBM"])

    header, *lines = cells(capsys.readouterr().out)
    assert [line[:3] for line in lines] == [
        ["LogisticRegression", "onnx", "close"],
        ["LightGBM", "onnx", "close"],
    ]
    assert {len(line) for line in lines} == {len(header)}


def test_cost_prints_a_line_for_each_size_and_draws_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trees", "1", "2", "--features", "4", "--rows", "1", "10", "--rounds", "1"]

    cost.main([*words, "--seconds", "0", "--plot", str(tmp_path / "cost.svg")])

    _, *lines = cells(capsys.readouterr().out)
    assert [line[:2] for line in lines] == [
        ["trees: 1", "1"],
        ["trees: 1", "1,000"],
        ["trees: 2", "1"],
        ["trees: 2", "1,000"],
        ["features: 4", "1"],
        ["features: 4", "1,000"],
        ["rows: 1", "1"],
        ["rows: 10", "10"],
    ]
    assert "</svg>" in (tmp_path / "cost.svg").read_text()


def test_footprint_prints_floors_beside_figures(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    footprint.main(["--model", str(repository), "--starts", "1", "--no-install"])

    _, *lines = cells(capsys.readouterr().out)
    assert [(line[0], *line[2:]) for line in lines] == [
        ("start to the first answer, s", "0.6", "0.35"),
        ("of the bare ASGI app", "", ""),
        ("memory of one worker, RSS, MiB", "130", "90"),
        ("PSS", "", ""),
        ("memory of two workers and what supervises them, PSS, MiB", "", ""),
        ("more than of one worker", "40", ""),
    ]


@pytest.mark.slow
def test_batches_prints_floors_beside_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    data.generate(1100).to_csv(tmp_path / "telco.csv", index=False)

    batches.main(["--data", str(tmp_path / "telco.csv"), "--rounds", "1", "--seconds", "0"])

    _, *lines = cells(capsys.readouterr().out)
    assert [(line[0], *line[3:]) for line in lines[:3]] == [
        ("pipeline.predict_proba", "", ""),
        ("records", "0.65", "0.45"),
        ("columns", "0.5", "0.38"),
    ]
    assert len(lines) == 9


@pytest.mark.slow
def test_workers_prints_what_each_takes(capsys: pytest.CaptureFixture[str]) -> None:
    workers.main(["--engines", "onnx", "--rows", "200", "--trees", "2", "--workers", "2"])

    _, *lines = cells(capsys.readouterr().out)
    assert [line[:2] for line in lines] == [["onnx", "1"], ["onnx", "2"]]
    assert len(lines[1][3].split(", ")) == 2


@pytest.mark.slow
def test_reload_prints_what_a_change_of_versions_costs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    reload.main(["--loads", "1", "--reloads", "1", "--models", "2", "--rounds", "0"])

    _, *lines = cells(capsys.readouterr().out)
    assert [line[0] for line in lines] == [
        "median latency before, ms",
        "while a version is loaded, ms",
        "ratio",
        lines[3][0],
        "memory after the first reload, MiB",
        "after 1, more by MiB",
        "start to ready of 2 small models, s",
        "memory, RSS, MiB",
    ]
    assert (lines[3][0].startswith("requests that failed of"), lines[3][1]) == (True, "0")
