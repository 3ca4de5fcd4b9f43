"""The README's curls against a real server, and its own model served."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from examples.churn import data, train
from tests.documentation import PAGES, Block, all_blocks, blocks
from tests.end_to_end.conftest import Server

README = blocks(PAGES[0])
SERVING = next(page for page in PAGES if page.name == "serving.md")


def shape(value: Any) -> Any:
    """The names and kinds of a JSON value: numbers and ids differ from run to run."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


def curls() -> list[tuple[str, Block | None]]:
    """Each curl of the README, with the answer that is printed below it, if one is."""
    found = []
    for block, following in zip(README, [*README[1:], None], strict=True):
        commands = [line for line in block.commands() if line.startswith("curl ")]
        shown = following if following is not None and following.language == "json" else None
        found += [(command, shown) for command in commands]
    return found


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.train_and_pack(
        data.generate(1500), tmp_path_factory.mktemp("models"), "1.2.3", "generated data"
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curls_of_the_readme_answer_as_it_says(serve: Callable[..., Server], churn: Path):
    server = serve(str(churn), "--request", "examples.churn.request:ChurnRequest")
    server.wait_until_ready()
    assert len(curls()) == 7
    for command, shown in curls():
        line = command.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=60, check=True)
        if shown is not None:
            assert shape(orjson.loads(done.stdout)) == shape(orjson.loads(shown.text)), command
        else:
            assert b'"error"' not in done.stdout, command


@pytest.mark.slow
def test_columns_reports_and_log_lines_are_as_documented(serve: Callable[..., Server], churn: Path):
    server = serve(str(churn), "--request", "examples.churn.request:ChurnRequest")
    server.wait_until_ready()
    record = {
        "tenure_months": 12,
        "monthly_charges": 65.5,
        "total_charges": 786.0,
        "contract_type": "Month-to-month",
        "customer_id": "7590-VHVEG",
    }
    told = [orjson.loads(block.text) for block in blocks(SERVING) if block.language == "json"]
    columns, report, documented = (
        next(one for one in told if key in one) for key in ("columns", "errors", "event")
    )
    server.post("/predict", record)
    assert server.post("/predict/batch", columns).status_code == 200
    bad = record | {"tenure_months": 1.5}
    answer = server.post("/predict/batch?on_error=report", [record, bad]).json()
    assert answer.keys() == report.keys()
    assert answer["predictions"][1].keys() == report["predictions"][1].keys()
    server.stop()
    line, *_ = [line for line in server.log_lines() if line["event"] == "prediction"]
    assert shape(line) == shape(documented)


@pytest.mark.slow
def test_the_readmes_own_model_is_served(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    [block] = [block for block in README if block.language == "python"]
    assert len([line for line in block.text.splitlines() if line]) <= 10
    exec(compile(block.text, "README.md", "exec"), {"__name__": "readme"})
    [command] = [
        line
        for found in all_blocks("sh")
        for line in found.commands()
        if line.endswith("models/iris")
    ]
    server = serve(*command.split()[2:]).wait_until_ready()
    example = server.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]
    record = next(iter(example["content"]["application/json"]["examples"].values()))["value"]
    assert set(server.post("/predict", record).json()["probabilities"]) == {"0", "1", "2"}
